"""Cropping and resizing of pictures."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

Crop = Literal["centre", "stretch"]


def fitted(picture: np.ndarray, width: int, height: int, crop: Crop) -> np.ndarray:
    """The picture [H, W, 3], float32, 0..1, at another size; pixel for pixel where nothing needs resizing.

    Args:
        crop: "centre" keeps the aspect ratio and cuts the longer side, "stretch" keeps everything and distorts.
    """
    high, wide, _ = picture.shape
    box = (0, 0, wide, high)
    if crop == "centre":
        # Whole pixels: a box with fractions would blur a clip that needs no resizing.
        scale = min(wide / width, high / height)
        cut, cut_high = (max(1, round(side * scale)) for side in (width, height))
        left, top = (wide - cut) // 2, (high - cut_high) // 2
        box = (left, top, left + cut, top + cut_high)
    return resized(picture, width, height, box)


def resized(picture: np.ndarray, width: int, height: int, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """The picture [H, W, 3], or the box of it (left, top, right, bottom), at another size, by Lanczos without aliasing."""
    channels = [
        np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS, box=box))
        for channel in np.moveaxis(picture, -1, 0)
    ]
    return np.stack(channels, axis=-1).clip(0, 1)  # Lanczos overshoots at sharp edges
