"""A clip of a film: read, retimed, cropped, and told frame by frame."""

from .clip import OPEN_END_LIMIT, Clip, ClipRequest, read_clip, write_video

__all__ = ["OPEN_END_LIMIT", "Clip", "ClipRequest", "read_clip", "write_video"]
