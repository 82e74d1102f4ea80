"""The film a clip is taken from: a video, an animated gif or webp, or a folder of images, as timed frames."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate
from pathlib import Path

import av
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
ANIMATION_SUFFIXES = frozenset({".gif", ".webp"})
# FFmpeg looks at contents, not names: without this list a renamed playlist would make it open the files it lists.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,flv"
_GIF_DEFAULT_MS = 100  # what browsers show a gif or webp frame for whose duration is 0 or 10 ms


@dataclass(frozen=True)
class Shot:
    """One frame: seconds after the film's first frame, and how to get its RGB picture (only of frames that are taken).

    Shots must be loaded in order, each before its film is closed.
    """

    time: Fraction
    load: Callable[[], Image.Image]


@dataclass(frozen=True)
class Film:
    """An open film: its shots in order, its mean frame rate, and what it holds in words ("91 frames at 29.97 fps")."""

    shots: Iterator[Shot]
    rate: Fraction
    holds: str


def natural_key(name: str) -> list[str | int]:
    """Sort key that puts "frame2" before "frame10"."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name.casefold()))]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order; other files are ignored."""
    return sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=lambda p: natural_key(p.name)
    )


def open_film(path: Path, *, start: float, folder_fps: float) -> AbstractContextManager[Film]:
    """Open a film near `start` seconds; the shots of a video begin at the key frame before that.

    Nothing is decoded for shots that are not loaded, but for the frames that a loaded one builds upon.

    Raises:
        ValueError: the path holds no film. av.FFmpegError, OSError: it cannot be decoded.
    """
    if path.is_dir():
        return _open_folder(path, folder_fps)
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        return _open_animation(path)
    return _open_video(path, start)


def rate_text(fps: float | Fraction) -> str:
    return f"{float(fps):.5g}"


def seconds_text(time: float | Fraction) -> str:
    """2.0, 0.33"""
    return f"{float(time):.2f}".removesuffix("0")


def fraction(number: float) -> Fraction:
    """The short fraction that was meant: 2997/100 for 29.97, not the double next to it."""
    return Fraction(number).limit_denominator(10_000)


@contextmanager
def _open_video(path: Path, start: float) -> Iterator[Film]:
    with av.open(str(path), options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}) as container:
        stream = container.streams.best("video")  # never a sound, data or cover-picture stream
        if stream is None:
            raise ValueError(f"{path.name} holds no video stream. Pick another file.")
        stream.thread_type = "AUTO"
        if start > 0:
            container.seek((stream.start_time or 0) + int(start / stream.time_base), stream=stream)
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise ValueError(f"{path.name} has no frame rate. Convert it to mp4 first.")
        yield Film(_video_shots(path.name, container, stream), Fraction(rate), _holds(container, stream, rate))


def _video_shots(name: str, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[Shot]:
    origin = stream.start_time or 0
    for frame in container.decode(stream):
        if frame.pts is None:
            raise ValueError(f"{name} has frames without timestamps. Convert it to mp4 first.")
        yield Shot((frame.pts - origin) * stream.time_base, partial(_upright, frame))


def _holds(container: av.container.InputContainer, stream: av.VideoStream, rate: Fraction) -> str:
    if stream.frames:
        length = _counted(stream.frames, "frame")
    elif container.duration:  # webm headers count no frames
        length = f"{seconds_text(Fraction(container.duration, av.time_base))} s"
    else:
        length = "unknown length"  # nor do live recordings their seconds
    return f"{length} at {rate_text(rate)} fps"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _upright(frame: av.VideoFrame) -> Image.Image:
    return frame.to_image().rotate(frame.rotation, expand=True)  # phones film sideways and say so in the file


@contextmanager
def _open_animation(path: Path) -> Iterator[Film]:
    # Pillow, because FFmpeg cannot read animated webp. Moments come from the headers: Pillow would decode every frame.
    with Image.open(path, formats=("GIF", "WEBP")) as image:
        durations = _gif_durations(path) if image.format == "GIF" else _webp_durations(path)
        times = list(
            accumulate((Fraction(ms if ms > 10 else _GIF_DEFAULT_MS, 1000) for ms in durations), initial=Fraction(0))
        )

        def load(i: int) -> Image.Image:
            try:
                image.seek(i)
                return _opaque(image)
            except (EOFError, IndexError, struct.error) as error:  # Pillow's, where a file is cut short
                raise OSError(f"frame {i + 1} is incomplete") from error

        total = len(times) - 1
        rate = total / times[-1]
        shots = (Shot(time, partial(load, i)) for i, time in enumerate(times[:-1]))
        yield Film(shots, rate, f"{_counted(total, 'frame')} at {rate_text(rate)} fps")


def _gif_durations(path: Path) -> list[int]:
    """Milliseconds of each frame."""
    with av.open(str(path), format="gif", options={"protocol_whitelist": "file"}) as container:
        packets = container.demux()
        return [int(packet.duration * packet.time_base * 1000) for packet in packets if packet.size] or [0]


def _webp_durations(path: Path) -> list[int]:
    """Milliseconds of each frame, from the ANMF chunks of the WebP container; [0] for a still image."""
    durations = []
    with path.open("rb") as file:
        end = 8 + int.from_bytes(file.read(8)[4:], "little")
        file.seek(12)
        while file.tell() < end and len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            after = file.tell() + size + size % 2  # chunks are padded to even sizes
            if header[:4] == b"ANMF":
                durations.append(int.from_bytes(file.read(16)[12:15], "little"))
            file.seek(after)
    return durations or [0]


@contextmanager
def _open_folder(path: Path, fps: float) -> Iterator[Film]:
    files = image_files(path)
    if not files:
        raise ValueError(f"The folder {path.name} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    sizes: dict[tuple[int, int], str] = {}  # with the first image of each

    def load(file: Path) -> Image.Image:
        with Image.open(file) as image:
            picture = _opaque(ImageOps.exif_transpose(image))
        sizes.setdefault(picture.size, file.name)
        if len(sizes) > 1:
            (a, first), (b, other) = sizes.items()
            raise ValueError(
                f"The images of {path.name} differ in size: {first} is {a[0]}x{a[1]}, {other} {b[0]}x{b[1]}. "
                "Use images of one size."
            )
        return picture

    rate = fraction(fps)
    shots = (Shot(i / rate, partial(load, file)) for i, file in enumerate(files))
    yield Film(shots, rate, f"{_counted(len(files), 'image')} at {rate_text(rate)} fps")


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
