"""Reading small YAML files that a user brings along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ...sma.checks import check_regular

# Bytes. The official configs have about 1500.
_LARGEST = 65_536


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        # A few lines of them that name each other stand for more values than any memory holds.
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it refers to parts of itself by *names, which are not read; write the values out")
        return super().compose_node(parent, index)


def read_yaml(path: Path, name: str) -> Any:
    """The content of a YAML file, as PyYAML's safe reader gives it.

    name: of the file, for messages.

    Raises:
        ValueError: it is gone, may not be read, is no plain file, too large, no YAML, or has aliases.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        reason = (error.strerror or "damaged").lower()
        raise ValueError(f"{name} cannot be read ({reason}). Check its permissions.") from error
    if len(content) > _LARGEST:
        raise ValueError(f"{name} has more than {_LARGEST} bytes, the most that is read. Choose a config file.")
    try:
        return yaml.load(content.decode("utf-8-sig"), _Loader)  # noqa: S506  a safe loader
    # Values that are not what their tags say raise anything in PyYAML.
    except (
        yaml.YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as error:
        raise ValueError(f"{name} is no YAML file{_where(error)}. Choose a .yml of the official configs.") from error


def _where(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f": something is wrong at line {mark.line + 1} or before it"
    return f": {error}" if type(error) is ValueError and "*names" in str(error) else ""
