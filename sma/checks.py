"""Checks that several modules make on what a user chose."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, get_args


def check_option(name: str, value: object, options: Any) -> None:
    """Refuse a value that is not among a Literal's.

    Raises:
        ValueError: names the value and the options.
    """
    if value not in get_args(options):
        raise ValueError(f"Unknown {name} {value!r}; use one of {', '.join(get_args(options))}.")


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number, or one that is too small.

    Raises:
        ValueError: names the value and the need.
    """
    if not isinstance(value, Integral):
        raise ValueError(f"{name} is {value!r}; it must be a whole number.")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}.")


def check_weight(name: str, value: float) -> None:
    """Refuse negative, infinite and NaN values.

    Raises:
        ValueError: names the value and the need.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}; it must be 0 or above and finite.")


def check_frames(frames: int) -> None:
    """Refuse a clip that is too short to hold motion.

    Raises:
        ValueError: fewer than 2 frames, or no whole number.
    """
    check_whole("frames", frames, 0)
    if frames < 2:
        raise ValueError(
            f"The clip has {frames} {'frame' if frames == 1 else 'frames'}; motion needs at least 2. "
            "Raise frame_count or pick a longer clip."
        )
