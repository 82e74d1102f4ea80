"""What every source of frames gives: a film, its timed shots, and the words for its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from PIL import Image


@dataclass(frozen=True)
class Shot:
    """One frame: seconds after the film's first frame, and how to get its RGB picture (only of frames that are taken).

    Shots must be loaded in order, each before its film is closed.
    """

    time: Fraction
    load: Callable[[], Image.Image]


@dataclass(frozen=True)
class Film:
    """An open film: its shots in order, its mean frame rate, and what it holds in words ("91 frames at 29.97 fps")."""

    shots: Iterator[Shot]
    rate: Fraction
    holds: str


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
