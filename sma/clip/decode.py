"""The frames of a film in order of presentation, each with its moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain

import av
from av.video.frame import PictureType

from .clock import Clock, Watch
from .film import seconds_text
from .packets import Source, open_container, packets_from, video_stream
from .reading import Reading

# Seconds that a seek aims before the start, if the one before came out behind it; None: from the film's beginning.
_EARLIER = (Fraction(0), Fraction(2), Fraction(16), None)
# Codecs whose frames several threads decode at once. Others gain little, and some (Theora) mix up their frames then.
_THREADED = frozenset({"h264", "hevc", "vp9"})
# FFmpeg's own decoders of these leave transparency out.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True)
class Moment:
    """A frame and the seconds after the film's first frame at which it is shown."""

    time: Fraction
    frame: av.VideoFrame


def moments(reading: Reading) -> Iterator[Moment]:
    """Decode the frames from one at or before the start to the film's end, each later than the one before.

    Raises:
        ValueError: a damaged frame, which is refused, or one that cannot be put in order.
    """
    last = None
    try:
        for moment in _from_start(reading, careful=False):
            last = moment.time
            yield moment
        return
    except (av.FFmpegError, _Unsure):
        pass
    # Threads tell of a damaged frame several frames later. Once more without them, to know which it is.
    for moment in _from_start(reading, careful=True):
        if last is None or moment.time > last:
            yield moment


def _from_start(reading: Reading, careful: bool) -> Iterator[Moment]:
    for earlier in _EARLIER:
        reading.start_over()
        with open_container(reading.path) as container:
            stream = video_stream(container, reading.name)
            try:
                source = packets_from(container, stream, reading, earlier, partial(_first_stamp, reading))
            except av.FFmpegError:
                if earlier is None:
                    raise
                continue
            threaded = stream.codec_context.name in _THREADED and not careful and not source.by_rank
            stream.thread_type = "AUTO" if threaded else "SLICE"
            with closing(_in_order(_timed(source, reading, not threaded), reading)) as found:
                first = next(found, None)
                if source.whole or (first and first.time <= reading.start):
                    if first:
                        yield first
                    yield from found
                    return


def _first_stamp(reading: Reading) -> int:
    """Stamp of the first frame that the decoder shows."""
    with open_container(reading.path) as container:
        stream = video_stream(container, reading.name)
        for packet in container.demux(stream):
            reading.check()
            try:
                for frame in packet.decode():
                    if frame.pts is not None and not frame.is_corrupt:
                        return frame.pts
            except av.FFmpegError:  # met again, and told of, when the frames are read
                continue
    raise ValueError(f"{reading.name} holds no frame that can be read. Pick another file.")


def _timed(source: Source, reading: Reading, careful: bool) -> Iterator[Moment]:
    """Frames as the decoder gives them out, which is the order of presentation."""
    decode = _decoder(source.stream, reading)
    clock, watch = Clock(source), Watch(source)
    lost: dict[Fraction, Exception | None] = {}  # damaged frames that no later one has been shown after
    entered = False
    for packet in chain(source.packets, [None]):
        try:
            watch.goes_in(packet)
            frames = decode(packet)
        except av.FFmpegError as error:
            if not careful:
                raise
            watch.forget(packet)
            lost[clock.loses(packet)] = error
            continue
        for frame in frames:
            time, missing = clock.shows(frame), watch.comes_out(frame)
            entered = entered or _can_begin(frame, source.whole)
            if not entered and not source.whole:
                if time > reading.start:
                    return  # too late for the start: the next seek aims earlier
                continue
            if not entered and time < 0:  # leans on what was sent before the recording began
                continue
            if not careful and (missing or frame.is_corrupt):
                raise _Unsure
            lost.update(dict.fromkeys(source.gaps))
            source.gaps.clear()
            # Some codecs store frames that are never shown: one that is missing is damaged only after another was.
            if lost or reading.is_damaged:
                lost.update(dict.fromkeys(missing))
            if frame.is_corrupt:
                lost[time] = None
            for moment in [moment for moment in sorted(lost) if moment <= time]:
                reading.lose(moment, lost.pop(moment))
            if not frame.is_corrupt:
                yield Moment(time, frame)
    if watch.inside and not careful:
        raise _Unsure
    for moment in sorted(lost):
        reading.lose(moment, lost[moment])
    if source.refusal:
        raise source.refusal


def _can_begin(frame: av.VideoFrame, whole: bool) -> bool:
    """Whether all from this frame on can be shown.

    Not the frames that lean on what was not read, nor, where a film is entered in its middle, those of a stream without key
    frames, which becomes clear bit by bit.
    """
    return not frame.is_corrupt and (whole or frame.pict_type not in (PictureType.P, PictureType.B))


class _Unsure(Exception):
    """A frame went into the decoder and did not come out whole."""


def _decoder(stream: av.VideoStream, reading: Reading) -> Callable[[av.Packet | None], Sequence[av.VideoFrame]]:
    context = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and context.name in _ALPHA_DECODERS:
        try:
            alpha = av.CodecContext.create(_ALPHA_DECODERS[context.name], "r")
        except ValueError:
            reading.note("its transparency cannot be read with this PyAV")
        else:
            alpha.extradata = context.extradata
            context = alpha
    return context.decode


def _in_order(frames: Iterator[Moment], reading: Reading) -> Iterator[Moment]:
    last = None
    for moment in frames:
        if last is None or moment.time > last:
            last = moment.time
            yield moment
        elif moment.time == last:
            reading.leave_out(last)
        elif reading.is_damaged:  # decoders lose the order there
            reading.lose(moment.time)
        else:
            raise ValueError(
                f"{reading.name} cannot be put in order: after its frame at {seconds_text(last)} s comes one at "
                f"{seconds_text(moment.time)} s. Convert it to mp4 first."
            )
