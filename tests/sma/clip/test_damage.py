"""Damaged frames and files that were cut short: refused with the moment, or passed over and told."""

from __future__ import annotations

import random

import pytest

from sma.clip import ClipRequest, read_clip

SIZE = {"width": 64, "height": 48}
FRAMES = 96
DAMAGED = 30
# fmt: off
FILMS = {
    "h264.mp4": {"g": "12", "bf": "0"},
    "h264-b-frames.mp4": {"g": "12", "bf": "3"},
    "h264-b-frames.avi": {"g": "12", "bf": "3"},
    "mpeg4.mkv": {"codec": "mpeg4", "g": "12", "b": "3000000"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "q:v": "3"},
}
# fmt: on


def all_noise(data, generator):
    return bytes(generator.randrange(256) for _ in data)


def second_half_zeros(data, generator):
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def damage(films, path, place, spoil):
    """Spoils the data of one packet, in the order they are stored; its seconds are returned."""
    time, position, size = films.packets(path)[place]
    data = bytearray(path.read_bytes())
    # Matroska and AVI put a few bytes of their own before a frame.
    begin = position + (12 if path.suffix in (".mkv", ".avi") else 0)
    data[begin : position + size] = spoil(bytes(data[begin : position + size]), random.Random(place))
    path.write_bytes(data)
    return time


def seconds(time):
    return f"{time:.2f}".removesuffix("0")


def numbers(films, clip):
    return [films.number_of(picture) for picture in clip.frames.numpy()]


