"""Rounding a clip's length and size to what a model takes, so that nothing of it is dropped, padded or cropped later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..sma.clip import Clip, ClipRequest, read_clip
from ..sma.roles import Family


def read_snapped(path: Path, request: ClipRequest, family: Family, check: Callable[[], None]) -> Clip:
    """A clip of the legal length and size nearest to those asked for; its report tells what was rounded.

    Where the film has no more frames than were asked for, of the next shorter legal length.

    Args:
        check: called again and again; what it raises, such as a cancel, ends the reading.

    Raises:
        ValueError: as :func:`~.sma.clip.read_clip`.
    """
    sized = replace(request, width=family.nearest_side(request.width), height=family.nearest_side(request.height))
    asked = request.frame_count or len(read_clip(path, sized, check).frames)
    clip = _nearest(path, replace(sized, frame_count=asked), family, check)
    frames, height, width, _ = clip.frames.shape
    changes = []
    if frames != asked:
        changes.append(f"{frames} frames instead of {asked}")
    if (width, height) != (request.width, request.height):
        changes.append(f"{width}x{height} instead of {request.width}x{request.height}")
    return replace(clip, report=f"{clip.report}; for {family.name} {', '.join(changes)}") if changes else clip


def _nearest(path: Path, request: ClipRequest, family: Family, check: Callable[[], None]) -> Clip:
    wanted = family.nearest_frames(request.frame_count)
    shorter = wanted - family.temporal
    try:
        return read_clip(path, replace(request, frame_count=wanted), check)
    except ValueError as error:
        if not request.frame_count < wanted:
            raise
        if shorter < family.nearest_frames(2):
            raise ValueError(f"{error} {family.name} takes {wanted} frames at least.") from error
        try:
            return read_clip(path, replace(request, frame_count=shorter), check)
        except ValueError:
            raise error from None
