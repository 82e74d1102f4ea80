"""Animated gif and webp."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from .film import Check, Damaged, Film, Shot, counted, rate_text, seconds_text
from .formats import WHAT_IS_A_CLIP
from .picture import DAMAGE, no_half_pictures, opaque

_TIMING = b"\xf9"  # label of the gif block before a picture that holds its duration
_GIF_DEFAULT_MS = 100  # what browsers show a gif or webp frame for whose duration is 0 or 10 ms


@contextmanager
def open_animation(path: Path, damaged: Damaged, check: Check) -> Iterator[Film]:
    """Open an animated gif or webp.

    Args:
        damaged: "refuse" raises at a damaged frame. "skip" ends the film before it and tells: later frames build upon it.
        check: called for every frame that is decoded.
    """
    # Pillow, because FFmpeg cannot read animated webp. Moments come from the headers: Pillow would decode every frame.
    with Image.open(path, formats=("GIF", "WEBP")) as image:
        durations = _gif_durations(path) if image.format == "GIF" else _webp_durations(path)
        times = list(
            accumulate((Fraction(ms if ms > 10 else _GIF_DEFAULT_MS, 1000) for ms in durations), initial=Fraction(0))
        )

        total = len(times) - 1
        if total == 1:
            raise ValueError(f"{path.name} is a single picture. Choose {WHAT_IS_A_CLIP}.")

        def load(i: int) -> np.ndarray:
            try:
                with no_half_pictures():
                    for place in range(image.tell() + 1, i + 1):
                        check()
                        image.seek(place)
                    return opaque(image)
            except DAMAGE as error:
                raise ValueError(
                    f"{path.name} is cut short or damaged at frame {i + 1} of {total}, {seconds_text(times[i])} s. "
                    "Lower frame_count so that the clip ends before it, or save the animation anew."
                ) from error

        def whole() -> Iterator[Shot]:
            for i, time in enumerate(times[:-1]):
                try:
                    picture = load(i)
                except ValueError:
                    text = f"its frames from {seconds_text(time)} s on are damaged and left out"
                    film.notes[text] = film.warnings[text] = None
                    return
                yield Shot(time, lambda picture=picture: picture)

        rate = total / times[-1]
        film = Film(iter(()), rate, f"{counted(total, 'frame')} at {rate_text(rate)} fps")
        later = (Shot(time, partial(load, i)) for i, time in enumerate(times[:-1]))
        yield replace(film, shots=later if damaged == "refuse" else whole())


def _gif_durations(path: Path) -> list[int]:
    """Milliseconds of each frame, from the blocks of the GIF container. What is no block is passed over, as Pillow does."""
    durations, delay = [], 0
    with path.open("rb") as file:
        _skip_colours(file, file.read(13)[10])
        while kind := file.read(1):
            if kind == b"!":
                label, text = file.read(1), _sub_blocks(file)
                delay = int.from_bytes(text[1:3], "little") if label == _TIMING else delay
            elif kind == b",":
                _skip_colours(file, (file.read(9) or bytes(9))[-1])
                file.read(1)
                _sub_blocks(file)
                durations.append(10 * delay)
                delay = 0
            elif kind == b";":
                break
    return durations or [0]


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 * 2 ** ((flags & 7) + 1), os.SEEK_CUR)


def _sub_blocks(file: BinaryIO) -> bytes:
    """The first of the parts that a block is stored in; the file is behind the last then."""
    first = None
    while (size := file.read(1)) and size[0]:
        part = file.read(size[0])
        first = part if first is None else first
    return first or b""


def _webp_durations(path: Path) -> list[int]:
    """Milliseconds of each frame, from the ANMF chunks of the WebP container; [0] for a still image."""
    durations = []
    with path.open("rb") as file:
        end = 8 + int.from_bytes(file.read(8)[4:], "little")
        file.seek(12)
        while file.tell() < end and len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            after = file.tell() + size + size % 2  # chunks are padded to even sizes
            if header[:4] == b"ANMF":
                durations.append(int.from_bytes(file.read(16)[12:15], "little"))
            file.seek(after)
    return durations or [0]