@pytest.mark.parametrize("name", FILMS)
def test_a_damaged_frame_is_refused_with_its_moment_or_passed_over_and_told(films, tmp_path, name):
    """As ffmpeg, which reads all frames but this one."""
    path = films.write(tmp_path / name, FRAMES, **FILMS[name])
    time = damage(films, path, DAMAGED, all_noise)
    if path.suffix == ".avi":  # its packets carry the time of decoding: the same film tells when this one is shown
        time = films.packets(films.write(tmp_path / "twin.mp4", FRAMES, **FILMS[name]))[DAMAGED][0]
    lost = round(time * 24)
    with pytest.raises(ValueError, match=rf"^{name} cannot be read at {seconds(time)} s: its frame there is damaged"):
        read_clip(path, ClipRequest(**SIZE, frame_count=0))
    clip = read_clip(path, ClipRequest(**SIZE, frame_count=0, damaged="skip"))
    assert clip.timestamps == pytest.approx([i / 24 for i in range(FRAMES) if i != lost], abs=0.001)
    key = min(FRAMES, (DAMAGED // 12 + 1) * 12)  # until there frames lean on the damaged one
    assert numbers(films, clip)[: lost - 3] == list(range(lost - 3))
    assert numbers(films, clip)[key - 1 :] == list(range(key, FRAMES))
    assert clip.warnings == (f"1 damaged frame passed over at {seconds(time)} s",)
    assert clip.report.endswith(f"; {clip.warnings[0]}")


def test_a_film_that_was_cut_short_says_so_where_it_is_too_short(films, tmp_path):
    path = films.write(tmp_path / "film.mp4", FRAMES, container={"movflags": "+faststart"})
    *_, (_, position, _) = films.packets(path)[: FRAMES // 2]
    path.write_bytes(path.read_bytes()[:position])
    with pytest.raises(
        ValueError, match=r"^film.mp4 has .*its pictures end at .* s, the file announces .*\); .* frames at 8 fps need"
    ):
        read_clip(path, ClipRequest(**SIZE, frame_count=FRAMES // 3, fps=8.0, damaged="skip"))
    clip = read_clip(path, ClipRequest(**SIZE, frame_count=0, damaged="skip"))
    assert any(warning.startswith("its pictures end at") for warning in clip.warnings)


def test_frames_after_a_damaged_one_keep_their_moments(films, tmp_path):
    path = films.write(tmp_path / "film.mp4", FRAMES, g="12", bf="2")
    damage(films, path, DAMAGED, all_noise)
    for start in (0.0, 1.0, 2.2):
        clip = read_clip(path, ClipRequest(**SIZE, start=start, frame_count=4, fps=1 / 0.45, damaged="skip"))
        wanted = [round((start + 0.45 * k) * 24 + 1e-6) for k in range(4)]
        assert numbers(films, clip) == [wanted[0], *wanted[1:]]
        assert bool(clip.warnings) == (start < 1.5)


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.mkv", "prores.mov"])
def test_a_frame_that_the_decoder_patches_up_counts_as_damaged(films, tmp_path, name):
    path = films.write(tmp_path / name, FRAMES, **FILMS[name])
    time = damage(films, path, 36, second_half_zeros)
    with pytest.raises(ValueError, match=f"cannot be read at {seconds(time)} s: its frame there is damaged"):
        read_clip(path, ClipRequest(**SIZE, frame_count=0))
    clip = read_clip(path, ClipRequest(**SIZE, frame_count=0, damaged="skip"))
    assert f"1 damaged frame passed over at {seconds(time)} s" in clip.report
    assert len(clip.frames) == FRAMES - 1


def test_several_damaged_frames_are_counted(films, tmp_path):
    path = films.write(tmp_path / "film.mp4", FRAMES, g="12", bf="0")
    times = [damage(films, path, place, all_noise) for place in (20, 40, 41, 70)]
    clip = read_clip(path, ClipRequest(**SIZE, frame_count=0, damaged="skip"))
    assert clip.warnings == (f"4 damaged frames passed over between {seconds(times[0])} and {seconds(times[-1])} s",)
    assert len(clip.frames) == FRAMES - 4


def test_damage_before_and_after_what_is_taken_is_no_matter(films, tmp_path):
    path = films.write(tmp_path / "film.mp4", FRAMES, g="12", bf="0")
    for place in (5, 80):
        damage(films, path, place, all_noise)
    clip = read_clip(path, ClipRequest(**SIZE, start=1.5, frame_count=24))
    assert numbers(films, clip) == list(range(36, 60))
    assert clip.warnings == ()


@pytest.mark.parametrize("name", ["h264.mp4", "h264-b-frames.mp4", "mpeg4.mkv", "mjpeg.avi"])
def test_frames_up_to_the_damaged_one_are_no_matter(films, tmp_path, name):
    path = films.write(tmp_path / name, FRAMES, **FILMS[name])
    lost = round(damage(films, path, DAMAGED, all_noise) * 24)
    whole = lost - 4 if "b-frames" in name else lost  # frames between may lean on it
    clip = read_clip(path, ClipRequest(**SIZE, frame_count=whole - 1))
    assert numbers(films, clip) == list(range(whole - 1))


def test_lost_packets_of_a_broadcast_are_damage(films, tmp_path):
    path = films.write(tmp_path / "film.ts", FRAMES, g="12", bf="0")
    (time, position, _), (_, end, _) = films.packets(path)[DAMAGED : DAMAGED + 2]
    first = films.packets(path)[0][0]
    data = path.read_bytes()
    path.write_bytes(data[:position] + data[end:])
    with pytest.raises(ValueError, match=rf"cannot be read at {seconds(time - first)} s"):
        read_clip(path, ClipRequest(**SIZE, frame_count=0))
    clip = read_clip(path, ClipRequest(**SIZE, frame_count=0, damaged="skip"))
    assert clip.warnings == (f"1 damaged frame passed over at {seconds(time - first)} s",)
    assert len(clip.frames) == FRAMES - 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "ts", "avi", "flv"])
@pytest.mark.parametrize("share", [0.03, 0.3, 0.7])
def test_files_that_were_cut_short_are_read_to_there_or_refused_in_one_sentence(films, tmp_path, suffix, share):
    codec = {"codec": "libvpx", "b": "2000000"} if suffix == "webm" else {"bf": "0"}
    path = films.write(tmp_path / f"film.{suffix}", FRAMES, g="12", **codec)
    data = path.read_bytes()
    left = int(len(data) * share)
    whole = sum(position + size <= left for _, position, size in films.packets(path))
    path.write_bytes(data[:left])
    try:
        clip = read_clip(path, ClipRequest(**SIZE, frame_count=0, damaged="skip"))
    except ValueError as error:
        assert str(error).startswith(f"film.{suffix} ") and str(error).count(". ") <= 1
        assert suffix == "mp4" or whole < 3  # an mp4 has its table of contents at the end
    else:
        count = len(clip.frames)
        assert whole - 2 <= count <= whole + 1
        assert numbers(films, clip) == list(range(count))
        told = ("announces 4.0", "damaged frame passed over at")
        assert any(words in clip.report for words in told) or suffix == "ts"  # a broadcast may end anywhere


def test_a_cut_film_says_that_it_is_incomplete(films, tmp_path):
    path = films.write(tmp_path / "film.mp4", FRAMES)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(
        ValueError, match="^film.mp4 cannot be read as a clip: it is incomplete, or no film. Pick another"
    ):
        read_clip(path, ClipRequest(**SIZE))


@pytest.mark.parametrize("name", ["h264.mp4", "h264-b-frames.mp4", "mpeg4.mkv", "prores.mov"])
def test_a_damaged_first_frame_is_not_passed_over_in_silence(films, tmp_path, name):
    path = films.write(tmp_path / name, FRAMES, **FILMS[name])
    damage(films, path, 0, second_half_zeros)
    with pytest.raises(ValueError, match=f"^{name} cannot be read at 0.0 s: its frame there is damaged"):
        read_clip(path, ClipRequest(**SIZE, frame_count=4))
    clip = read_clip(path, ClipRequest(**SIZE, frame_count=0, damaged="skip"))
    assert "damaged frame" in clip.warnings[0] and clip.timestamps[0] > 0
    assert numbers(films, clip)[-1] == FRAMES - 1


def test_an_avi_that_was_cut_between_two_frames_is_told(films, tmp_path):
    path = films.write(tmp_path / "film.avi", FRAMES, codec="mjpeg", pix_fmt="yuvj420p")
    _, position, size = films.packets(path)[47]
    path.write_bytes(path.read_bytes()[: position + 8 + size])
    clip = read_clip(path, ClipRequest(**SIZE, frame_count=0))
    assert numbers(films, clip) == list(range(48))
    assert clip.report.endswith("; its pictures end at 2.0 s, the file announces 4.0 s")


def test_a_broadcast_that_ends_in_noise_is_read(films, tmp_path):
    """FFmpeg loses its way there, and asks to be called again."""
    path = films.write(tmp_path / "film.ts", 24, g="12", bf="0")
    data = path.read_bytes()
    for length in range(320, 350, 6):
        path.write_bytes(data[:-length] + random.Random(2).randbytes(length))
        clip = read_clip(path, ClipRequest(**SIZE, frame_count=0, damaged="skip"))
        assert numbers(films, clip)[:21] == list(range(21))


def test_nothing_but_the_two_ways_with_damage_is_taken():
    with pytest.raises(ValueError, match="refuse, skip"):
        ClipRequest(**SIZE, damaged="ignore")
