"""Which reader opens a film, and what a file is that none of them reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import av
from PIL import Image

from ..checks import check_regular
from .animation import open_animation
from .contents import GIF, WEBP, what_it_is
from .film import Check, Damaged, Film, no_check
from .folder import open_folder
from .formats import WHAT_IS_A_CLIP
from .limits import too_large
from .video import open_video


@contextmanager
def open_film(
    path: Path, *, start: float, folder_fps: float, damaged: Damaged = "refuse", check: Check = no_check
) -> Iterator[Film]:
    """Open a film near `start` seconds; the shots of a video begin at the key frame before that.

    Files are taken for what they hold, whatever their names. Nothing is decoded for shots that are not loaded, but for the frames
    that a loaded one builds upon.

    Args:
        damaged: "refuse" raises at a damaged frame or image, "skip" passes it over and tells.
        check: called for every packet and picture; what it raises ends the reading.

    Raises:
        ValueError: the path holds no film, and the message says what it is; or pictures too large to open. av.FFmpegError, OSError: it
            cannot be decoded.
    """
    if not path.is_dir():
        check_regular(path)
    what = "" if path.is_dir() else what_it_is(path)
    with ExitStack() as stack, _bounded_pictures(path.name):
        try:
            film = stack.enter_context(_reader(path, what, start, folder_fps, damaged, check))
        except (av.FFmpegError, OSError) as error:
            system = error.errno and not isinstance(error, av.FFmpegError)  # Pillow's errors have no number
            if not what or system:
                raise
            if what in (GIF, WEBP):
                raise ValueError(f"{path.name} is cut short or damaged. Save it anew, as mp4.") from error
            raise ValueError(f"{path.name} is {what}. Choose {WHAT_IS_A_CLIP}.") from error
        yield film


@contextmanager
def _bounded_pictures(name: str) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:  # a gif may grow with any frame
        raise too_large(name, "too many pixels") from error


def _reader(
    path: Path, what: str, start: float, folder_fps: float, damaged: Damaged, check: Check
) -> AbstractContextManager[Film]:
    if path.is_dir():
        return open_folder(path, folder_fps, damaged, check)
    return open_animation(path, damaged, check) if what in (GIF, WEBP) else open_video(path, start, damaged, check)
