"""Long films: no more is read than needed, a reading can be ended, and what the film said at its beginning holds in its middle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from sma.clip import ClipRequest, read_clip

SIZE = {"width": 64, "height": 48}
FRAMES = 240
KEY = 12


class Cancelled(BaseException):
    """As the host's."""


@pytest.fixture(scope="module")
def kinds(films, tmp_path_factory):
    """A film of each kind that is read in a way of its own; B frames in AVI are decoded from the first frame on."""
    folder = tmp_path_factory.mktemp("kinds")
    for name in ("film.mp4", "film.ts", "film.avi"):
        films.write(folder / name, 96, g=str(KEY), bf="2")
    pictures = [Image.fromarray(films.numbered(i)) for i in range(24)]
    for name in ("film.gif", "film.webp"):
        pictures[0].save(folder / name, save_all=True, append_images=pictures[1:], duration=100)
    (folder / "folder").mkdir()
    for i, picture in enumerate(pictures):
        picture.save(folder / "folder" / f"{i}.png")
    return folder


@pytest.mark.parametrize("damaged", ["refuse", "skip"])
@pytest.mark.parametrize("name", ["film.mp4", "film.ts", "film.avi", "film.gif", "film.webp", "folder"])
def test_what_the_check_raises_ends_the_reading(kinds, name, damaged):
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 8:
            raise Cancelled

    with pytest.raises(Cancelled):
        read_clip(kinds / name, ClipRequest(**SIZE, start=1.2, frame_count=8, damaged=damaged), check)
    assert len(calls) == 8


@pytest.mark.parametrize("name", ["film.gif", "film.avi"])
def test_frames_on_the_way_to_the_start_are_checked_too(kinds, name):
    calls = []
    read_clip(kinds / name, ClipRequest(**SIZE, start=2.0, frame_count=2), lambda: calls.append(None))
    assert len(calls) >= 20


def test_a_film_without_key_frames_is_not_decoded_to_its_end(films, tmp_path):
    """Its pictures are refreshed bit by bit, so that only its beginning is a place to begin at."""
    path = films.write(
        tmp_path / "live.ts", FRAMES, codec="libx264", **{"x264-params": f"intra-refresh=1:keyint={KEY}:bframes=0"}
    )
    packets = []
    clip = read_clip(path, ClipRequest(**SIZE, start=2.0, frame_count=3), lambda: packets.append(None))
    assert [films.number_of(picture) for picture in clip.frames.numpy()] == [48, 49, 50]
    assert len(packets) < 4 * (FRAMES / 2)  # four passes, each ended soon after the start


@pytest.mark.parametrize("start, first", [(0.0, 0), (0.5, 12), (1.5, 36)])
def test_a_palette_holds_to_the_end_of_the_film(films, tmp_path, start, first):
    """It comes with the first frame alone; without it all is black."""
    path = films.write(tmp_path / "grey.mov", 48, codec="qtrle", pix_fmt="gray", g=str(KEY))
    clip = read_clip(path, ClipRequest(**SIZE, start=start, frame_count=2))
    assert [films.number_of(picture) for picture in clip.frames.numpy()] == [first, first + 1]
    assert clip.frames[0, 20:].mean() == pytest.approx(films.numbered(first)[20:].mean() / 255, abs=0.02)


@pytest.mark.parametrize("field", ["start", "fps", "folder_fps"])
@pytest.mark.parametrize("number", [math.nan, math.inf, np.float32("nan")])
def test_numbers_that_are_none_are_refused(field, number):
    with pytest.raises(ValueError, match=rf"^{field} is (nan|inf); it needs to be a number\."):
        ClipRequest(**SIZE, **{field: number})
