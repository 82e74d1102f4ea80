"""Videos, through FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path

import av

from .film import Film, Shot, counted, rate_text, seconds_text
from .formats import FFMPEG_READERS
from .frame import upright


@contextmanager
def open_video(path: Path, start: float) -> Iterator[Film]:
    with av.open(str(path), options={"format_whitelist": FFMPEG_READERS, "protocol_whitelist": "file"}) as container:
        stream = container.streams.best("video")  # never a sound, data or cover-picture stream
        if stream is None:
            raise ValueError(f"{path.name} holds no video stream. Pick another file.")
        # FFmpeg's Theora decoder (8.1) gives wrong pictures now and then with a thread for each frame.
        stream.thread_type = "SLICE" if stream.codec_context.name == "theora" else "AUTO"
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
        yield Shot((frame.pts - origin) * stream.time_base, partial(upright, frame))


def _holds(container: av.container.InputContainer, stream: av.VideoStream, rate: Fraction) -> str:
    if stream.frames:
        length = counted(stream.frames, "frame")
    elif container.duration:  # webm headers count no frames
        length = f"{seconds_text(Fraction(container.duration, av.time_base))} s"
    else:
        length = "unknown length"  # nor do live recordings their seconds
    return f"{length} at {rate_text(rate)} fps"
