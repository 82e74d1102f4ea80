"""What every source of frames gives: a film, its timed shots, and the words for its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np

Damaged = Literal["refuse", "skip"]  # what to do at frames that cannot be read
Check = Callable[[], None]  # called again and again during a long work; what it raises, such as a cancel, ends the work


def no_check() -> None:
    """A check that never ends the work."""


@dataclass(frozen=True)
class Shot:
    """One frame: seconds after the film's first frame, and how to get its picture (only of frames that are taken).

    The picture is RGB [H, W, 3], float32, 0..1 by the depth of its own file. Shots must be loaded in order, each before its film is closed.
    """

    time: Fraction
    load: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Film:
    """An open film: its shots in order, its mean frame rate, and what it holds in words ("91 frames at 29.97 fps").

    `notes` is what else the clip's report says, such as "deinterlaced". `warnings` are those of them that a user
    needs to see beside the report. Both may grow while shots are read and loaded; each is a set in order of arrival.
    """

    shots: Iterator[Shot]
    rate: Fraction
    holds: str
    notes: dict[str, None] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)


def rate_text(fps: float | Fraction) -> str:
    return f"{float(fps):.5g}"


def seconds_text(time: float | Fraction) -> str:
    """2.0, 0.33"""
    return f"{float(time):.2f}".removesuffix("0")


def fraction(number: float) -> Fraction:
    """The short fraction that was meant: 2997/100 for 29.97, not the double next to it."""
    return Fraction(number).limit_denominator(10_000)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
