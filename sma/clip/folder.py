"""Folders of images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .film import Film, Shot, counted, fraction, rate_text
from .picture import opaque

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


def natural_key(name: str) -> list[str | int]:
    """Sort key that puts "frame2" before "frame10"."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name.casefold()))]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order; other files are ignored."""
    return sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=lambda p: natural_key(p.name)
    )


@contextmanager
def open_folder(path: Path, fps: float) -> Iterator[Film]:
    files = image_files(path)
    if not files:
        raise ValueError(f"The folder {path.name} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    sizes: dict[tuple[int, int], str] = {}  # with the first image of each

    def load(file: Path) -> np.ndarray:
        with Image.open(file) as image:
            picture = opaque(ImageOps.exif_transpose(image))
        height, width, _ = picture.shape
        sizes.setdefault((width, height), file.name)
        if len(sizes) > 1:
            (a, first), (b, other) = sizes.items()
            raise ValueError(
                f"The images of {path.name} differ in size: {first} is {a[0]}x{a[1]}, {other} {b[0]}x{b[1]}. "
                "Use images of one size."
            )
        return picture

    rate = fraction(fps)
    shots = (Shot(i / rate, partial(load, file)) for i, file in enumerate(files))
    yield Film(shots, rate, f"{counted(len(files), 'image')} at {rate_text(rate)} fps")
