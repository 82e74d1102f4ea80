"""Spectral Motion: video motion transfer for ComfyUI."""

import logging
import re
from importlib.util import find_spec

OLDEST_HOST = "0.20.1"


def _host_version() -> str:
    """What this ComfyUI calls itself: "0.30.0", or "0.33.0+40" where it runs from git."""
    try:
        from comfyui_version import __version__
    except ImportError:
        # That file is generated, and some copies lack it; the nodes' own interface came with 0.3.48.
        return "unknown" if find_spec("comfy_api") and find_spec("comfy_api.latest") else "older than 0.3.48"
    return str(__version__)


def _numbers(version: str) -> list[int]:
    """The first dotted number in a version, [0, 33, 0] in "v0.33.0-40-g1a2b3c4"; nothing where it names none."""
    found = re.search(r"\d+(\.\d+)+", version)
    return [int(part) for part in found.group().split(".")] if found else []


try:
    import comfy.utils  # noqa: F401  present only inside ComfyUI; without it, tools such as pytest can still collect this folder
except ImportError:
    pass
else:
    _version = _host_version()
    # A version without a number says nothing against the host.
    if _numbers(_version) and _numbers(_version) < _numbers(OLDEST_HOST):
        # The host lists a pack without an entry point as failed, and Manager shows this line as the reason.
        logging.error(
            f"Spectral Motion needs ComfyUI ≥ {OLDEST_HOST}, this is {_version}. "
            "Update ComfyUI and start it again; until then none of the pack's nodes are there."
        )
    else:
        from .nodes import comfy_entrypoint  # noqa: F401

        WEB_DIRECTORY = "./web"
