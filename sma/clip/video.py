"""Videos, through FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from .colour import conversion
from .decode import Moment, moments
from .film import Check, Damaged, Film, Shot, counted, fraction, rate_text, seconds_text
from .frame import picture
from .interlaced import deinterlaced
from .limits import check_picture
from .packets import open_container, video_stream
from .reading import Reading
from .shape import pixel_shape, pixel_text, squared, tilt_of, turn_of

_CUT_OFF = Fraction(1, 2)  # seconds that may lack at a film's end before it is said


@contextmanager
def open_video(path: Path, start: float, damaged: Damaged, check: Check) -> Iterator[Film]:
    """Open a video near `start` seconds.

    Args:
        damaged: "refuse" raises at a damaged frame, "skip" passes it over and says so in the film's notes and warnings.
        check: called for every packet; what it raises ends the reading.
    """
    notes: dict[str, None] = {}
    with open_container(path) as container:
        stream = video_stream(container, path.name)
        check_picture(path.name, stream.width, stream.height)
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise ValueError(f"{path.name} has no frame rate. Convert it to mp4 first.")
        holds = _holds(container, stream, rate)
        announced = _announced(container, stream)
        look = _Look(
            pixel_shape(stream.sample_aspect_ratio),
            int(stream.codec_context.color_trc),
            int(stream.codec_context.color_primaries),
            # By the format's own rule the fourth byte of its pixels is unused: most writers leave 0 there.
            container.format.name == "avi" and stream.codec_context.name == "rawvideo",
            notes,
        )
    film = Film(iter(()), Fraction(rate), holds, notes)
    reading = Reading(path, fraction(start), damaged == "skip", film, check)
    with closing(_shots(reading, look, announced)) as shots:
        yield replace(film, shots=shots)


def _holds(container: av.container.InputContainer, stream: av.VideoStream, rate: Fraction) -> str:
    if stream.frames:
        length = counted(stream.frames, "frame")
    elif (
        container.duration and container.format.name != "mpeg"
    ):  # webm counts no frames; of mpg FFmpeg's guess is too short
        length = f"{seconds_text(Fraction(container.duration, av.time_base))} s"
    else:
        length = "unknown length"  # nor do live recordings their seconds
    return f"{length} at {rate_text(rate)} fps"


def _announced(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    """Seconds of the film by its own header."""
    if container.format.name == "avi" and stream.frames:  # where it was cut, FFmpeg takes what is left for its duration
        return stream.frames / Fraction(stream.average_rate or stream.guessed_rate)
    if stream.duration:
        return stream.duration * Fraction(stream.time_base)
    return Fraction(container.duration, av.time_base) if container.duration else None


@dataclass(frozen=True)
class _Look:
    """How a film's frames become pictures, and the notes of its report."""

    pixel: Fraction
    transfer: int
    primaries: int
    opaque: bool
    notes: dict[str, None]

    def load(self, before: av.VideoFrame | None, frame: av.VideoFrame, after: av.VideoFrame | None) -> np.ndarray:
        turn, pixel = turn_of(frame), self.pixel
        if frame.interlaced_frame:
            frame = deinterlaced(before, frame, after)
            self.notes["deinterlaced"] = None
        shown = turn(picture(frame, self.transfer, self.primaries, self.opaque))
        if tilt := tilt_of(frame):
            self.notes[f"to be turned by {tilt} degrees more, which is left out"] = None
        if turn.swap:
            pixel = 1 / pixel
        squares = squared(shown, pixel)
        if squares.shape != shown.shape:
            self.notes[pixel_text(pixel)] = None
        if done := conversion(self.transfer, self.primaries):
            self.notes[done] = None
        return squares


def _shots(reading: Reading, look: _Look, announced: Fraction | None) -> Iterator[Shot]:
    before = held = None
    end = Fraction(0)
    for moment in moments(reading):
        if held:
            yield _shot(before, held, moment, look)
            before, held = held, None
        if moment.frame.interlaced_frame:  # which needs the frame after it
            held = moment
        else:
            yield _shot(None, moment, None, look)
            before = moment
        end = moment.time + 1 / reading.film.rate
    if held:
        yield _shot(before, held, None, look)
    if announced and end < announced - _CUT_OFF:
        reading.warn(f"its pictures end at {seconds_text(end)} s, the file announces {seconds_text(announced)} s")


def _shot(before: Moment | None, now: Moment, after: Moment | None, look: _Look) -> Shot:
    frames = [moment and moment.frame for moment in (before, now, after)]
    return Shot(now.time, partial(look.load, *frames))
