"""Clips against frames that av decodes on its own."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from sma.clip import OPEN_END_LIMIT, ClipRequest, read_clip, write_video

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"
shared_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="the folder ../shared/clips with real clips is missing")


def make_video(path, frames=48, rate=24, size=(34, 26), pts=None, codec="libx264", noise=False):
    """A film whose every frame differs: a white bar moves over a background that brightens."""
    width, height = size
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "12", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if pts:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(frames):
            picture = np.full((height, width, 3), (4 * i % 200, 60, 200 - 4 * i % 200), np.uint8)
            if noise:
                picture[:] = generator.integers(0, 255, picture.shape)
            picture[: height // 2, i % width] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if pts:
                frame.pts, frame.time_base = pts[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode(path):
    """All frames of a video: seconds [F] and pixels [F, H, W, 3] in 0..1."""
    times, frames = decode_frames(path)
    return times, rgb(frames)


def decode_frames(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = np.array([float(frame.pts * frame.time_base) for frame in frames])
    return times - times[0], frames


def rgb(frames):
    return torch.from_numpy(np.stack([frame.to_ndarray(format="rgb24") for frame in frames])).float() / 255


def source_size(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return {"width": stream.width, "height": stream.height}


@pytest.mark.parametrize("codec, suffix", [("libx264", "mp4"), ("libvpx", "webm")])
@pytest.mark.parametrize("rate", [24, Fraction(30000, 1001)])
@pytest.mark.parametrize("fps", [5.0, 8.0, 10.7, 23.9])
@pytest.mark.parametrize("start", [0.0, 0.33, 1.2])
def test_retiming_takes_the_frame_nearest_to_each_moment(tmp_path, codec, suffix, rate, fps, start):
    path = make_video(tmp_path / f"film.{suffix}", frames=60, rate=rate, codec=codec)
    times, pixels = decode(path)
    clip = read_clip(path, ClipRequest(**source_size(path), start=start, frame_count=4, fps=fps))
    nearest = [int(np.abs(times - (start + k / fps)).argmin()) for k in range(4)]
    assert torch.equal(clip.frames, pixels[nearest])
    assert clip.timestamps == pytest.approx(times[nearest])
    assert clip.fps == pytest.approx(fps)


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("start, first", [(0.0, 0), (0.5, 12), (0.52, 12), (0.53, 13)])
def test_stride_takes_every_nth_frame_from_the_one_nearest_to_start(tmp_path, stride, start, first):
    path = make_video(tmp_path / "film.mp4")
    _, pixels = decode(path)
    clip = read_clip(path, ClipRequest(**source_size(path), start=start, frame_count=5, stride=stride))
    assert torch.equal(clip.frames, pixels[first : first + 5 * stride : stride])
    assert clip.fps == pytest.approx(24 / stride)


def test_uneven_timestamps_are_followed_and_told(tmp_path):
    pts = [0, 40, 80, 120, 400, 440, 900, 1000, 1040, 1080]
    path = make_video(tmp_path / "film.mp4", frames=10, rate=25, pts=pts)
    times, pixels = decode(path)
    assert times.tolist() == pytest.approx([p / 1000 for p in pts])
    clip = read_clip(path, ClipRequest(**source_size(path), frame_count=3, fps=2))  # 0, 0.5, 1.0 s
    assert torch.equal(clip.frames, pixels[[0, 5, 7]])
    assert "→ 3 at 2 fps, " in clip.report
    clip = read_clip(path, ClipRequest(**source_size(path), start=0.25, frame_count=2, fps=2))  # 0.25, 0.75 s
    assert clip.timestamps == pytest.approx((0.12, 0.9))
    assert "→ 2 at 2 fps (uneven, up to 0.15 s off), 0.12-1.12 s" in clip.report
    clip = read_clip(path, ClipRequest(**source_size(path), frame_count=6))
    assert clip.fps == pytest.approx(5 / 0.44)
    assert "11.364 fps on average (uneven, 0.04 to 0.28 s apart)" in clip.report
    with pytest.raises(ValueError, match=r"its frame at 0.12 s would be repeated. Lower fps or use a stride"):
        read_clip(path, ClipRequest(**source_size(path), frame_count=8, fps=12))


@pytest.mark.parametrize(
    "target, columns, rows",
    [((14, 14), (3, 17), (0, 14)), ((20, 5), (0, 20), (4, 9)), ((7, 14), (6, 13), (0, 14))],
)
def test_centre_crop_cuts_both_ends_of_the_longer_side_alike(tmp_path, target, columns, rows):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 14, 20, 3), np.uint8)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    clip = read_clip(tmp_path, ClipRequest(width=target[0], height=target[1], frame_count=2))
    assert torch.equal(clip.frames, torch.from_numpy(pictures / 255).float()[:, slice(*rows), slice(*columns)])


def test_stretch_keeps_what_centre_crop_cuts(tmp_path):
    picture = np.zeros((20, 60, 3), np.uint8)
    for third in range(3):
        picture[:, 20 * third : 20 * third + 20, third] = 255
    for name in "12":
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    centre = read_clip(tmp_path, ClipRequest(width=20, height=20, frame_count=2))
    assert torch.equal(centre.frames, torch.tensor([0.0, 1, 0]).expand(2, 20, 20, 3))
    stretched = read_clip(tmp_path, ClipRequest(width=30, height=20, frame_count=2, crop="stretch"))
    assert torch.equal(stretched.frames[0, 10, [2, 15, 27]], torch.eye(3))


def test_shrinking_does_not_alias(tmp_path):
    checks = np.indices((64, 48)).sum(0) % 2 * 255
    for name in "12":
        Image.fromarray(np.repeat(checks[..., None], 3, 2).astype(np.uint8)).save(tmp_path / f"{name}.png")
    clip = read_clip(tmp_path, ClipRequest(width=12, height=16, frame_count=2))
    assert (clip.frames - 0.5).abs().max() < 0.02


def test_a_long_film_is_decoded_only_where_it_is_needed(tmp_path):
    """The rest of the file is garbage, which no reader of the whole film would survive."""
    path = make_video(tmp_path / "film.mp4", frames=240, size=(64, 64), noise=True)
    times, pixels = decode(path)
    with av.open(str(path)) as container:
        packets = [(p.pts * p.time_base, p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for time, position, size in packets:
        if not 4 <= time < 7:  # key frames every half second
            data[position : position + size] = bytes(size)
    path.write_bytes(data)
    clip = read_clip(path, ClipRequest(width=64, height=64, start=4.25, frame_count=4, fps=8))
    assert torch.equal(clip.frames, pixels[[102, 105, 108, 111]])
    with pytest.raises(ValueError, match="cannot be read"):
        read_clip(path, ClipRequest(width=64, height=64, frame_count=4, fps=8))


def test_frame_count_0_takes_everything_to_the_end(tmp_path):
    path = make_video(tmp_path / "film.mp4", frames=30)
    _, pixels = decode(path)
    assert torch.equal(read_clip(path, ClipRequest(**source_size(path), frame_count=0)).frames, pixels)
    late = read_clip(path, ClipRequest(**source_size(path), frame_count=0, start=0.5, fps=12))
    assert torch.equal(late.frames, pixels[12::2])


def test_frame_count_0_stops_short_of_filling_the_memory(tmp_path):
    pictures = [Image.new("RGB", (2, 2), (i % 256, i // 256, 0)) for i in range(OPEN_END_LIMIT + 1)]
    pictures[0].save(tmp_path / "long.webp", save_all=True, append_images=pictures[1:], duration=50, lossless=True)
    with pytest.raises(ValueError, match=f"more than {OPEN_END_LIMIT} frames from 0.0 s"):
        read_clip(tmp_path / "long.webp", ClipRequest(width=2, height=2, frame_count=0))
    clip = read_clip(tmp_path / "long.webp", ClipRequest(width=2, height=2, frame_count=0, stride=2))
    assert len(clip.frames) == OPEN_END_LIMIT // 2 + 1


def test_short_films_are_refused_with_value_need_and_remedy(tmp_path):
    path = make_video(tmp_path / "film.mp4", frames=24)
    size = source_size(path)
    message = (
        "film.mp4 has 24 frames at 24 fps; 16 frames at 8 fps need 2.0 s from 0.0 s, it has 1.0 s. "
        "Lower frame_count, or raise fps."
    )
    with pytest.raises(ValueError) as refused:
        read_clip(path, ClipRequest(**size, fps=8))
    assert str(refused.value) == message
    with pytest.raises(ValueError, match=r"need 1.33 s from 0.5 s, it has 0.5 s. Lower start or frame_count or stride"):
        read_clip(path, ClipRequest(**size, start=0.5, stride=2))
    with pytest.raises(ValueError, match=r"and ends at [\d.]+ s; start is 7.0 s. Lower start.$"):
        read_clip(path, ClipRequest(**size, start=7))
    with pytest.raises(ValueError, match=r"1 of them from 0.96 s on; motion needs at least 2. Lower start"):
        read_clip(path, ClipRequest(**size, start=0.96, frame_count=0))


def test_the_last_frame_counts_where_the_film_just_reaches_it(tmp_path):
    path = make_video(tmp_path / "film.mp4", frames=22)  # the last frame is at 0.875 s = 7 / 8
    assert read_clip(path, ClipRequest(**source_size(path), frame_count=8, fps=8)).timestamps[-1] == 0.875


def test_frames_are_never_repeated_to_reach_a_higher_rate(tmp_path):
    path = make_video(tmp_path / "film.mp4", frames=24)
    with pytest.raises(ValueError, match="24 frames at 24 fps, too few for 30 fps"):
        read_clip(path, ClipRequest(**source_size(path), fps=30))


def test_a_rate_that_only_rounds_the_films_own_is_no_repeat(tmp_path):
    path = make_video(tmp_path / "film.mp4", frames=30, rate=Fraction(30000, 1001))
    _, pixels = decode(path)
    for fps in (29.97, 30):
        clip = read_clip(path, ClipRequest(**source_size(path), frame_count=30, fps=fps))
        assert torch.equal(clip.frames, pixels)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"width": 0}, "0x16"),
        ({"start": -1.0}, "start is -1.0"),
        ({"frame_count": 1}, "at least 2"),
        ({"frame_count": -3}, "at least 2"),
        ({"fps": 0.0}, "fps is 0.0"),
        ({"folder_fps": 0.0}, "folder_fps 0.0"),
        ({"stride": 0}, "stride is 0"),
        ({"stride": 2, "fps": 8.0}, "stride is 2"),
        ({"crop": "pad"}, "centre, stretch"),
    ],
)
def test_impossible_requests_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ClipRequest(**{"width": 16, "height": 16, **wrong})


def test_written_videos_read_back_nearly_the_same(tmp_path):
    ramp = torch.linspace(0, 1, 32).expand(9, 24, 32)
    frames = torch.stack([ramp, ramp.flip(2), torch.linspace(0, 1, 9)[:, None, None].expand(9, 24, 32)], dim=-1)
    write_video(frames, 29.97, tmp_path / "out.mp4")
    clip = read_clip(tmp_path / "out.mp4", ClipRequest(width=32, height=24, frame_count=0))
    assert clip.frames.shape == frames.shape
    assert clip.fps == pytest.approx(29.97)
    assert (clip.frames - frames).abs().mean() < 0.02


def test_writing_odd_sizes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="even sides, these frames are 33x24"):
        write_video(torch.zeros(2, 24, 33, 3), 8, tmp_path / "out.mp4")


@shared_clips
def test_the_real_film_with_data_streams_is_reported_as_promised():
    clip = read_clip(CLIPS / "man-skiing.mp4", ClipRequest(width=256, height=256, frame_count=16, fps=8))
    expected = "91 frames at 29.97 fps → 16 at 8 fps, 0.0-2.0 s, 718x718 → 256x256 centre crop"
    assert clip.report == expected
    assert clip.frames.shape == (16, 256, 256, 3) and clip.frames.dtype == torch.float32
    times, frames = decode_frames(CLIPS / "man-skiing.mp4")
    nearest = [int(np.abs(times - (1 + k / 8)).argmin()) for k in range(4)]
    full = read_clip(CLIPS / "man-skiing.mp4", ClipRequest(width=718, height=718, start=1, frame_count=4, fps=8))
    assert torch.equal(full.frames, rgb([frames[i] for i in nearest]))
