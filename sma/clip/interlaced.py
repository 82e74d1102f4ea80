"""Interlaced frames, whose every second line was filmed a moment later, as whole pictures."""

from __future__ import annotations

from fractions import Fraction

import av
import av.filter


def deinterlaced(before: av.VideoFrame | None, frame: av.VideoFrame, after: av.VideoFrame | None) -> av.VideoFrame:
    """The frame as it was at its first field, by FFmpeg's bwdif, which looks at the neighbours where there are any.

    bwdif: "Bob Weaver Deinterlacing Filter", after J. Weston, BBC R&D White Paper WHP 270.
    """
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, name="in", time_base=Fraction(1, 1000)
    )
    filters = [source, graph.add("bwdif", "mode=send_frame:deint=all"), graph.add("buffersink")]
    graph.link_nodes(*filters).configure()
    row = [_like(other, frame) for other in (before, frame, after)]
    for place, each in enumerate(row):
        stamp, each.pts = each.pts, place
        graph.push(each)
        each.pts = stamp
    graph.push(None)
    graph.pull()
    return graph.pull()


def _like(other: av.VideoFrame | None, frame: av.VideoFrame) -> av.VideoFrame:
    """The neighbour, or the frame itself where there is none of its kind."""
    kind = (frame.width, frame.height, frame.format.name)
    return other if other is not None and (other.width, other.height, other.format.name) == kind else frame
