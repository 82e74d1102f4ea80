"""Checks that several modules make on what a user chose."""

from __future__ import annotations

import math
import os
import reprlib
import stat
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any, get_args

# What is written as Python writes it, beside containers.
_PLAIN = (bool, float, complex, bytes, bytearray, range, NoneType)


class _Short(reprlib.Repr):
    """Writes values on one line of bounded length, without walking through all of a large or self-containing one."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 4
        self.maxstring = self.maxlong = self.maxother = 60

    def repr1(self, x: object, level: int) -> str:
        if hasattr(x, "shape") and hasattr(x, "dtype"):
            return f"a tensor of {list(x.shape)}"
        return super().repr1(x, level)

    def repr_instance(self, x: object, level: int) -> str:
        # What others' objects say of themselves is for programmers: addresses in memory and places of code.
        if isinstance(x, _PLAIN):
            return super().repr_instance(x, level)
        return f"a value of kind {type(x).__name__}"

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out very long numbers.
        return repr(x) if x.bit_length() <= 200 else f"a number of {math.ceil(x.bit_length() * math.log10(2))} digits"


def shown(value: object) -> str:
    """Write a value for a message: on one line, about 100 characters at most."""
    text = " ".join(_Short().repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def size_text(size: float) -> str:
    """Write a number of bytes for a message: 58.0 GB, 920 KB."""
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def check_regular(path: Path) -> None:
    """Refuse what is no plain file: a pipe or a device could keep its reader waiting for ever.

    Raises:
        ValueError: it is something else, it is gone, or it may not be read.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} is gone or out of reach. Put it back, or choose another file.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise ValueError(f"{path.name} is {kind}; a plain file is needed. Choose another.")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path.name} may not be read by ComfyUI. Change its permissions.")


def check_option(name: str, value: object, options: Any) -> None:
    """Refuse a value that is not among a Literal's.

    Raises:
        ValueError: names the value and the options.
    """
    if value not in get_args(options):
        raise ValueError(f"Unknown {name} {value!r}; use one of {', '.join(get_args(options))}.")


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Refuse what is no whole number, or one that is too small or too large.

    Raises:
        ValueError: names the value and the need.
    """
    if not isinstance(value, Integral):
        raise ValueError(f"{name} is {value!r}; it must be a whole number.")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}.")
    if most is not None and value > most:
        raise ValueError(f"{name} is {shown(value)}; it must be at most {most}.")


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
