"""Files of public bug reports, in tests/cases, and what a person would see in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sma.clip import ClipRequest, read_clip

CASES = Path(__file__).parents[2] / "cases"


def case(name):
    assert json.loads((CASES / name / "case.json").read_text())["expected"]
    return CASES / name


@pytest.mark.parametrize(
    "film", ["alpha_png.mov", "alpha_prores.mov", "alpha_qtrle.mov", "alpha_vp8.webm", "alpha_vp9.webm"]
)
def test_a_transparent_ground_is_black_in_videos_too(film):
    """A light square on nothing, with white hidden beneath."""
    clip = read_clip(case("alpha_video") / film, ClipRequest(width=64, height=64, frame_count=0))
    assert len(clip.frames) == 12
    light = clip.frames.mean(-1)
    assert (light < 0.02).float().mean() > 0.5
    assert all(0.02 < (frame > 0.6).float().mean() < 0.5 for frame in light)


def test_a_circle_of_wide_pixels_is_a_circle():
    path = case("anamorphic_sar") / "anamorphic.mp4"
    clip = read_clip(path, ClipRequest(width=102, height=58, frame_count=2))
    assert (
        clip.report == "12 frames at 8 fps → 2 at 8 fps, 0.0-0.25 s, 102x58; its pixels are not square (64:45), widened"
    )
    light = clip.frames[0].mean(-1).numpy()
    circle = np.abs(light - np.median(light)) > 0.25
    wide, high = (int(circle.any(axis).sum()) for axis in (0, 1))
    assert wide / high == pytest.approx(1, abs=0.1) and high > 20  # 0.74 as it is stored


@pytest.mark.parametrize("film, corner", [("hflip", (0, 1)), ("vflip", (1, 0)), ("rot90hflip", (0, 0))])
def test_mirrored_films_are_shown_as_players_show_them(film, corner):
    size = {"width": 32, "height": 64} if film.startswith("rot90") else {"width": 64, "height": 32}
    clip = read_clip(case("mirrored_display_matrix") / f"{film}.mp4", ClipRequest(**size, frame_count=2))
    light = clip.frames[0].mean(-1)
    high, wide = light.shape[0] // 2, light.shape[1] // 2
    quarters = {(y, x): light[y * high :, x * wide :][:high, :wide].mean().item() for y in (0, 1) for x in (0, 1)}
    assert max(quarters, key=quarters.get) == corner


def test_a_film_that_changes_its_size_is_refused():
    path = case("size_changes_midstream") / "reschange.ts"
    with pytest.raises(ValueError, match="changes its size at 1.0 s, from 64x64 to 128x64 pixels"):
        read_clip(path, ClipRequest(width=64, height=64, frame_count=0))
    assert "64x64" in read_clip(path, ClipRequest(width=64, height=64, frame_count=8)).report


def test_a_late_start_in_a_broadcast_is_met():
    path = case("mpegts_start") / "long.ts"
    whole = read_clip(path, ClipRequest(width=64, height=64, frame_count=0)).frames
    for timing, places in (({}, range(96, 104)), ({"fps": 8}, range(96, 120, 3))):
        clip = read_clip(path, ClipRequest(width=64, height=64, start=4.0, frame_count=8, **timing))
        assert clip.timestamps == pytest.approx([place / 24 for place in places])
        assert (clip.frames == whole[list(places)]).all()


@pytest.mark.parametrize(
    "timing, count", [({"frame_count": 25}, 25), ({"frame_count": 48}, 48), ({"frame_count": 0, "fps": 8}, 16)]
)
def test_two_broadcasts_joined_last_two_seconds(timing, count):
    clip = read_clip(case("ts_clock_restarts") / "cat.ts", ClipRequest(width=64, height=64, **timing))
    rate = timing.get("fps", 24)
    assert clip.timestamps == pytest.approx([k / rate for k in range(count)])
    assert clip.fps == rate


def test_an_avi_with_b_frames_gives_its_frames_in_order():
    path = case("avi_h264_bframes") / "h264_b.avi"
    every = read_clip(path, ClipRequest(width=64, height=64, frame_count=0))
    assert every.timestamps == pytest.approx([k / 24 for k in range(24)])
    clip = read_clip(path, ClipRequest(width=64, height=64, frame_count=8, fps=8))
    assert (clip.frames == every.frames[::3]).all()
    assert "uneven" not in every.report


def test_a_cover_picture_is_no_video():
    with pytest.raises(ValueError, match="^cover.mp4 holds no video stream. Pick another file.$"):
        read_clip(case("cover_only_mp4") / "cover.mp4", ClipRequest(width=64, height=64))


@pytest.mark.parametrize("suffix", ["wmv", "mpg", "ogv"])
def test_films_that_are_offered_are_read(suffix):
    path = case("offered_but_unreadable") / f"a.{suffix}"
    every = read_clip(path, ClipRequest(width=64, height=64, frame_count=0))
    assert every.timestamps == pytest.approx([k / 24 for k in range(24)], abs=0.001)
    late = read_clip(path, ClipRequest(width=64, height=64, start=0.5, frame_count=3, stride=2))
    assert (late.frames == every.frames[12:17:2]).all()
