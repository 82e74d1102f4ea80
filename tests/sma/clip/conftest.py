"""Small films whose every frame carries its own number, so that a test reads back which ones it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

SIZE = (64, 48)
BLOCK = 8


def numbered(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A picture [H, W, 3] of moving noise under a row of eight blocks, which spell the number in black and white."""
    width, height = size
    noise = np.random.default_rng(1).integers(40, 216, (height, width + 256, 3)).astype(np.uint8)
    picture = noise[:, number : number + width].copy()
    for bit in range(8):
        picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number in a picture [H, W, 3] of 0..1."""
    blocks = np.asarray(picture)[2 : BLOCK - 2, : 8 * BLOCK].mean(axis=(0, 2)).reshape(8, BLOCK)[:, 2:-2].mean(axis=1)
    return sum(1 << bit for bit, light in enumerate(blocks) if light > 0.5)


def write(
    path: Path,
    frames: int | Sequence[np.ndarray] = 48,
    codec: str = "libx264",
    rate: int | Fraction = 24,
    times: Sequence[float] | None = None,
    format: str = "rgb24",
    pix_fmt: str = "yuv420p",
    container: dict[str, str] | None = None,
    sar: Fraction | None = None,
    context: Callable[[av.VideoCodecContext], None] = lambda context: None,
    **options: str,
) -> Path:
    """Write a film of numbered frames, or of the given pictures, at the times in seconds or at the rate."""
    pictures = [numbered(i) for i in range(frames)] if isinstance(frames, int) else frames
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=quiet | options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if sar:
            stream.codec_context.sample_aspect_ratio = sar
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        context(stream.codec_context)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format=format)
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[i]), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def packets(path: Path) -> list[tuple[float, int, int]]:
    """Seconds, place in the file and size of each video packet."""
    with av.open(str(path)) as file:
        return [(float(p.pts * p.time_base), p.pos, p.size) for p in file.demux(video=0) if p.size]


@pytest.fixture(scope="session")
def films() -> SimpleNamespace:
    return SimpleNamespace(numbered=numbered, number_of=number_of, write=write, packets=packets)
