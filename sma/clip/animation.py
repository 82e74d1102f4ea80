"""Animated gif and webp."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
from PIL import Image

from .film import Check, Damaged, Film, Shot, counted, rate_text, seconds_text
from .formats import WHAT_IS_A_CLIP
from .picture import DAMAGE, no_half_pictures, opaque

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
    """Milliseconds of each frame."""
    with av.open(
        str(path), format="gif", container_options={"protocol_whitelist": "file"}, metadata_errors="replace"
    ) as container:
        packets = container.demux()
        return [int(packet.duration * packet.time_base * 1000) for packet in packets if packet.size] or [0]


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
