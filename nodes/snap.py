"""Rounding a clip's length and size to what a model takes, so that nothing of it is dropped, padded or cropped later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..sma.clip import Clip, ClipRequest, read_clip
from ..sma.roles import Family


def read_snapped(path: Path, request: ClipRequest, family: Family) -> Clip:
    """A clip of the legal length and size nearest to those asked for; its report tells what was rounded.

    Where the film has no more frames than were asked for, of the next shorter legal length.

    Raises:
        ValueError: as :func:`~.sma.clip.read_clip`.
    """
    sized = replace(request, width=family.nearest_side(request.width), height=family.nearest_side(request.height))
    clip = _nearest(path, sized, family)
    frames, height, width, _ = clip.frames.shape
    changes = []
    if request.frame_count not in (0, frames):
        changes.append(f"{frames} frames instead of {request.frame_count}")
    if (width, height) != (request.width, request.height):
        changes.append(f"{width}x{height} instead of {request.width}x{request.height}")
    return replace(clip, report=f"{clip.report}; for {family.name} {', '.join(changes)}") if changes else clip


def _nearest(path: Path, request: ClipRequest, family: Family) -> Clip:
    available = request.frame_count or len(read_clip(path, request).frames)
    wanted = family.nearest_frames(available)
    try:
        return read_clip(path, replace(request, frame_count=wanted))
    except ValueError:
        shorter = family.nearest_frames(wanted - family.temporal)
        if not 2 <= shorter < available < wanted:
            raise
        return read_clip(path, replace(request, frame_count=shorter))
