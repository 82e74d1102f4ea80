"""Checks that several modules make on what a user chose."""

from __future__ import annotations

from typing import Any, get_args


def check_option(name: str, value: object, options: Any) -> None:
    """Refuse a value that is not among a Literal's.

    Raises:
        ValueError: names the value and the options.
    """
    if value not in get_args(options):
        raise ValueError(f"Unknown {name} {value!r}; use one of {', '.join(get_args(options))}.")
