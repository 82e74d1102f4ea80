"""Frames by presentation time, whatever the container: generated films against what was written into them."""

from __future__ import annotations

import io
import random
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from sma.clip import ClipRequest, read_clip

SIZE = {"width": 64, "height": 48}
LENGTH = 96
REQUESTS = 20
UNEVEN = np.cumsum([0.0, *(0.02 + 0.06 * (i * 7 % 5) / 4 for i in range(LENGTH - 1))]).round(3)
X264 = {"codec": "libx264", "g": "12", "bf": "3"}
OPEN_GOP = X264 | {"x264-params": "open-gop=1:scenecut=0"}
# fmt: off
FILMS = {
    "h264.mp4": X264,
    "h264-open-gop.mp4": OPEN_GOP | {"rate": Fraction(30000, 1001)},
    "h264-one-gop.mp4": X264 | {"g": "300"},
    "h264-fragments.mp4": X264 | {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "h264-uneven.mp4": X264 | {"times": UNEVEN},
    "h264-late.mp4": X264 | {"times": 2.5 + np.arange(LENGTH) / 25},
    "h264-refreshed.mp4": {"codec": "libx264", "x264-params": "intra-refresh=1:keyint=24:bframes=0"},
    "hevc-open-gop.mkv": {"codec": "libx265", "x265-params": "log-level=none:open-gop=1:keyint=12:bframes=4"},
    "h264-uneven.mkv": OPEN_GOP | {"times": UNEVEN},
    "mpeg4.mkv": {"codec": "mpeg4", "g": "10", "bf": "2", "b": "3000000"},
    "vp8.webm": {"codec": "libvpx", "g": "24", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "2000000"},
    "vp9-uneven.webm": {"codec": "libvpx-vp9", "g": "24", "times": UNEVEN, "cpu-used": "8", "b": "2000000"},
    "h264.ts": X264,
    "h264-open-gop.ts": OPEN_GOP | {"rate": 25},
    "h264-late-uneven.ts": X264 | {"times": 7 + UNEVEN},
    "mpeg2.ts": {"codec": "mpeg2video", "g": "12", "bf": "2", "b": "4000000", "rate": 25},
    "h264.flv": X264,
    "h264.avi": X264,
    "h264-open-gop.avi": OPEN_GOP,
    "mpeg4.avi": {"codec": "mpeg4", "g": "10", "bf": "2", "b": "3000000"},
    "mpeg4-plain.avi": {"codec": "mpeg4", "g": "10", "b": "3000000"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "rate": 15, "q:v": "3"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "qtrle.mov": {"codec": "qtrle", "pix_fmt": "rgb24", "g": "12"},
    "h264-live.mkv": X264 | {"container": {"live": "1"}},
    "h264-wrap.ts": X264 | {"times": 95_442 + np.arange(LENGTH) / 25},  # the clock of 33 bits overflows at 95,443.7 s
    "h264-interlaced.ts": X264 | {"x264-params": "tff=1:scenecut=0"},
    "mpeg1.mpg": {"codec": "mpeg1video", "g": "12", "bf": "2", "b": "4000000"},
    "wmv2.wmv": {"codec": "wmv2", "g": "12", "b": "4000000"},
}
# fmt: on


def numbers(films, clip):
    return [films.number_of(picture) for picture in clip.frames.numpy()]


def expected(times, request):
    """The numbers of the frames to take; None where there are too few; "either" where it hangs on a thousandth of a second."""
    moments = [request.start + k / request.fps for k in range(request.frame_count)] if request.fps else [request.start]
    taken = []
    for moment in moments:
        away = np.abs(times - moment)
        nearest, next_to_it = np.argsort(away, kind="stable")[:2]
        if away[next_to_it] - away[nearest] < 0.004 or 0 < moment - times[-1] < 1:
            return "either"
        if moment > times[-1]:
            return None
        taken.append(int(nearest))
    if not request.fps:
        taken = [taken[0] + k * request.stride for k in range(request.frame_count)]
    return None if taken[-1] >= len(times) or len(set(taken)) < len(taken) else taken


@pytest.mark.parametrize("name", FILMS)
def test_any_request_takes_the_frames_that_a_full_decode_has_at_those_times(films, tmp_path, name):
    """20 requests of each of 29 films, 580 in all."""
    settings = {"rate": 24} | FILMS[name]
    path = films.write(tmp_path / name, LENGTH, **settings)
    times = np.array(settings.get("times", np.arange(LENGTH) / float(settings["rate"])))
    times = times - times[0]
    with av.open(str(path)) as film:  # that the file holds what it should; AVI has no presentation times to sort by
        decoded = list(film.decode(video=0))
    if path.suffix != ".avi":
        decoded.sort(key=lambda frame: frame.pts)
        stamps = np.array([float(frame.pts * frame.time_base) for frame in decoded])
        assert stamps - stamps[0] == pytest.approx(times, abs=0.0021)
    assert [films.number_of(f.to_ndarray(format="rgb24") / 255) for f in decoded] == list(range(LENGTH))

    choose = random.Random(name)
    mean = (LENGTH - 1) / times[-1]
    asked = refused = 0
    while asked < REQUESTS:
        timing = {"fps": choose.choice([3.0, 5.7, 8.0, 11.99, mean])} if choose.random() < 0.6 else {}
        timing = timing or {"stride": choose.choice([1, 1, 2, 3, 7])}
        start = choose.choice([0.0, round(choose.uniform(0, times[-1] * 1.05), 2)])
        request = ClipRequest(**SIZE, start=start, frame_count=choose.choice([2, 4, 9]), **timing)
        wanted = expected(times, request)
        if wanted == "either":
            continue
        asked += 1
        if wanted is None:
            refused += 1
            with pytest.raises(ValueError, match="need|repeated"):
                read_clip(path, request)
            continue
        clip = read_clip(path, request)
        assert numbers(films, clip) == wanted, request
        assert clip.timestamps == pytest.approx(times[wanted], abs=0.0021)
    assert refused < REQUESTS


def remuxed(source, path, change, **options):
    """A copy of a film with other stamps on its packets."""
    with av.open(str(source)) as film, av.open(str(path), "w", options=options) as copy:
        stream = film.streams.video[0]
        written = copy.add_stream_from_template(stream)
        for packet in film.demux(stream):
            if packet.size:
                change(packet)
                packet.stream = written
                copy.mux(packet)
    return path


def without_its_first_packets(source, path, count):
    with av.open(str(source)) as film, av.open(str(path), "w") as copy:
        written = copy.add_stream_from_template(film.streams.video[0])
        for packet in list(film.demux(video=0))[count:-1]:
            packet.stream = written
            copy.mux(packet)
    return path


@pytest.mark.parametrize("start, first", [(0.0, 5), (0.3, 12), (1.0, 29)])
def test_what_an_edit_list_cuts_off_is_not_shown(films, tmp_path, start, first):
    source = films.write(tmp_path / "whole.mp4", 48, g="24", bf="2")

    def five_frames_earlier(packet):
        packet.pts -= int(5 / 24 / packet.time_base)
        packet.dts -= int(5 / 24 / packet.time_base)

    path = remuxed(source, tmp_path / "cut.mp4", five_frames_earlier, avoid_negative_ts="disabled")
    clip = read_clip(path, ClipRequest(**SIZE, start=start, frame_count=4))
    assert numbers(films, clip) == [first, first + 1, first + 2, first + 3]


@pytest.fixture(scope="module")
def parts(films, tmp_path_factory):
    """Two recordings of a second each, whose clocks begin alike; the second goes on counting."""
    folder = tmp_path_factory.mktemp("parts")
    pictures = [films.numbered(i) for i in range(48)]
    options = {"g": "12", "bf": "3", "x264-params": "scenecut=0"}
    return [films.write(folder / f"{i}.ts", pictures[24 * i : 24 * i + 24], **options).read_bytes() for i in range(2)]


@pytest.mark.parametrize("start", [0.0, 0.5, 0.96, 1.0, 1.25, 1.7])
def test_joined_recordings_go_on_where_the_clock_starts_anew(films, tmp_path, parts, start):
    path = tmp_path / "joined.ts"
    path.write_bytes(parts[0] + parts[1])
    clip = read_clip(path, ClipRequest(**SIZE, start=start, frame_count=0))
    first = round(start * 24)
    assert numbers(films, clip) == list(range(first, 48))
    assert clip.timestamps == pytest.approx([i / 24 for i in range(first, 48)])
    assert clip.report.endswith("its clock starts anew at 1.0 s, continued")
    clip = read_clip(path, ClipRequest(**SIZE, start=start, frame_count=2, fps=8))
    assert numbers(films, clip) == [first, first + 3]


def test_a_clock_that_jumps_back_between_key_frames_is_refused_with_the_moment(films, tmp_path, parts):
    (tmp_path / "second.ts").write_bytes(parts[1])
    torn = without_its_first_packets(tmp_path / "second.ts", tmp_path / "rest.ts", 3)
    path = tmp_path / "torn.ts"
    path.write_bytes(parts[0] + torn.read_bytes())
    assert numbers(films, read_clip(path, ClipRequest(**SIZE, frame_count=12))) == list(range(12))
    with pytest.raises(ValueError, match=r"torn.ts has a clock that jumps back at 1.0 s. Convert it to mp4 first."):
        read_clip(path, ClipRequest(**SIZE, frame_count=0))


def test_frames_that_cannot_be_put_in_order_are_refused_with_the_moment(films, tmp_path):
    """An mp4 that gives each frame the time at which it is decoded, as some broken writers do."""
    source = films.write(tmp_path / "whole.mp4", 48, g="12", bf="3")

    def as_decoded(packet):
        packet.pts = packet.dts

    path = remuxed(source, tmp_path / "broken.mp4", as_decoded)
    with pytest.raises(
        ValueError, match=r"broken.mp4 cannot be put in order: after its frame at 0\.\d+ s comes one at 0"
    ):
        read_clip(path, ClipRequest(**SIZE, frame_count=12))


def test_of_two_frames_for_one_moment_one_is_left_out_and_told(films, tmp_path):
    source = films.write(tmp_path / "whole.mkv", 12, codec="mpeg4", g="4")
    stamps = iter([0, 42, 83, 83, 167, 208, 250, 292, 333, 375, 417, 458])

    def restamp(packet):
        packet.pts = packet.dts = next(stamps)

    path = remuxed(source, tmp_path / "twice.mkv", restamp)
    clip = read_clip(path, ClipRequest(**SIZE, frame_count=0))
    assert numbers(films, clip) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert clip.report.endswith("; 1 frame at another's moment left out at 0.08 s")


def test_a_broadcast_that_was_tuned_into_begins_at_its_first_whole_picture(films, tmp_path):
    """The first packets lean on a key frame that was sent before."""
    source = films.write(tmp_path / "whole.ts", 48, g="12", bf="2", **{"x264-params": "scenecut=0"})
    path = without_its_first_packets(source, tmp_path / "tuned.ts", 5)
    for start, first in ((0.0, 12), (0.5, 24), (1.0, 36)):
        clip = read_clip(path, ClipRequest(**SIZE, start=start, frame_count=4))
        assert numbers(films, clip) == [first, first + 1, first + 2, first + 3]
        assert clip.timestamps[0] == pytest.approx(start)


def test_a_broadcast_may_begin_long_before_its_first_key_frame(films, tmp_path):
    source = films.write(tmp_path / "whole.ts", 120, g="80", bf="0", **{"x264-params": "scenecut=0"})
    path = without_its_first_packets(source, tmp_path / "tuned.ts", 5)
    clip = read_clip(path, ClipRequest(**SIZE, frame_count=4))
    assert numbers(films, clip) == [80, 81, 82, 83]
    assert clip.timestamps[0] == 0


def test_a_cover_picture_is_never_the_film(films, tmp_path):
    cover = io.BytesIO()
    Image.new("RGB", (200, 200), "white").save(cover, "PNG")
    source = films.write(tmp_path / "whole.mkv", 12)
    for name, kind in (("film.mkv", "video"), ("song.mka", "audio")):
        with av.open(str(source)) as film, av.open(str(tmp_path / name), "w", format="matroska") as copy:
            stream = film.streams.video[0]
            if kind == "video":
                written = copy.add_stream_from_template(stream)
            else:
                sound = copy.add_stream("aac", rate=44100, layout="mono")
            copy.add_attachment("cover.png", "image/png", cover.getvalue())
            for packet in film.demux(stream) if kind == "video" else ():
                if packet.size:
                    packet.stream = written
                    copy.mux(packet)
            if kind == "audio":
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
                silence.sample_rate, silence.pts = 44100, 0
                copy.mux([*sound.encode(silence), *sound.encode()])
    clip = read_clip(tmp_path / "film.mkv", ClipRequest(**SIZE, frame_count=0))
    assert numbers(films, clip) == list(range(12))
    with av.open(str(tmp_path / "song.mka")) as song:
        assert song.streams.best("video") is not None  # FFmpeg would give the cover
    with pytest.raises(ValueError, match="song.mka holds no video stream"):
        read_clip(tmp_path / "song.mka", ClipRequest(**SIZE))
