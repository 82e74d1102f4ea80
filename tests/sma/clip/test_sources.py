"""Which files are read as films, and what the others are called."""

from __future__ import annotations

import re
import wave

import av
import numpy as np
import pytest
from PIL import Image

from sma.clip import ClipRequest, read_clip
from sma.clip.formats import ANIMATION_SUFFIXES, FFMPEG_READERS, FILM_SUFFIXES, VIDEO_READERS

SHADES = [20 * i for i in range(12)]
# How a file of each kind is written here: FFmpeg's writer and its codec. Theora has no encoder in PyAV: its case is a.ogv.
WRITERS = {
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "mpeg4"),
    ".mov": ("mov", "mjpeg"),
    ".qt": ("mov", "libx264"),
    ".3gp": ("3gp", "mpeg4"),
    ".3g2": ("3g2", "mpeg4"),
    ".f4v": ("f4v", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx"),
    ".avi": ("avi", "mpeg4"),
    ".flv": ("flv", "flv"),
    ".wmv": ("asf", "wmv2"),
    ".asf": ("asf", "msmpeg4"),
    ".mpg": ("mpeg", "mpeg1video"),
    ".mpeg": ("mpeg", "mpeg2video"),
    ".vob": ("vob", "mpeg2video"),
    ".ts": ("mpegts", "mpeg2video"),
    ".mts": ("mpegts", "libx264"),
    ".m2ts": ("mpegts", "libx264"),
    ".mxf": ("mxf", "mpeg2video"),
    ".y4m": ("yuv4mpegpipe", "wrapped_avframe"),
    ".apng": ("apng", "apng"),
    ".ogv": ("ogg", "libvpx"),
}


def write_film(path):
    form, codec = WRITERS[path.suffix]
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = {"mjpeg": "yuvj420p", "apng": "rgb24"}.get(codec, "yuv420p")
        for shade in SHADES:
            pixels = np.full((48, 64, 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", VIDEO_READERS)
def test_every_kind_of_video_that_is_offered_is_read_frame_by_frame(tmp_path, suffix):
    film = write_film(tmp_path / f"film{suffix}")
    clip = read_clip(film, ClipRequest(width=64, height=48, frame_count=12))
    later = read_clip(film, ClipRequest(width=64, height=48, frame_count=3, start=0.2, stride=2))
    assert (later.frames.mean(dim=(1, 2, 3)) * 255).tolist() == pytest.approx(SHADES[5:10:2], abs=6)
    assert (clip.frames.mean(dim=(1, 2, 3)) * 255).tolist() == pytest.approx(SHADES, abs=6)
    assert clip.fps == 25
    assert clip.report.split(" at ")[0] in ("12 frames", "0.48 s", "unknown length")
    assert clip.timestamps == pytest.approx([i / 25 for i in range(12)], abs=0.002)


def test_animations_are_offered_too():
    assert set(VIDEO_READERS) | ANIMATION_SUFFIXES == FILM_SUFFIXES


def test_no_reader_is_let_in_that_opens_other_files():
    """FFmpeg's playlists, scripts and numbered images."""
    readers = set(FFMPEG_READERS.split(","))
    others = {
        "concat",
        "hls",
        "dash",
        "sdp",
        "image2",
        "imf",
        "rtsp",
        "lavfi",
        "webm_dash_manifest",
        "applehttp",
        "avisynth",
    }
    assert readers == set(VIDEO_READERS.values()) and not readers & others


PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile private.mp4\n",
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nprivate.mp4\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "mpd": '<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>private.mp4</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("suffix", sorted(FILM_SUFFIXES))
def test_no_playlist_is_followed_under_any_name_that_is_offered(tmp_path, suffix):
    write_film(tmp_path / "private.mp4")
    for text in PLAYLISTS.values():
        (tmp_path / f"list{suffix}").write_text(text)
        with pytest.raises(ValueError, match=f"^list{re.escape(suffix)} (is a|cannot be read)"):
            read_clip(tmp_path / f"list{suffix}", ClipRequest(width=64, height=48, frame_count=2))


def write_sound(path):
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(4000))


FAKES = {
    "an empty file": lambda path: path.write_bytes(b""),
    "a text file": lambda path: path.write_text("héllo, not a film\n" * 40, encoding="utf-8"),
    "a web page": lambda path: path.write_text("\n <!doctype HTML><html><body>404</body></html>"),
    "a Git LFS pointer without the file it stands for": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    ),
    "a PNG picture": lambda path: Image.new("RGB", (8, 8)).save(path, "PNG"),
    "a JPEG picture": lambda path: Image.new("RGB", (8, 8)).save(path, "JPEG"),
    "a TIFF picture": lambda path: Image.new("RGB", (8, 8)).save(path, "TIFF"),
    "a zip archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(range(200))),
    "a PDF": lambda path: path.write_bytes(b"%PDF-1.7\n" + bytes(range(200))),
    "a sound file": write_sound,
}


