"""When each frame of a film is shown, and which never are."""

from __future__ import annotations

from fractions import Fraction

import av

from .packets import Source


class Clock:
    """Gives each frame its moment, in the order in which the decoder shows them.

    Where the container stores no presentation times the n-th frame shown has the n-th stamp, whichever packet it came in, and a
    damaged packet takes up a stamp too. A frame without a stamp comes one usual gap after the one before.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._usual = 1 / Fraction(source.stream.average_rate or source.stream.guessed_rate or 25)
        self._last = -self._usual
        self._shown = 0
        self._lost: list[int] = []

    def shows(self, frame: av.VideoFrame) -> Fraction:
        """Seconds of the frame after the film's first."""
        stamp = self._ranked(frame.pts) if self._source.by_rank else frame.pts
        self._last = self._last + self._usual if stamp is None else self._source.seconds(stamp)
        return self._last

    def loses(self, packet: av.Packet | None) -> Fraction:
        """Seconds at which the frame of a damaged packet would have been shown; None is the film's end."""
        stamp = packet and packet.pts
        if packet and self._source.by_rank:
            self._lost.append(packet.pts)
            stamp = self._source.stamps[packet.pts]
        return self._last + self._usual if stamp is None else self._source.seconds(stamp)

    def _ranked(self, place: int | None) -> int:
        while self._lost and place is not None and self._lost[0] < place:
            del self._lost[0]
            self._shown += 1
        self._shown += 1
        stamps = self._source.stamps
        return stamps[min(self._shown, len(stamps)) - 1]


class Watch:
    """Sees whether every frame that goes into a decoder comes out: with threads it may drop a damaged one in silence.

    Fields:
        inside: stamps of the frames that have not come out yet.
    """

    def __init__(self, source: Source) -> None:
        self.inside: set[int] = set()
        self._source = source
        self._first: int | None = None

    def goes_in(self, packet: av.Packet | None) -> None:
        if packet is None or packet.pts is None or packet.is_discard or self._source.by_rank:
            return
        # What comes before the first frame that is shown leans on frames from before the key frame.
        if self._first is None or packet.pts > self._first:
            self.inside.add(packet.pts)

    def comes_out(self, frame: av.VideoFrame) -> list[Fraction]:
        """The seconds of frames that should have come out before."""
        if frame.pts is None or self._source.by_rank:
            return []
        late = sorted(stamp for stamp in self.inside if stamp < frame.pts)
        self.inside.difference_update(late, [frame.pts])
        missing = [] if self._first is None else late
        self._first = frame.pts if self._first is None else self._first
        return [self._source.seconds(stamp) for stamp in missing]

    def forget(self, packet: av.Packet | None) -> None:
        if packet:
            self.inside.discard(packet.pts)
