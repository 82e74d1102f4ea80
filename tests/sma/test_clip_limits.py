"""What a clip may not ask of the memory or wait for."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sma.clip import ClipRequest, read_clip, write_video
from sma.clip.limits import MOST_PIXELS, check_memory, check_picture


def huge_png(path, side=60_000):
    """A picture of a few hundred bytes that stands for gigabytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end)


@pytest.fixture
def film(tmp_path):
    frames = torch.rand(6, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    write_video(frames, 8.0, tmp_path / "film.mp4")
    return tmp_path / "film.mp4"


def test_the_memory_is_reckoned_before_it_is_taken():
    """Of 32-bit RGB 24 frames of 8192x8192 are 19.3 GB, and there are three of it on the way."""
    with pytest.raises(ValueError) as caught:
        check_memory(24, 8192, 8192, 8e9)
    assert str(caught.value) == (
        "24 frames of 8192x8192 pixels take 58.0 GB of memory while they are read, and 8.0 GB are free. Lower frame_count, width or height."
    )
    check_memory(24, 512, 512, 8e9)
    check_memory(24, 8192, 8192, 24 * 8192 * 8192 * 36)


@pytest.mark.parametrize(
    ("frames", "side"), [(24, 8192), (10**6, 256), (0, 200_000)], ids=["large frames", "many frames", "an open end"]
)
def test_a_clip_that_does_not_fit_is_refused_before_anything_is_read(film, monkeypatch, frames, side):
    monkeypatch.setattr("sma.clip.video._upright", lambda *_: pytest.fail("decoded"))
    with pytest.raises(
        ValueError, match=f"^{frames or 2} frames of {side}x{side} pixels take .* are free. Lower frame_c"
    ):
        read_clip(film, ClipRequest(side, side, frame_count=frames, memory=8e9))


def test_an_open_end_stops_where_the_memory_ends(film):
    request = ClipRequest(16, 16, frame_count=0, stride=1, memory=16 * 16 * 36 * 4)
    with pytest.raises(
        ValueError, match="^5 frames of 16x16 pixels take 46 KB of memory while they are read, and 37 KB are"
    ):
        read_clip(film, request)
    assert len(read_clip(film, ClipRequest(16, 16, frame_count=4, stride=1, memory=request.memory)).frames) == 4


@pytest.mark.parametrize("name", ["bomb.gif", "folder"])
def test_pictures_that_would_fill_the_memory_are_refused(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        for i in range(2):
            huge_png(path / f"{i}.png")
    else:
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:6] + struct.pack("<HH", 65535, 65535) + path.read_bytes()[10:])
    with pytest.raises(ValueError) as caught:
        read_clip(path, ClipRequest(16, 16, frame_count=2))
    said = str(caught.value)
    assert said == f"{name} has pictures of too many pixels; 178 million pixels are the most. Make them smaller."


def test_the_limit_is_pillows(monkeypatch):
    assert MOST_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match="^a.mp4 has pictures of 16384x16384 pixels; 178 million pixels are the most."):
        check_picture("a.mp4", 16384, 16384)
    check_picture("a.mp4", 8192, 8192)


@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.gif", "folder/pipe.png"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / name)
    path = tmp_path / name.partition("/")[0]
    with pytest.raises(
        ValueError, match="^pipe.(mp4|gif|png) is a pipe or a device; a plain file is needed. Choose another.$"
    ):
        read_clip(path, ClipRequest(16, 16, frame_count=2))
