"""The clips a user can choose, in the host's input folder and in the pack, and how the page shows them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path

import folder_paths
from aiohttp import web
from server import PromptServer

from ...sma.checks import shown
from ...sma.clip.folder import is_image
from ...sma.clip.formats import FILM_SUFFIXES
from .lists import Offered, offered
from .paths import chosen_path
from .previews import film_for_page

# Not named "examples": the host would look for workflow templates there.
EXAMPLES = Path(__file__).resolve().parents[2] / "clips"
_EXAMPLE_MARK = " [example]"


def choices() -> Offered:
    """Lists videos, animated images and folders of images right under input/, then the pack's own clips."""
    return offered("input", _in_input, always=offered("the pack's own clips", lambda: sorted(_examples()), hint=False))


def _in_input() -> list[str]:
    folder = Path(folder_paths.get_input_directory())
    entries = sorted(e for e in folder.iterdir() if not e.name.startswith(".")) if folder.is_dir() else []
    # The host refuses links out of its folder.
    entries = [entry for entry in entries if not entry.is_symlink() or chosen_path(entry.name)]
    files = [e.name for e in entries if e.suffix.lower() in FILM_SUFFIXES and e.is_file()]
    folders = [f"{e.name}/" for e in entries if e.is_dir() and _holds_images(e)]
    return files + folders


def find(file: str) -> Path:
    """Finds the clip of this name, a file or a folder below one of the host's folders or a clip of the pack.

    Raises:
        ValueError: there is none, or the name leads to a whole folder of the host or out of it.
    """
    example = _examples().get(file) if isinstance(file, str) else None
    if found := example or chosen_path(file):
        return found
    raise ValueError(f"There is no clip {shown(file)} in ComfyUI's input folder. Pick or upload one.")


def serve_clips() -> None:
    """Lets the page show what its host cannot: the pack's clips, folders of images, and films of kinds that browsers do not play.

    The page asks for every chosen file at /view, by its name in the list. Nothing is done where the pack is loaded without a server.
    """
    app = getattr(getattr(PromptServer, "instance", None), "app", None)
    if app is not None:
        app.middlewares.append(_serve_clip)


@web.middleware
async def _serve_clip(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if request.method in ("GET", "HEAD") and request.path in ("/view", "/api/view"):
        if example := _examples().get(request.query.get("filename", "")):
            return web.FileResponse(example)
        if film := await film_for_page(request.query, request.headers):
            return web.FileResponse(film)
    return await handler(request)


def _examples() -> dict[str, Path]:
    return {path.name + _EXAMPLE_MARK: path for path in EXAMPLES.glob("*.mp4")}


def _holds_images(folder: Path) -> bool:
    """Stops at the second image: the host asks for this list often, and the folder may hold thousands."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return False
    return len(list(islice(filter(is_image, folder.iterdir()), 2))) == 2