@pytest.mark.parametrize("name", ["fake.mp4", "fake.gif", "fake.png", "fake"])
@pytest.mark.parametrize("what", FAKES)
def test_a_file_that_is_no_film_is_called_what_it_is(tmp_path, what, name):
    FAKES[what](tmp_path / name)
    with pytest.raises(ValueError) as refused:
        read_clip(tmp_path / name, ClipRequest(width=8, height=8))
    assert str(refused.value) == f"{name} is {what}. Choose a video, an animated gif or webp, or a folder of pictures."


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_single_picture_as_gif_or_webp_is_no_clip(tmp_path, suffix):
    Image.new("RGB", (8, 8)).save(tmp_path / f"still.{suffix}")
    with pytest.raises(
        ValueError, match=f"^still.{suffix} is a single picture. Choose a video, an animated gif or webp"
    ):
        read_clip(tmp_path / f"still.{suffix}", ClipRequest(width=8, height=8, frame_count=2))


@pytest.mark.parametrize("form, name", [("GIF", "film.mp4"), ("WEBP", "film.mov"), ("GIF", "film")])
def test_an_animation_is_read_under_the_name_of_a_video(tmp_path, form, name):
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 100, 200)]
    frames[0].save(tmp_path / name, form, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    clip = read_clip(tmp_path / name, ClipRequest(width=8, height=8, frame_count=3))
    assert (clip.frames[:, 0, 0, 0] * 255).round().tolist() == [0, 100, 200]


def test_a_video_is_read_under_the_name_of_an_animation(tmp_path):
    write_film(tmp_path / "film.mp4").rename(tmp_path / "film.gif")
    assert len(read_clip(tmp_path / "film.gif", ClipRequest(width=64, height=48, frame_count=12)).frames) == 12


def test_the_head_of_a_video_alone_is_called_damaged(tmp_path):
    write_film(tmp_path / "film.mp4")
    data = (tmp_path / "film.mp4").read_bytes()
    (tmp_path / "film.mp4").write_bytes(data[: data.index(b"moov")])  # as after a download that broke off
    with pytest.raises(
        ValueError, match="^film.mp4 cannot be read as a clip: it is incomplete, or no film. Pick another"
    ):
        read_clip(tmp_path / "film.mp4", ClipRequest(width=64, height=48))


def write_noise(path):
    noise = np.random.default_rng(0).integers(0, 255, (8, 24, 32, 3), dtype=np.uint8)
    first, *rest = map(Image.fromarray, noise)
    first.save(path, save_all=True, append_images=rest, duration=100)
    whole = read_clip(path, ClipRequest(width=32, height=24, frame_count=0)).frames
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return whole


def test_the_whole_frames_of_a_gif_that_was_cut_can_be_taken(tmp_path):
    whole = write_noise(tmp_path / "anim.gif")
    request = {"width": 32, "height": 24, "frame_count": 0}
    with pytest.raises(
        ValueError, match=r"^anim.gif is cut short or damaged at frame 5 of 5, 0.4 s. Lower frame_count"
    ):
        read_clip(tmp_path / "anim.gif", ClipRequest(**request))
    clip = read_clip(tmp_path / "anim.gif", ClipRequest(**request, damaged="skip"))
    assert (clip.frames == whole[:4]).all() and len(clip.frames) == 4
    assert clip.warnings == ("its frames from 0.4 s on are damaged and left out",)


def test_a_webp_that_was_cut_is_refused(tmp_path):
    """The decoder takes none of its frames."""
    write_noise(tmp_path / "anim.webp")
    with pytest.raises(ValueError, match=r"^anim.webp is cut short or damaged. Save it anew, as mp4\.$"):
        read_clip(tmp_path / "anim.webp", ClipRequest(width=32, height=24, frame_count=0))


@pytest.mark.parametrize("name", ["film.mkv", "film.avi", "film.gif"])
def test_titles_in_old_alphabets_are_no_matter(films, tmp_path, name):
    path = tmp_path / name
    if name == "film.gif":
        pictures = [Image.fromarray(films.numbered(i)) for i in range(3)]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], comment=b"Caf\xe9")
    else:
        films.write(path, 3, codec="mpeg4")
        with av.open(str(path)) as film, av.open(str(tmp_path / f"titled-{name}"), "w") as copy:
            copy.metadata["title"] = "Cafe noir"
            stream = copy.add_stream_from_template(film.streams.video[0])
            for packet in film.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    copy.mux(packet)
        path.write_bytes((tmp_path / f"titled-{name}").read_bytes().replace(b"Cafe noir", b"Caf\xe9 noir"))
    assert len(read_clip(path, ClipRequest(64, 48, frame_count=0)).frames) == 3


