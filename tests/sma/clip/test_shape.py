"""Videos are shown as they are meant to be held, and with pixels as wide as they are meant to be."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from sma.clip import ClipRequest, read_clip

WIDTH, HEIGHT = 48, 32
CORNERS = {(0, 0): 220, (0, 1): 150, (1, 0): 90, (1, 1): 20}  # (lower, right): light


def corners_picture():
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for (lower, right), light in CORNERS.items():
        picture[lower * HEIGHT // 2 :, right * WIDTH // 2 :] = light
    return picture


def write_turned(films, path, a, b, c, d, **settings):
    """A film whose point (x, y) is to be shown at (ax + cy, bx + dy), which the header of its track says."""
    films.write(path, [corners_picture()] * 6, g="3", pix_fmt="yuv444p", crf="5", **settings)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # a b u, c d v, x y w, in 16.16 fixed point
    for place, value in ((0, a), (4, b), (12, c), (16, d)):
        data[matrix + place : matrix + place + 4] = round(value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def assert_shown(picture, a, b, c, d):
    """Each stored corner lies where the matrix sends it."""
    height, width, _ = picture.shape
    for (lower, right), light in CORNERS.items():
        x, y = 2 * right - 1, 2 * lower - 1
        across, down = a * x + c * y > 0, b * x + d * y > 0
        shown = picture[height * (1 + 2 * down) // 4, width * (1 + 2 * across) // 4]
        assert shown * 255 == pytest.approx(light, abs=6)


# fmt: off
ORIENTATIONS = [
    (1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
    (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0),
]
# fmt: on


@pytest.mark.parametrize("matrix", ORIENTATIONS)
@pytest.mark.parametrize("pixel", [None, Fraction(2), Fraction(1, 2)])
def test_every_orientation_is_shown_upright_with_square_pixels(films, tmp_path, matrix, pixel):
    path = write_turned(films, tmp_path / "film.mp4", *matrix, sar=pixel)
    wide, high = WIDTH * (2 if pixel == 2 else 1), HEIGHT * (2 if pixel == Fraction(1, 2) else 1)
    turned = matrix[0] == 0
    if turned:
        wide, high = high, wide
    clip = read_clip(path, ClipRequest(width=wide, height=high, start=0.05, frame_count=3))
    for picture in clip.frames.numpy():
        assert_shown(picture, *matrix)
    report = f"6 frames at 24 fps → 3 at 24 fps, 0.04-0.17 s, {wide}x{high}"  # nothing cut, nothing resized
    if pixel:
        lies = (pixel > 1) != turned
        report += (
            "; its pixels are not square (2:1), widened" if lies else "; its pixels are not square (1:2), heightened"
        )
    assert clip.report == report


def test_a_matrix_that_also_scales_or_is_nonsense_turns_to_the_nearest(films, tmp_path):
    for matrix, note in (
        ((0, 0.5, -0.5, 0), ""),
        ((0.17, 0.98, -0.98, 0.17), "; to be turned by -10 degrees more, which is left out"),
    ):
        clip = read_clip(
            write_turned(films, tmp_path / "film.mp4", *matrix), ClipRequest(width=32, height=48, frame_count=2)
        )
        assert_shown(clip.frames[0].numpy(), 0, 1, -1, 0)
        assert clip.report.endswith(f"s, 32x48{note}")
    path = write_turned(films, tmp_path / "film.mp4", 0, 0, 0, 0)
    assert_shown(read_clip(path, ClipRequest(width=48, height=32, frame_count=2)).frames[0].numpy(), 1, 0, 0, 1)


def test_what_is_square_when_shown_stays_square(films, tmp_path):
    """4:3 pixels: 24 of them are as wide as 32 are high."""
    picture = np.full((60, 60, 3), 20, np.uint8)
    picture[14:46, 18:42] = 230
    path = films.write(tmp_path / "film.mp4", [picture] * 4, sar=Fraction(4, 3), pix_fmt="yuv444p", crf="5")
    clip = read_clip(path, ClipRequest(width=60, height=60, frame_count=2))
    assert clip.report.endswith("80x60 → 60x60 centre crop; its pixels are not square (4:3), widened")
    light = clip.frames[0].mean(-1) > 0.5
    assert [int(light.any(side).sum()) for side in (0, 1)] == [32, 32]


@pytest.mark.parametrize("sar", [Fraction(1), Fraction(40), Fraction(1, 30)])
def test_pixels_that_cannot_be_are_taken_for_square(films, tmp_path, sar):
    path = films.write(tmp_path / "film.mp4", 4, sar=sar)
    with av.open(str(path)) as film:
        assert film.streams.video[0].sample_aspect_ratio == sar
    assert read_clip(path, ClipRequest(width=64, height=48, frame_count=2)).report.endswith("s, 64x48")


def test_a_film_that_changes_its_size_is_refused_where_it_does(films, tmp_path):
    parts = [
        films.write(tmp_path / f"{i}.ts", [np.zeros((h, 64, 3), np.uint8)] * 8, rate=8) for i, h in ((0, 48), (1, 64))
    ]
    path = tmp_path / "film.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    size = {"width": 32, "height": 32}
    with pytest.raises(ValueError) as refused:
        read_clip(path, ClipRequest(**size, frame_count=9))
    assert str(refused.value) == (
        "film.ts changes its size at 1.0 s, from 64x48 to 64x64 pixels. Take frames before or after that moment."
    )
    assert "64x48" in read_clip(path, ClipRequest(**size, frame_count=8)).report
    assert "64x64" in read_clip(path, ClipRequest(**size, frame_count=8, start=1)).report
