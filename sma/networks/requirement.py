"""Libraries that only some networks need. Installing the pack brings none of them: they could change others that are there."""

from __future__ import annotations

import importlib
import re
import sys
from importlib import metadata, util
from types import ModuleType

# The oldest version that works, by the name for import and for pip alike.
_OLDEST = {"diffusers": "0.31"}
# Older hub libraries are what an older transformers needs; these diffusers work with them, and ask for no newest version of anything.
_HUB_BELOW_DIFFUSERS_BELOW = (((0, 27), "0.33"), ((0, 34), "0.35"))
_DIFFUSERS_BELOW = "0.36"


def require(module: str, network: str) -> ModuleType:
    """Import a module of a library that a network needs and the pack does not install.

    Args:
        module: such as "diffusers.models.embeddings"; its library is one that is known here.
        network: who needs it, by the name the user knows, such as "AnimateDiff".

    Raises:
        ImportError: the library is missing, too old or fails to import; the message is a sentence with the command that mends it.
    """
    library = module.partition(".")[0]
    oldest = _OLDEST[library]
    found = _version(library)
    if not _is_there(library):
        problem = f"{library}, which is not installed"
    elif found and _numbers(found) < _numbers(oldest):
        problem = f"{library} {oldest} or newer, and {found} is installed"
    else:
        try:
            return importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  other libraries raise anything here, and the remedy is one
            reason = str(error).strip().partition("\n")[0][:200].rstrip(".")
            problem = (
                f"{library}, and the installed {found or 'one'} fails to import ({type(error).__name__}: {reason})"
            )
            raise ImportError(_sentence(network, problem, library)) from error
    raise ImportError(_sentence(network, problem, library))


def specifier(library: str) -> str:
    """What to ask pip for, so that it installs a library and changes no other package of this environment."""
    bound = f">={_OLDEST[library]}"
    if library != "diffusers":
        return library + bound
    hub = _version("huggingface-hub")
    for limit, below in _HUB_BELOW_DIFFUSERS_BELOW:
        if hub and _numbers(hub) < limit:
            return f"{library}{bound},<{below}"
    return f"{library}{bound},<{_DIFFUSERS_BELOW}"


def _sentence(network: str, problem: str, library: str) -> str:
    executable = sys.executable or "python"  # unknown where Python is embedded
    python = f'"{executable}"' if " " in executable else executable
    if not _is_there("pip"):
        command = f"uv pip install --python {python}"
    else:
        # Portable builds of the host run without the user's own packages, so pip must not count those either.
        command = f"{python}{' -s' if sys.flags.no_user_site else ''} -m pip install"
    return f'{network} needs {problem}. Run {command} "{specifier(library)}" and restart ComfyUI.'


def _is_there(library: str) -> bool:
    try:
        return util.find_spec(library) is not None
    except ValueError:  # a stand-in that another pack put among the loaded modules
        return True


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except (
        metadata.PackageNotFoundError,
        KeyError,
    ):  # KeyError: a record without a version, as a broken installation leaves it
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
