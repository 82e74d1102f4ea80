"""The packets of a film from where its frames are wanted, on one clock that only goes forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
from av.stream import Disposition

from .film import seconds_text
from .formats import FFMPEG_READERS

_INDEXED = ("mov", "matroska")  # their index leads to key frames; the others are searched from the start, undecoded
_SPOILT = 4  # MPEG-TS marks up to this many packets, counted back, where one is missing
_HEAD = 64  # packets that hold the first frame shown, whatever the order they are stored in


@dataclass
class Source:
    """One pass through a film: its packets in decoding order, and how their stamps become seconds.

    Fields:
        packets: from a key frame at or before the moment asked for, without dummies, pts and dts on one clock. Where
            `by_rank` is set pts is the packet's place in `stamps` instead.
        origin: stamp of the first frame shown.
        whole: the packets begin where the film does.
        by_rank: the film stores no presentation times, and shows its frames in another order than it stores them.
        stamps: dts of the packets read so far.
        gaps: stamps at which the container misses packets.
    """

    stream: av.VideoStream
    packets: Iterator[av.Packet]
    origin: int = 0
    whole: bool = True
    by_rank: bool = False
    stamps: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)

    def seconds(self, stamp: int) -> Fraction:
        return (stamp - self.origin) * Fraction(self.stream.time_base)


def open_container(path: Path) -> av.container.InputContainer:
    return av.open(str(path), container_options={"format_whitelist": FFMPEG_READERS, "protocol_whitelist": "file"})


def video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    """The film's pictures: never a sound, data or cover-picture stream."""
    films = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not films:
        raise ValueError(f"{name} holds no video stream. Pick another file.")
    best = container.streams.best("video")
    return best if best in films else films[0]


def _is_cover(stream: av.VideoStream) -> bool:
    return Disposition.attached_pic in stream.disposition


def packets_from(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    name: str,
    start: Fraction,
    earlier: Fraction | None,
    first_shown: Callable[[], int],
    note: Callable[[str], None],
) -> Source:
    """Find the packets for the frames from `start` seconds on.

    Args:
        earlier: seconds that a seek aims before that; None reads from the film's beginning.
        first_shown: decodes the film's first frame for its stamp; called where the packets leave it open.
        note: takes what the report needs to say.

    Raises:
        ValueError: packets without stamps, or a clock that jumps back. av.FFmpegError: the seek failed.
    """
    indexed = container.format.name.startswith(_INDEXED)
    packets = _stamped(_real(container.demux(stream)), name, stream)
    gaps: list[int] = []
    if not indexed:
        packets = _going_on(packets, name, stream, note, gaps)
    stores_no_pts = container.format.name == "avi"
    if stores_no_pts:
        packets = _shown_as_stored(packets)
    head = _head(packets)
    by_rank = stores_no_pts and stream.codec_context.has_b_frames
    origin = head[0].dts if by_rank else _origin(head, first_shown)
    source = Source(stream, chain(head, packets), origin, by_rank=by_rank, gaps=gaps)
    target = origin + int(start / stream.time_base)
    if start > 0 and earlier is not None and not by_rank:
        if not indexed:
            source.packets, source.whole = _from_key(source.packets, target), False
        elif max(packet.dts for packet in head) < target:
            packets.close()
            container.seek(max(origin, target - int(earlier / stream.time_base)), stream=stream)
            source.packets, source.whole = _stamped(_real(container.demux(stream)), name, stream), False
    if by_rank:
        source.packets = _ranked(source.packets, source.stamps)
    return source


def _real(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Without the empty packet that ends a stream."""
    return (packet for packet in packets if packet.size)


def _stamped(packets: Iterator[av.Packet], name: str, stream: av.VideoStream) -> Iterator[av.Packet]:
    """With a dts each, which some containers leave out."""
    after = None
    for packet in packets:
        if packet.dts is None:
            packet.dts = packet.pts if after is None else after
        if packet.dts is None:
            raise ValueError(f"{name} has frames without timestamps. Convert it to mp4 first.")
        after = packet.dts + (packet.duration or _usual_gap(stream))
        yield packet


def _usual_gap(stream: av.VideoStream) -> int:
    return int(1 / ((stream.average_rate or stream.guessed_rate or 25) * stream.time_base))


def _going_on(
    packets: Iterator[av.Packet], name: str, stream: av.VideoStream, note: Callable[[str], None], gaps: list[int]
) -> Iterator[av.Packet]:
    """Recordings that were joined end to end start their clock anew: let it go on from where the one before ended.

    Where the container says that data is missing, and packets are, their stamps go to `gaps`.
    """
    first = last = after = None
    offset = delay = 0
    spoilt = 0
    for packet in packets:
        gap = packet.duration or _usual_gap(stream)
        if last is not None and packet.dts + offset < last:
            moment = seconds_text((after - first) * stream.time_base)
            if not packet.is_keyframe:
                raise ValueError(f"{name} has a clock that jumps back at {moment} s. Convert it to mp4 first.")
            note(f"its clock starts anew at {moment} s, continued")
            offset = after - packet.dts
        spoilt = _SPOILT if packet.is_corrupt else spoilt - 1
        if after is not None and spoilt > 0:
            gaps.extend(stamp + delay for stamp in range(after, packet.dts + offset - gap // 2, gap))
        packet.dts += offset
        if packet.pts is not None:
            packet.pts += offset
        if first is None:
            first, delay = packet.dts, _pts(packet) - packet.dts
        last, after = packet.dts, packet.dts + gap
        yield packet


def _head(packets: Iterator[av.Packet]) -> list[av.Packet]:
    """The packets up to the second key frame."""
    head: list[av.Packet] = []
    keys = 0
    for packet in packets:
        head.append(packet)
        keys += packet.is_keyframe
        if keys == 2 or len(head) == _HEAD:
            break
    return head


def _origin(head: list[av.Packet], first_shown: Callable[[], int]) -> int:
    key = next((place for place, packet in enumerate(head) if packet.is_keyframe), 0)
    # An edit list begins in the middle: what lies before is decoded, and not shown.
    shown = [_pts(packet) for packet in head[key:] if not packet.is_discard]
    if not shown:
        return first_shown()
    if not head[key].is_discard and min(shown) < _pts(head[key]):
        return first_shown()  # pictures before the first key frame: up to the decoder whether it can show them
    return min(shown)


def _pts(packet: av.Packet) -> int:
    return packet.dts if packet.pts is None else packet.pts


def _from_key(packets: Iterator[av.Packet], target: int) -> Iterator[av.Packet]:
    """From the last key frame that is shown at the target or before it. No more is held than what follows a key frame."""
    held: list[av.Packet] = []
    for packet in packets:
        if packet.is_keyframe and _pts(packet) <= target:
            held = []
        held.append(packet)
        if packet.dts > target:
            break
    yield from held
    yield from packets


def _shown_as_stored(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    for packet in packets:
        packet.pts = packet.dts
        yield packet


def _ranked(packets: Iterator[av.Packet], stamps: list[int]) -> Iterator[av.Packet]:
    for packet in packets:
        stamps.append(packet.dts)
        packet.pts = len(stamps) - 1
        yield packet
