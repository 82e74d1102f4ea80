"""Clips that browsers do not play, such as gifs and folders of images, shown to the page as small mp4 films."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import uuid
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import av
import folder_paths
import numpy as np
import torch

from ...sma.clip import write_video
from ...sma.clip.fit import fitted
from ...sma.clip.folder import image_files
from ...sma.clip.formats import FILM_SUFFIXES
from ...sma.clip.sources import open_film
from .paths import chosen_path

_PLAYED = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".f4v", ".3gp", ".3g2", ".webm", ".mkv"}
)  # by some browsers at least
_FRAMES = 64  # of a preview: the film's first
_SIDE = 320  # pixels of its longer side
_FOLDER_FPS = 8.0  # as the node's widget begins
_making = threading.Lock()  # the page asks twice for one film


async def film_for_page(query: Mapping[str, str], headers: Mapping[str, str]) -> Path | None:
    """Finds or makes the film that a request of the page for a chosen file is answered with; None where the host answers as ever.

    Browsers say in a header what they will do with an answer: a gif is made a film only where it would be played as one. Folders are
    asked for by nobody else.
    """
    name, subfolder = query.get("filename", ""), query.get("subfolder", "")
    path = chosen_path(f"{subfolder}/{name}".lstrip("/") + f" [{query.get('type', 'input')}]")
    if path is None:
        return None
    played_as_film = headers.get("Sec-Fetch-Dest") == "video" and path.suffix.lower() in FILM_SUFFIXES - _PLAYED
    if not path.is_dir() and not played_as_film:
        return None
    try:
        return await asyncio.to_thread(_preview, path)
    except (ValueError, OSError, av.FFmpegError):  # said when the node runs
        return None


def _preview(path: Path) -> Path:
    entries = image_files(path) if path.is_dir() else [path]
    state = repr([(str(entry), entry.stat().st_mtime_ns, entry.stat().st_size) for entry in entries])
    folder = Path(folder_paths.get_temp_directory())
    kept = folder / f"sma_preview_{hashlib.sha256(state.encode()).hexdigest()[:32]}.mp4"
    with _making:
        if not kept.exists():
            folder.mkdir(parents=True, exist_ok=True)
            made = folder / f"sma_preview_{uuid.uuid4().hex}.mp4"
            _write(path, made)
            os.replace(made, kept)  # noqa: PTH105
    return kept


def _write(path: Path, target: Path) -> None:
    with open_film(path, start=0.0, folder_fps=_FOLDER_FPS, damaged="skip") as film:
        frames = [_small(shot.load()) for shot in islice(film.shots, _FRAMES)]
        if not frames:
            raise ValueError(f"{path.name} has no frames.")
        write_video(torch.from_numpy(np.stack(frames)), float(film.rate), target)


def _small(picture: np.ndarray) -> np.ndarray:
    height, width, _ = picture.shape
    scale = min(1.0, _SIDE / max(height, width))
    sides = [max(2, 2 * round(side * scale / 2)) for side in (width, height)]
    return fitted(picture, *sides, "stretch")
