"""Which files hold a film, and opening one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from .animation import open_animation
from .film import Film
from .folder import open_folder
from .video import Damaged, open_video

ANIMATION_SUFFIXES = frozenset({".gif", ".webp"})


def open_film(
    path: Path, *, start: float, folder_fps: float, damaged: Damaged = "refuse"
) -> AbstractContextManager[Film]:
    """Open a film near `start` seconds; the shots of a video begin at the key frame before that.

    Nothing is decoded for shots that are not loaded, but for the frames that a loaded one builds upon.

    Args:
        damaged: "refuse" raises at a damaged frame of a video, "skip" passes it over and tells.

    Raises:
        ValueError: the path holds no film. av.FFmpegError, OSError: it cannot be decoded.
    """
    if path.is_dir():
        return open_folder(path, folder_fps)
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        return open_animation(path)
    return open_video(path, start, damaged)
