"""Films of every kind against the pictures they were made of."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from sma.clip import ClipRequest, read_clip, write_video

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"


def gradient(index, size):
    """A picture of at most 256 colours, so that gif keeps it exactly."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = 10 * index
    pixels[..., 1] = np.arange(width)
    pixels[: height // 3, :, 2] = 200
    return pixels


def make_animation(path, durations, size=(35, 27)):
    pictures = [gradient(i, size) for i in range(len(durations))]
    first, *rest = [Image.fromarray(p).quantize(256) if path.suffix == ".gif" else Image.fromarray(p) for p in pictures]
    first.save(path, save_all=True, append_images=rest, duration=durations, lossless=True)
    return torch.from_numpy(np.stack(pictures)).float() / 255


def make_folder(path, names, size=(20, 14)):
    path.mkdir(exist_ok=True)
    pictures = [gradient(i, size) for i in range(len(names))]
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(path / name)
    return torch.from_numpy(np.stack(pictures)).float() / 255


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations_keep_their_pixels_and_uneven_durations(tmp_path, suffix):
    path = tmp_path / f"anim.{suffix}"
    pictures = make_animation(path, [100, 100, 200, 100, 300, 100])
    size = {"width": 35, "height": 27}
    every = read_clip(path, ClipRequest(**size, frame_count=0))
    assert torch.equal(every.frames, pictures)
    assert every.timestamps == pytest.approx((0, 0.1, 0.2, 0.4, 0.5, 0.8))
    assert every.report.startswith("6 frames at 6.6667 fps → 6 at 6.25 fps on average (uneven, 0.1 to 0.3 s apart)")
    retimed = read_clip(path, ClipRequest(**size, frame_count=3, fps=2.5))  # 0, 0.4, 0.8 s
    assert torch.equal(retimed.frames, pictures[[0, 3, 5]])


def spoil_pixels(path, first):
    """Overwrites the compressed pixels of frame `first` and all later ones; the structure of the file stays whole."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".gif":
        starts = [m.start() for m in re.finditer(rb"\x00\x21\xf9\x04", data)]  # the end of a block, a frame's control
        for start in starts[first:]:
            pixels = data.index(b",", start + 9) + 10  # past the image descriptor
            pixels += 3 << (data[pixels - 1] & 7) + 1 if data[pixels - 1] & 128 else 0  # past its own palette
            length = data[pixels + 1]
            data[pixels + 2 : pixels + 2 + length] = b"\xff" * length
    else:
        starts = [m.start() for m in re.finditer(b"ANMF", data)] + [len(data)]
        for start, end in pairwise(starts[first:]):
            data[start + 40 : end] = bytes(end - start - 40)  # past the headers of the frame and of its bitstream
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_long_animation_is_decoded_only_as_far_as_it_is_needed(tmp_path, suffix):
    path = tmp_path / f"anim.{suffix}"
    pictures = make_animation(path, [100] * 24)
    spoil_pixels(path, first=8)
    clip = read_clip(path, ClipRequest(width=35, height=27, frame_count=4, stride=2))
    assert torch.equal(clip.frames, pictures[[0, 2, 4, 6]])
    assert clip.report.startswith("24 frames at 10 fps → 4 at 5 fps (stride 2), 0.0-0.8 s")
    with pytest.raises(ValueError, match=f"anim.{suffix} is cut short or damaged at frame 9 of 24, 0.8 s. Lower"):
        read_clip(path, ClipRequest(width=35, height=27, frame_count=10))


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_under_the_name_of_the_other_kind_is_read(tmp_path, suffix):
    other = {"gif": "webp", "webp": "gif"}[suffix]
    pictures = make_animation(tmp_path / f"anim.{suffix}", [50, 250, 100])
    (tmp_path / f"anim.{suffix}").rename(tmp_path / f"anim.{other}")
    clip = read_clip(tmp_path / f"anim.{other}", ClipRequest(width=35, height=27, frame_count=0))
    assert torch.equal(clip.frames, pictures)
    assert clip.timestamps == pytest.approx((0, 0.05, 0.3))


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_that_was_cut_short_is_read_or_refused_in_one_sentence(tmp_path, suffix):
    path = tmp_path / f"anim.{suffix}"
    make_animation(path, [100] * 4, size=(9, 7))
    data = path.read_bytes()
    request = ClipRequest(width=9, height=7, frame_count=4)
    refused = 0
    for length in range(20, len(data), len(data) // 60):
        path.write_bytes(data[:length])
        try:
            assert len(read_clip(path, request).frames) == 4
        except ValueError as error:
            assert str(error).startswith(f"anim.{suffix} ")
            refused += 1
    assert refused > 40


def test_gif_frames_without_a_duration_last_a_tenth_of_a_second(tmp_path):
    make_animation(tmp_path / "anim.gif", [0, 0, 0])
    clip = read_clip(tmp_path / "anim.gif", ClipRequest(width=8, height=8, frame_count=3))
    assert clip.timestamps == pytest.approx((0, 0.1, 0.2))


def test_transparent_parts_become_black(tmp_path):
    pictures = [np.full((6, 6, 4), (200, 100, 50 + i, 255), np.uint8) for i in range(2)]
    for picture in pictures:
        picture[:3, :, 3] = 0
    first, second = (Image.fromarray(picture, "RGBA") for picture in pictures)
    first.save(tmp_path / "anim.webp", save_all=True, append_images=[second], duration=100, lossless=True, exact=True)
    clip = read_clip(tmp_path / "anim.webp", ClipRequest(width=6, height=6, frame_count=2))
    assert clip.frames[:, :3].abs().max() == 0
    assert torch.equal((clip.frames[1, 3:] * 255).round(), torch.tensor([200.0, 100, 51]).expand(3, 6, 3))


def test_folders_are_read_in_natural_order_at_the_stated_rate(tmp_path):
    names = ["f1.png", "f2.png", "F3.png", "f10.png", "f11.png", "f100.png"]
    pictures = make_folder(tmp_path / "walk", names)
    (tmp_path / "walk" / "captions.txt").write_text("not a picture")
    request = ClipRequest(width=20, height=14, frame_count=6, fps=12, folder_fps=12)
    clip = read_clip(tmp_path / "walk", request)
    assert torch.equal(clip.frames, pictures)
    assert (
        clip.report
        == "6 images at 12 fps → 6 at 12 fps, 0.0-0.5 s, 20x14; images missing by their numbers: 4-9 and 12-99"
    )


def test_folders_of_mixed_sizes_are_refused_with_the_names(tmp_path):
    make_folder(tmp_path / "walk", ["1.png", "2.png"])
    Image.new("RGB", (20, 15)).save(tmp_path / "walk" / "3.png")
    with pytest.raises(ValueError, match=r"walk differ in size: 1.png is 20x14, 3.png 20x15. Use images of one size"):
        read_clip(tmp_path / "walk", ClipRequest(width=20, height=14, frame_count=3))


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="holds no images"):
        read_clip(tmp_path, ClipRequest(width=8, height=8))


def test_photos_taken_sideways_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    for name in "12":
        Image.fromarray(gradient(1, (20, 14))).save(tmp_path / f"{name}.png", exif=exif)
    clip = read_clip(tmp_path, ClipRequest(width=14, height=20, frame_count=2))
    assert np.array_equal((clip.frames[0] * 255).round(), np.rot90(gradient(1, (20, 14)), -1))


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_videos_filmed_sideways_are_turned_upright(tmp_path, rotation):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"g": "2"})
        stream.width, stream.height, stream.pix_fmt = 34, 26, "yuv420p"
        for i in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gradient(i, (34, 26)), format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        stored = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # the track's display matrix: a b u, c d v, x y w, in 16.16 fixed point
    cos, sin = {90: (0, 1), 180: (-1, 0), -90: (0, -1)}[rotation]
    for place, value in ((0, cos), (4, -sin), (12, sin), (16, cos)):
        data[matrix + place : matrix + place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    width, height = (34, 26) if rotation == 180 else (26, 34)
    clip = read_clip(path, ClipRequest(width=width, height=height, start=0.5, frame_count=2))
    upright = np.rot90(stored[4:], rotation // 90, axes=(1, 2))  # counter-clockwise
    assert np.array_equal((clip.frames * 255).round(), upright)


def test_a_clip_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no clip 'gone.mp4'"):
        read_clip(tmp_path / "gone.mp4", ClipRequest(width=8, height=8))


def test_a_playlist_in_disguise_cannot_open_other_files(tmp_path):
    write_video(torch.rand(4, 26, 34, 3), 8, tmp_path / "private.mp4")
    (tmp_path / "film.mp4").write_text("ffconcat version 1.0\nfile private.mp4\n")
    with av.open(str(tmp_path / "film.mp4")) as container:  # FFmpeg itself would follow it
        assert len(list(container.decode(video=0))) == 4
    with pytest.raises(ValueError, match="film.mp4 is a playlist"):
        read_clip(tmp_path / "film.mp4", ClipRequest(width=34, height=26))


def test_sound_without_pictures_is_refused(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="holds no video stream"):
        read_clip(tmp_path / "sound.mp4", ClipRequest(width=8, height=8))


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the folder ../shared/clips with real clips is missing")
def test_the_real_image_folders_are_read_whole():
    clip = read_clip(CLIPS / "man_skate", ClipRequest(width=128, height=128, frame_count=8, fps=8))
    assert clip.report == "8 images at 8 fps → 8 at 8 fps, 0.0-1.0 s, 512x450 → 128x128 centre crop"
