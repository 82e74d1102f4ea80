"""Inputs of public bug reports that are pictures, folders and kinds of file; see tests/cases/*/case.json."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sma.clip import ClipRequest, read_clip

CASES = Path(__file__).parents[2] / "cases"


def read(case, entry, count=12, side=64):
    return read_clip(CASES / case / entry, ClipRequest(width=side, height=side, frame_count=count))


@pytest.mark.parametrize("folder", ["png16gray", "tif16gray"])
def test_16_bit_grey_rises(folder):
    means = read("png16_grey", folder).frames.mean(dim=(1, 2, 3))
    assert means.tolist() == pytest.approx([5000 * i / 65535 for i in range(1, 13)], abs=1e-4)


@pytest.mark.parametrize("folder", ["macdots", "hiddenthumb"])
def test_hidden_files_are_no_frames(folder):
    path = CASES / "hidden_files_in_folder" / folder
    assert any(entry.name.startswith(".") for entry in path.iterdir())
    clip = read_clip(path, ClipRequest(width=64, height=48, frame_count=12))
    frames = [np.asarray(Image.open(path / f"f{i:02}.png").convert("RGB")) for i in range(12)]
    assert np.array_equal((clip.frames * 255).round(), np.stack(frames))
    assert clip.report == "12 images at 8 fps → 12 at 8 fps, 0.0-1.5 s, 64x48" and not clip.warnings


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_cut_image_is_named(suffix):
    with pytest.raises(ValueError) as refused:
        read("truncated_image_unnamed", f"trunc{suffix}")
    assert str(refused.value).startswith(
        f"007.{suffix} in trunc{suffix} (image 8 of 12, 0.88 s) is cut short or damaged."
    )
    assert len(read("truncated_image_unnamed", f"trunc{suffix}", count=7).frames) == 7


@pytest.mark.parametrize("suffix", ["wmv", "mpg", "ogv"])
def test_what_the_picker_offers_is_read(suffix):
    """24 frames at 24 fps, each 10 levels brighter than the one before."""
    clip = read("offered_but_unreadable", f"a.{suffix}", count=24)
    assert (clip.frames.mean(dim=(1, 2, 3)) * 255).tolist() == pytest.approx(range(10, 250, 10), abs=1.6)
    assert clip.fps == 24
    assert clip.timestamps == pytest.approx([i / 24 for i in range(24)], abs=0.001)


def test_theora_is_decoded_without_a_thread_for_each_frame():
    """With them FFmpeg 8.1 gave wrong frames of this file in 2 of 60 readings."""
    clips = [read("offered_but_unreadable", "a.ogv", count=24, side=8).frames for _ in range(40)]
    assert all((clip == clips[0]).all() for clip in clips)
