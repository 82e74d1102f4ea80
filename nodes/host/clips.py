"""The clips a user can choose, in the host's input folder and in the pack, and where the page finds them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path

import folder_paths
from aiohttp import web
from server import PromptServer

from ...sma.checks import shown
from ...sma.clip.folder import IMAGE_SUFFIXES
from ...sma.clip.sources import ANIMATION_SUFFIXES
from .lists import Offered, offered
from .paths import chosen_path

# Not named "examples": the host would look for workflow templates there.
EXAMPLES = Path(__file__).resolve().parents[2] / "clips"
_EXAMPLE_MARK = " [example]"


def choices() -> Offered:
    """Lists videos, animated images and folders of images right under input/, then the pack's own clips."""
    return offered("input", _in_input, always=offered("the pack's own clips", lambda: sorted(_examples()), hint=False))


def _in_input() -> list[str]:
    folder = Path(folder_paths.get_input_directory())
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    # The host refuses links out of its folder.
    entries = [entry for entry in entries if not entry.is_symlink() or chosen_path(entry.name)]
    videos = set(folder_paths.filter_files_content_types([e.name for e in entries if e.is_file()], ["video"]))
    files = [e.name for e in entries if e.name in videos or (e.is_file() and e.suffix.lower() in ANIMATION_SUFFIXES)]
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


def serve_examples() -> None:
    """Lets the page fetch the pack's clips where it looks for every chosen file: /view, with the name as it stands in the list.

    The host would look for that name in its own folders and find nothing. Nothing is done where the pack is loaded without a server.
    """
    app = getattr(getattr(PromptServer, "instance", None), "app", None)
    if app is not None:
        app.middlewares.append(_serve_example)


@web.middleware
async def _serve_example(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if request.method in ("GET", "HEAD") and request.path in ("/view", "/api/view"):
        if example := _examples().get(request.query.get("filename", "")):
            return web.FileResponse(example)
    return await handler(request)


def _examples() -> dict[str, Path]:
    return {path.name + _EXAMPLE_MARK: path for path in EXAMPLES.glob("*.mp4")}


def _holds_images(folder: Path) -> bool:
    """Stops at the second image: the host asks for this list often, and the folder may hold thousands."""
    if not os.access(folder, os.R_OK | os.X_OK):
        return False
    images = (entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
    return len(list(islice(images, 2))) == 2
