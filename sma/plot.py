"""A small plotting surface on Pillow: text, lines, boxes, pictures, axes, colour bars."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

WHITE, INK, GREY, FAINT = (255, 255, 255), (38, 42, 51), (106, 112, 124), (222, 225, 231)
BLUE, ORANGE = (45, 104, 190), (214, 104, 18)
DIVERGING = ((26, 76, 150), (96, 160, 206), (246, 246, 246), (238, 132, 92), (168, 20, 42))
SEQUENTIAL = ((24, 15, 62), (96, 27, 116), (178, 52, 104), (243, 112, 72), (253, 205, 114), (252, 253, 191))

_SHARP = 2  # drawn this many times larger, then reduced: smooth lines and letters


class Plot:
    """A white sheet of `width` x `height` pixels with a title; all positions are pixels from the upper left."""

    def __init__(self, width: int, height: int, title: str = "", caption: str = "") -> None:
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width * _SHARP, height * _SHARP), WHITE)
        self._draw = ImageDraw.Draw(self._image)
        self.text((24, 34), title, size=25)
        self.text((24, 64), caption, size=16, colour=GREY)

    def finish(self) -> Image.Image:
        return self._image.resize((self.width, self.height), Image.Resampling.LANCZOS)

    def text(
        self, at: tuple[float, float], text: str, *, size: int = 15, anchor: str = "lm", colour: Colour = INK
    ) -> None:
        """Latin text (Pillow's font has little else), `anchor` as in Pillow: "lm" is left and middle, "mm" the centre."""
        self._draw.text(_scaled(at), text, font=_font(size), anchor=anchor, fill=colour)

    def upright_text(self, at: tuple[float, float], text: str, *, size: int = 15, colour: Colour = INK) -> None:
        """Text that reads upwards, centred at a point."""
        font = _font(size)
        left, top, right, bottom = font.getbbox(text)
        label = Image.new("L", (round(right - left) + 4, round(bottom - top) + 4))
        ImageDraw.Draw(label).text((2 - left, 2 - top), text, font=font, fill=255)
        label = label.rotate(90, expand=True)
        x, y = _scaled(at)
        self._image.paste(colour, (round(x - label.width / 2), round(y - label.height / 2)), label)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float = 1) -> None:
        self._draw.line([_scaled(p) for p in points], fill=colour, width=round(width * _SHARP), joint="curve")

    def box(self, box: Box, colour: Colour) -> None:
        self._draw.rectangle(_scaled(box), fill=colour)

    def picture(self, pixels: np.ndarray, box: Box) -> None:
        """Pixels [H, W, 3], uint8, drawn into a box: enlarged ones keep their squares, others are smoothed."""
        x, y, right, bottom = (round(v) for v in _scaled(box))
        image = Image.fromarray(pixels)
        enlarged = right - x >= image.width
        resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        self._image.paste(image.resize((right - x, bottom - y), resampling), (x, y))

    def time_axis(self, steps: int, box: Box) -> None:
        """Names the frame pairs 1-2, 2-3, ... below a box of `steps` equal columns."""
        left, _, right, bottom = box
        pitch = (right - left) / steps
        every = max(1, -(-64 * steps // int(right - left)))
        for i in range(0, steps, every):
            self.text((left + (i + 0.5) * pitch, bottom + 18), f"{i + 1}-{i + 2}", anchor="mm", size=14)
        self.text(((left + right) / 2, bottom + 46), "frame pair", anchor="mm")

    def value_axis(self, low: float, high: float, box: Box) -> None:
        """Round values from low to high with faint lines across a box."""
        left, upper, right, lower = box
        for value in ticks(low, high):
            y = lower - (value - low) / (high - low) * (lower - upper)
            self.line([(left, y), (right, y)], FAINT)
            self.text((left - 10, y), f"{value:.3g}", anchor="rm", size=14)

    def colour_bar(self, stops: Sequence[Colour], box: Box, ends: tuple[float, float]) -> None:
        """A vertical scale with its values at both ends and in the middle, to the right of the box."""
        x, upper, right, lower = box
        self.picture(colours(stops, np.linspace(1, 0, 256)[:, None]), box)
        for share in (0.0, 0.5, 1.0):
            y = lower - share * (lower - upper)
            value = ends[0] + share * (ends[1] - ends[0])
            self.text((right + 6, y), f"{value:.2g}", size=13)


def colours(stops: Sequence[Colour], values: np.ndarray) -> np.ndarray:
    """Colours [..., 3], uint8, of values in 0..1 along evenly spaced stops; values outside are clamped."""
    places = np.linspace(0, 1, len(stops))
    channels = [np.interp(values, places, channel) for channel in zip(*stops, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def ticks(low: float, high: float) -> list[float]:
    """Three to six round values between low and high."""
    rough = (high - low) / 4
    unit = 10.0 ** floor(log10(rough))
    step = unit * min((1, 2, 2.5, 5, 10), key=lambda n: abs(n * unit - rough))
    first = int(np.ceil(low / step - 1e-9))
    return [i * step for i in range(first, int(np.floor(high / step + 1e-9)) + 1)]


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size * _SHARP)


def _scaled(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(v * _SHARP for v in values)
