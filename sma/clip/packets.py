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
from .reading import Reading

_INDEXED = ("mov", "matroska")  # their index leads to key frames; the others are searched from the start, undecoded
_SPOILT = 4  # MPEG-TS marks up to this many packets, counted back, where one is missing
_LONGEST_GAP = 2  # seconds; what misses more was not recorded
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
        gaps: seconds at which the container misses packets.
        refusal: why the packets end, to be raised after their frames.
    """

    stream: av.VideoStream
    packets: Iterator[av.Packet]
    origin: int = 0
    whole: bool = True
    by_rank: bool = False
    stamps: list[int] = field(default_factory=list)
    gaps: list[Fraction] = field(default_factory=list)
    refusal: ValueError | None = None

    def seconds(self, stamp: int) -> Fraction:
        return (stamp - self.origin) * Fraction(self.stream.time_base)


def open_container(path: Path) -> av.container.InputContainer:
    return av.open(
        str(path),
        container_options={"format_whitelist": FFMPEG_READERS, "protocol_whitelist": "file"},
        metadata_errors="replace",  # titles in old alphabets are no reason to refuse a film
    )


def video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    """The film's pictures: never a sound, data or cover-picture stream."""
    films = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not films:
        raise ValueError(f"{name} holds no video stream. Pick another file.")
    known = [stream for stream in films if stream.codec_context]
    if not known:
        raise ValueError(f"{name} is coded in a way that this FFmpeg does not decode. Convert it to mp4 (H.264) first.")
    best = container.streams.best("video")
    return best if best in known else known[0]


def _is_cover(stream: av.VideoStream) -> bool:
    return Disposition.attached_pic in stream.disposition


def packets_from(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    reading: Reading,
    earlier: Fraction | None,
    first_shown: Callable[[], int],
) -> Source:
    """Find the packets for the frames from the start of the reading on.

    Args:
        earlier: seconds that a seek aims before that; None reads from the film's beginning.
        first_shown: decodes the film's first frame for its stamp; called where the packets leave it open.

    Raises:
        ValueError: packets without stamps. av.FFmpegError: the seek failed.
    """
    indexed = container.format.name.startswith(_INDEXED)
    stores_no_pts = container.format.name == "avi"
    source = Source(stream, _stamped(container, stream, reading))
    if not indexed:
        source.packets = _going_on(source.packets, source, reading)
    if stores_no_pts:
        source.packets = _shown_as_stored(source.packets)
    head = _head(source.packets)
    source.packets = chain(head, source.packets)
    source.by_rank = stores_no_pts and stream.codec_context.has_b_frames
    source.origin = head[0].dts if source.by_rank else _origin(head, first_shown, indexed)
    target = source.origin + int(reading.start / stream.time_base)
    from_start = source.by_rank or stream.codec_context.pix_fmt == "pal8"  # a palette comes with the first packet alone
    if reading.start > 0 and earlier is not None and not from_start:
        aim = max(source.origin, target - int(earlier / stream.time_base))
        if not indexed:
            source.packets, source.whole = _from_key(source.packets, aim), False
        elif max(packet.dts for packet in head) < target:
            container.seek(aim, stream=stream)
            source.packets, source.whole = _stamped(container, stream, reading), False
    if source.by_rank:
        source.packets = _ranked(source.packets, source.stamps)
    return source


def _stamped(container: av.container.InputContainer, stream: av.VideoStream, reading: Reading) -> Iterator[av.Packet]:
    """The packets of a stream, each with a dts, which some containers leave out."""
    after = None
    for packet in _demuxed(container, stream, reading):
        if not packet.size:  # the one that ends a stream
            continue
        if packet.dts is None:
            packet.dts = packet.pts if after is None else after
        if packet.dts is None:
            raise ValueError(f"{reading.name} has frames without timestamps. Convert it to mp4 first.")
        after = packet.dts + (packet.duration or _usual_gap(stream))
        yield packet


def _demuxed(container: av.container.InputContainer, stream: av.VideoStream, reading: Reading) -> Iterator[av.Packet]:
    while True:
        reading.check()
        try:
            for packet in container.demux(stream):
                reading.check()
                yield packet
            return
        except av.BlockingIOError:  # MPEG-TS with much damage: FFmpeg asks to be called again
            continue


def _usual_gap(stream: av.VideoStream) -> int:
    return int(1 / ((stream.average_rate or stream.guessed_rate or 25) * stream.time_base))


def _going_on(packets: Iterator[av.Packet], source: Source, reading: Reading) -> Iterator[av.Packet]:
    """Recordings that were joined end to end start their clock anew: let it go on from where the one before ended.

    Where the container says that data is missing, and packets are, their moments go to the source's gaps.
    """
    tick = source.stream.time_base
    first = last = after = None
    offset = spoilt = 0
    for packet in packets:
        gap = packet.duration or _usual_gap(source.stream)
        if last is not None and packet.dts + offset < last:
            moment = seconds_text((after - first) * tick)
            if not packet.is_keyframe:
                text = f"{reading.name} has a clock that jumps back at {moment} s. Convert it to mp4 first."
                source.refusal = ValueError(text)  # not yet: frames from before it are still in the decoder
                return
            reading.note(f"its clock starts anew at {moment} s, continued")
            offset = after - packet.dts
        packet.dts += offset
        if packet.pts is not None:
            packet.pts += offset
        spoilt = _SPOILT if packet.is_corrupt else spoilt - 1
        if after is not None and spoilt > 0 and (packet.dts - after) * tick < _LONGEST_GAP:
            source.gaps.extend((stamp - first) * tick for stamp in range(after, packet.dts - gap // 2, gap))
        first = packet.dts if first is None else first
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


def _origin(head: list[av.Packet], first_shown: Callable[[], int], indexed: bool) -> int:
    key = next((place for place, packet in enumerate(head) if packet.is_keyframe), None)
    if key is None and not indexed:  # a broadcast that was tuned into long before its next key frame
        return first_shown()
    key = key or 0
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
