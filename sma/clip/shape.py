"""How a video is meant to be held and how wide its pixels are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from .fit import resized

_WIDEST = 10  # a pixel longer than this is a mistake in the file


@dataclass(frozen=True)
class Turn:
    """How a stored picture comes upright: its axes swapped, then its columns and rows reversed.

    Phones film sideways, and front cameras mirrored, and say so in the file.
    """

    swap: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Turn a picture [H, W, 3]."""
        if self.swap:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def turn_of(frame: av.VideoFrame) -> Turn:
    """Read the display matrix of a frame, to the nearest quarter turn."""
    a, b, c, d = _display_matrix(frame)
    # The stored point (x, y) is shown at (ax + cy, bx + dy); both axes point right and down.
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)


def tilt_of(frame: av.VideoFrame) -> int:
    """Degrees that a frame is to be turned beyond its quarter turns, which is not done; clockwise, -45..45."""
    a, b, _, _ = _display_matrix(frame)
    return round((math.degrees(math.atan2(b, a)) + 45) % 90 - 45)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # side data of a kind that this PyAV has no name for
        data = None
    if data is None:
        return {0: (1, 0, 0, 1), 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), -90: (0, 1, -1, 0)}.get(
            frame.rotation, (1, 0, 0, 1)
        )
    matrix = np.frombuffer(data, np.int32)
    return tuple(int(matrix[place]) for place in (0, 1, 3, 4))


def pixel_shape(ratio: Fraction | None) -> Fraction:
    """Width of a pixel in heights, 1 where the film says nothing or nonsense."""
    return ratio if ratio and 1 / Fraction(_WIDEST) <= ratio <= _WIDEST else Fraction(1)


def squared(picture: np.ndarray, pixel: Fraction) -> np.ndarray:
    """A picture [H, W, 3] of such pixels with square ones: widened, or heightened where they are tall. Nothing is cut or shrunk."""
    height, width, _ = picture.shape
    shown = (round(width * max(pixel, 1)), round(height / min(pixel, 1)))
    return picture if shown == (width, height) else resized(picture, *shown)


def pixel_text(pixel: Fraction) -> str:
    """its pixels are not square (64:45), widened"""
    done = "widened" if pixel > 1 else "heightened"
    return f"its pixels are not square ({pixel.numerator}:{pixel.denominator}), {done}"
