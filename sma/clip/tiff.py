"""Tiffs that Pillow does not open, through FFmpeg: float colour, grey with alpha, some big-endian ones."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .depth import FLOAT, ORIENTATION, UNSIGNED, levels, tiff_depth

_MAGIC = (b"II*\0", b"MM\0*")
# Bits and format of the samples that FFmpeg reads as what they are; it takes half floats and signed ones for unsigned integers.
_READ = {(8, UNSIGNED), (16, UNSIGNED), (32, FLOAT)}


def read_tiff(path: Path) -> tuple[np.ndarray, int] | None:
    """Read a tiff as [H, W, C], float32, 0..1, grey, grey and alpha, RGB or RGBA, with the number of its orientation.

    None where the file is no tiff.

    Raises:
        ValueError: samples of a kind that is not read. The message goes on where the name of the file ends.
        av.FFmpegError, OSError, struct.error: the file is damaged, or FFmpeg does not know its kind either.
    """
    with path.open("rb") as file:
        if (head := file.read(8))[:4] not in _MAGIC:
            return None
        tags = ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
    bits, sample_format = tiff_depth(tags)
    if (bits, sample_format) not in _READ:
        kind = "float" if sample_format == FLOAT else "integer"
        raise ValueError(f"holds {bits}-bit {kind} values, which are not read here. Save it as a png or a 16-bit tiff.")
    with av.open(
        str(path), format="tiff_pipe", options={"protocol_whitelist": "file"}, metadata_errors="replace"
    ) as container:
        frame = next(container.decode(video=0))
    return levels(_samples(frame, bits), bits, sample_format), int(tags.get(ORIENTATION, 1))


def _samples(frame: av.VideoFrame, bits: int) -> np.ndarray:
    """The samples [H, W, C] of a frame that keeps all channels of a pixel together."""
    order = ">" if frame.format.name.endswith("be") else "<"
    kind = np.dtype(f"{order}{'f' if bits == 32 else 'u'}{bits // 8}")
    plane = frame.planes[0]
    channels = len(frame.format.components)
    rows = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)
    return (
        rows[:, : frame.width * channels * kind.itemsize].copy().view(kind).reshape(frame.height, frame.width, channels)
    )