def test_a_codec_that_ffmpeg_does_not_know_is_refused_in_one_sentence(films, tmp_path):
    path = films.write(tmp_path / "film.mp4", 4)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(ValueError, match=r"^film.mp4 is coded in a way that this FFmpeg does not decode\. Convert it"):
        read_clip(path, ClipRequest(64, 48))


def test_a_gif_of_more_pixels_than_pillow_opens_is_refused(films, tmp_path):
    path = tmp_path / "film.gif"
    pictures = [Image.fromarray(films.numbered(i)) for i in range(3)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    data = bytearray(path.read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"  # the width and height of its canvas
    path.write_bytes(data)
    with pytest.raises(
        ValueError,
        match=r"^film.gif has pictures of too many pixels; 178 million pixels are the most\. Make them smaller\.$",
    ):
        read_clip(path, ClipRequest(64, 48, frame_count=0))


@pytest.fixture
def noisy_gif(tmp_path):
    """(path, where each picture's timing begins in the file) of a gif of three pictures."""
    noise = np.random.default_rng(0).integers(0, 255, (3, 24, 32, 3), dtype=np.uint8)
    first, *rest = map(Image.fromarray, noise)
    first.save(tmp_path / "anim.gif", save_all=True, append_images=rest, duration=100)
    data = (tmp_path / "anim.gif").read_bytes()
    return tmp_path / "anim.gif", [match.start() for match in re.finditer(rb"!\xf9\x04", data)]


def test_noise_in_the_last_frame_of_a_gif_is_named(noisy_gif):
    path, starts = noisy_gif
    data = bytearray(path.read_bytes())
    data[starts[2] + 200 : starts[2] + 1200] = bytes([255]) * 1000
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"^anim.gif is cut short or damaged at frame 3 of \d, 0.2 s. Lower frame_count"
    ):
        read_clip(path, ClipRequest(width=16, height=16, frame_count=0))
    assert len(read_clip(path, ClipRequest(width=16, height=16, frame_count=2)).frames) == 2


def test_what_stands_between_the_frames_of_a_gif_costs_none(noisy_gif):
    path, starts = noisy_gif
    request = ClipRequest(width=32, height=24, frame_count=0)
    whole, data = read_clip(path, request).frames, path.read_bytes()
    path.write_bytes(data[: starts[1]] + b"noise" + data[starts[1] :])
    assert (read_clip(path, request).frames == whole).all()
