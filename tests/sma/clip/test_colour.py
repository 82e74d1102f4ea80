"""Colours, depth, transparency, HDR and fields of videos, against numbers of the standards."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from sma.clip import ClipRequest, read_clip

BT709, BT601, BT2020 = 1, 6, 9
LIMITED, FULL = 1, 2
PQ, HLG = 16, 18
RED_AND_BLUE = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114), BT2020: (0.2627, 0.0593)}


def write_codes(path, planes, pix_fmt, matrix=BT709, range=LIMITED, transfer=1, primaries=1):
    """A lossless film of two frames whose planes [H, W] hold these very codes."""
    height, width = planes[0].shape
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, range
        context.color_trc, context.color_primaries = transfer, primaries
        for number in (0, 1):
            frame = av.VideoFrame(width, height, pix_fmt)
            for plane, codes in zip(frame.planes, planes, strict=True):
                rows = np.zeros((plane.height, plane.line_size // codes.itemsize), codes.dtype)
                rows[:, : plane.width] = codes
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 8)
            frame.colorspace, frame.color_range = matrix, range
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def first_frame(path, width, height, note=""):
    clip = read_clip(path, ClipRequest(width=width, height=height, frame_count=2))
    assert clip.report == f"0.25 s at 8 fps → 2 at 8 fps, 0.0-0.25 s, {width}x{height}" + (f"; {note}" if note else "")
    return clip.frames[0].numpy()


@pytest.mark.parametrize("pix_fmt, bits", [("yuv444p", 8), ("yuv444p10le", 10), ("yuv444p12le", 12)])
@pytest.mark.parametrize("matrix", [BT709, BT601, BT2020])
@pytest.mark.parametrize("range", [LIMITED, FULL])
def test_colours_follow_the_matrix_and_the_range_of_the_film(tmp_path, pix_fmt, bits, matrix, range):
    codes = np.array([150, 90, 180]) << (bits - 8)
    kind = np.uint8 if bits == 8 else np.uint16
    path = write_codes(tmp_path / "film.mkv", [np.full((16, 16), c, kind) for c in codes], pix_fmt, matrix, range)
    if range == LIMITED:
        y, cb, cr = (codes / 2 ** (bits - 8) - (16, 128, 128)) / (219, 224, 224)
    else:
        y, cb, cr = (codes - np.array([0, 1, 1]) * 2 ** (bits - 1)) / (2**bits - 1)
    of_red, of_blue = RED_AND_BLUE[matrix]
    red, blue = y + 2 * (1 - of_red) * cr, y + 2 * (1 - of_blue) * cb
    green = (y - of_red * red - of_blue * blue) / (1 - of_red - of_blue)
    tolerance = 0.003 if bits == 8 else 1e-5
    assert first_frame(path, 16, 16)[8, 8] == pytest.approx([red, green, blue], abs=tolerance)


@pytest.mark.parametrize("pix_fmt, depth", [("yuv444p10le", 10), ("yuv420p10le", 10), ("yuv444p12le", 12)])
def test_deep_videos_keep_every_level(tmp_path, pix_fmt, depth):
    black, white, grey = (level << (depth - 8) for level in (16, 235, 128))
    levels = np.arange(black, white + 1, dtype=np.uint16)
    levels = levels[: len(levels) // 2 * 2]
    chroma = np.full((1, len(levels)) if "444" in pix_fmt else (1, len(levels) // 2), grey, np.uint16)
    planes = [np.repeat(levels[None], 4, 0)] + [np.repeat(chroma, 4 if "444" in pix_fmt else 2, 0)] * 2
    ramp = first_frame(write_codes(tmp_path / "film.mkv", planes, pix_fmt), len(levels), 4)[1]
    assert ramp == pytest.approx(np.repeat(((levels - black) / (white - black))[:, None], 3, 1), abs=1e-5)
    assert len(np.unique(ramp[:, 1])) == len(levels)


def test_deep_rgb_keeps_every_level(tmp_path):
    levels = np.arange(1024, dtype=np.uint16)[None].repeat(4, 0)
    path = write_codes(tmp_path / "film.mkv", [levels] * 3, "gbrp10le", matrix=0, range=FULL)
    assert first_frame(path, 1024, 4)[1, :, 0] == pytest.approx(levels[0] / 1023, abs=2e-5)


@pytest.mark.parametrize(
    "codec, suffix, pix_fmt", [("png", "mov", "rgba"), ("qtrle", "mov", "argb"), ("ffv1", "mkv", "gbrap12le")]
)
def test_what_is_half_transparent_is_half_as_bright(films, tmp_path, codec, suffix, pix_fmt):
    picture = np.zeros((16, 32, 4), np.uint8)
    picture[..., :3] = (200, 100, 40)
    picture[..., 3] = np.arange(32) * 8
    path = films.write(tmp_path / f"film.{suffix}", [picture] * 2, codec=codec, rate=8, format="rgba", pix_fmt=pix_fmt)
    shown = read_clip(path, ClipRequest(width=32, height=16, frame_count=2)).frames[0].numpy()
    expected = picture[..., :3] / 255 * picture[..., 3:] / 255
    assert shown == pytest.approx(expected, abs=0.002)


def grey_codes(signal):
    """Ten-bit limited-range planes of a grey."""
    return [np.full((16, 16), round(64 + 876 * signal), np.uint16)] + [np.full((16, 16), 512, np.uint16)] * 2


@pytest.mark.parametrize(
    "pq, hlg, expected",
    [
        (0.38, 0.38, 0.39),  # ITU-R BT.2408: an 18 % grey card is 26 cd/m2, 38 % of either signal
        (0.58, 0.75, 0.96),  # ITU-R BT.2408: a white page is 203 cd/m2
        (0.0, 0.0, 0.0),
        (0.7518, 1.0, 1.0),  # 1000 cd/m2, the brightest of the HLG screen
    ],
)
def test_hdr_becomes_ordinary_brightness_and_is_told(tmp_path, pq, hlg, expected):
    for transfer, signal, name in ((PQ, pq, "PQ"), (HLG, hlg, "HLG")):
        path = write_codes(
            tmp_path / f"{name}.mkv", grey_codes(signal), "yuv444p10le", BT2020, LIMITED, transfer, BT2020
        )
        shown = first_frame(path, 16, 16, f"HDR ({name}) converted to ordinary brightness")
        assert shown[8, 8] == pytest.approx([expected] * 3, abs=0.015)


def test_highlights_keep_their_order_and_their_hue(tmp_path):
    ramp = np.repeat(np.arange(64, 941, dtype=np.uint16)[None], 16, 0)
    planes = [ramp, np.full_like(ramp, 512), np.full_like(ramp, 512)]
    path = write_codes(tmp_path / "film.mkv", planes, "yuv444p10le", BT2020, LIMITED, PQ, BT2020)
    shown = first_frame(path, 877, 16, "HDR (PQ) converted to ordinary brightness")[8]
    steps = np.diff(shown[:, 0])
    assert steps.min() > -1e-5, steps.min()
    assert shown[-1, 0] <= 1
    assert shown[:, 0] == pytest.approx(shown[:, 2], abs=2e-3)


def test_wide_colours_become_the_same_colours_on_an_ordinary_screen(tmp_path):
    """Red of BT.709, as BT.2020 writes it by ITU-R BT.2087: 62.74 % red, 6.91 % green, 1.64 % blue of linear light."""
    red, green, blue = (round(1023 * light ** (1 / 2.4)) for light in (0.6274, 0.0691, 0.0164))
    planes = [np.full((16, 16), code, np.uint16) for code in (green, blue, red)]
    path = write_codes(tmp_path / "film.mkv", planes, "gbrp10le", 0, FULL, transfer=14, primaries=BT2020)
    shown = first_frame(path, 16, 16, "wide colours converted to ordinary ones")
    assert shown[8, 8] == pytest.approx([1, 0, 0], abs=0.06)  # a thousandth of light is 0.056 of signal


def test_interlaced_films_are_deinterlaced_and_told(films, tmp_path):
    """A bar moves by 3 pixels from field to field: its two edges are combs until the lines of one field are made anew."""

    def bar(field):
        picture = np.full((48, 64, 3), 40, np.uint8)
        picture[:, 4 + 3 * field : 16 + 3 * field] = 220
        return picture

    pictures = [bar(2 * i) for i in range(8)]
    for i, picture in enumerate(pictures):
        picture[1::2] = bar(2 * i + 1)[1::2]
    path = films.write(
        tmp_path / "film.ts",
        pictures,
        codec="mpeg2video",
        rate=25,
        g="4",
        b="8000000",
        flags="+ildct+ilme",
        field_order="tt",
    )
    clip = read_clip(path, ClipRequest(width=64, height=48, frame_count=0))
    assert clip.report == "0.32 s at 25 fps → 8 at 25 fps, 0.0-0.32 s, 64x48; deinterlaced"
    with av.open(str(path)) as film:
        stored = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]) / 255
    combs = [np.abs(np.diff(frames, axis=1)).mean() for frames in (stored, clip.frames.numpy())]
    assert combs[1] < combs[0] / 10
    rows = clip.frames.numpy()[:, 24, :, 0]
    edges = [int((row > 0.5).argmax()) for row in rows]
    assert np.diff(edges) == pytest.approx([6] * 7, abs=1)


def test_the_unused_byte_of_uncompressed_avi_is_no_transparency(films, tmp_path):
    """Screen recorders leave 0 there."""
    pictures = [np.dstack([films.numbered(i), np.zeros((48, 64), np.uint8)]) for i in range(4)]
    path = films.write(tmp_path / "film.avi", pictures, codec="rawvideo", format="rgba", pix_fmt="bgra")
    clip = read_clip(path, ClipRequest(width=64, height=48, frame_count=0))
    assert np.abs(clip.frames.numpy() * 255 - [picture[..., :3] for picture in pictures]).max() < 1
