"""The files the pack offers and writes: LoRAs under output/loras, where the host's LoRA pickers look, and training states elsewhere."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import folder_paths

from ...sma.checks import shown as written
from ...sma.disk import DiskError
from .lists import host_file, host_files

_STATES = "spectral_motion"
# States that the output folder did not take; the host empties this folder when it starts.
_SPARE = "spectral_motion/states"
_SPARE_MARK = " [temp]"
# Bytes of a file name's prefix. A file system takes names of 255; the rest is for the step, the part and the counter.
_LONGEST = 180
# Not in file names of every system: half characters and control characters, and what Windows forbids.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def clean_prefix(prefix: str) -> str:
    """A file name prefix as every system takes it: a/b for ``a\\b``, ``a/b/`` and ``a/./b. ``, folders first.

    Raises:
        ValueError: it names no file, leads out of the folder, is too long or holds what a system refuses.
    """
    parts: list[str] = []
    slashed = prefix.replace("\\", "/")
    for part in slashed.split("/"):
        if part == ".." or slashed.startswith("/"):
            if not parts:
                raise ValueError(
                    f"The file name prefix {written(prefix)} leads out of its folder; choose a plain name."
                )
            parts.pop()
        elif name := part.strip(" ").rstrip(". "):  # Windows drops them at the end, so that two names become one
            parts.append(name)
    if not parts:
        raise ValueError(f"The file name prefix {written(prefix)} names no file; choose a plain name.")
    for name in parts:
        if found := _FORBIDDEN.search(name):
            raise ValueError(
                f"The file name prefix {written(prefix)} holds {found[0]!r}, which not every disk takes; leave it out."
            )
        if _RESERVED.fullmatch(name):
            raise ValueError(
                f"{written(name)} in the file name prefix is the name of a device on Windows; choose another name."
            )
        if (length := len(name.encode())) > _LONGEST:
            raise ValueError(f"{name[:20]!r}... in the file name prefix has {length} bytes; use {_LONGEST} or fewer.")
    return "/".join(parts)


def _new_files(folder: str, prefix: str, more: str = "") -> Iterator[Path]:
    """The names ``<prefix><more>_00001_.safetensors``, ... below ``output/<folder>/`` from the first free one on."""
    output = folder_paths.get_output_directory()
    prefix = clean_prefix(prefix) + more
    base = Path(output, folder).resolve()
    if not (base / prefix).resolve().is_relative_to(base):  # by a link
        raise ValueError(f"The file name prefix {written(prefix)} leads out of output/{folder}; choose a plain name.")
    try:
        directory, name, counter, _, _ = folder_paths.get_save_image_path(f"{folder}/{prefix}", output)
    except OSError as error:
        raise DiskError(error) from error
    # Where upper and lower case are one, the host's count misses files.
    names = (Path(directory, f"{name}_{number:05}_.safetensors") for number in itertools.count(counter))
    return itertools.dropwhile(Path.exists, names)


def new_loras(prefix: str, more: str = "") -> Iterator[Path]:
    """Names for a new LoRA file below output/loras, the first free one first.

    Args:
        prefix: as the user gave it.
        more: what stands between the prefix and the counter.

    Raises:
        ValueError: the prefix names no file there. DiskError: the folder cannot be read or made.
    """
    return _new_files("loras", prefix, more)


def new_states(prefix: str) -> Iterator[Path]:
    """Names for a new training state, as :func:`new_loras`."""
    return _new_files(_STATES, prefix)


def spare_states(prefix: str) -> Iterator[Path]:
    """Names for a training state below temp/, for one that the output folder did not take."""
    base = Path(folder_paths.get_temp_directory(), _SPARE, clean_prefix(prefix))
    names = (base.with_name(f"{base.name}_{number:05}_.safetensors") for number in itertools.count(1))
    return itertools.dropwhile(Path.exists, names)


def chosen_path(name: Any) -> Path | None:
    """Finds the file or folder that a picker of the input folder names, also one with "[output]" or "[temp]" behind it.

    None where there is none, and where the name leads to the whole of a host's folder ("", ".", "sub/..") or out of it.
    """
    try:
        if not isinstance(name, str) or not folder_paths.exists_annotated_filepath(name):
            return None
    except (OSError, ValueError):  # what no file can be called, or a folder that may not be looked into
        return None
    # Hosts before 0.30 let every name through. By the names alone: folders of the user's may be links to elsewhere.
    path = Path(os.path.abspath(folder_paths.get_annotated_filepath(name)))  # noqa: PTH100
    getters = (folder_paths.get_input_directory, folder_paths.get_output_directory, folder_paths.get_temp_directory)
    bases = [Path(os.path.abspath(get())) for get in getters]  # noqa: PTH100
    below = any(path.is_relative_to(base) for base in bases)
    whole = any(path.samefile(base) for base in bases if base.is_dir())
    return path if below and not whole else None


def saved_loras() -> list[str]:
    """LoRA files the host knows, in its model folders and under output/loras."""
    return host_files("loras")


def lora_path(name: str) -> Path:
    """The file of a name from :func:`saved_loras`.

    Raises:
        ValueError: no such file in the LoRA folders.
    """
    return host_file("loras", name)


def shown(path: Path) -> str:
    """A path as the user knows it, below the host's output folder."""
    output = Path(folder_paths.get_output_directory())
    return f"output/{path.relative_to(output).as_posix()}" if path.is_relative_to(output) else path.name


def _state_folders() -> dict[str, Path]:
    """Folder of states -> what marks their names."""
    return {
        "": Path(folder_paths.get_output_directory(), _STATES),
        _SPARE_MARK: Path(folder_paths.get_temp_directory(), _SPARE),
    }


def state_name(path: Path) -> str:
    """A state's name as :func:`saved_states` lists it."""
    return next(
        path.relative_to(folder).as_posix() + mark
        for mark, folder in _state_folders().items()
        if path.is_relative_to(folder)
    )


def saved_states() -> list[str]:
    """States that can be resumed, newest first."""
    found = []
    for folder in _state_folders().values():
        for path in folder.rglob("*.safetensors") if folder.is_dir() else ():
            with suppress(OSError):  # gone in the meantime
                if path.is_file():
                    found.append((path.stat().st_mtime, state_name(path)))
    return [name for _, name in sorted(found, reverse=True)]


def state_path(name: str) -> Path:
    """The state of this name.

    Raises:
        ValueError: no such file below the states folder.
    """
    mark = _SPARE_MARK if name.endswith(_SPARE_MARK) else ""
    folder = _state_folders()[mark].resolve()
    try:
        path = (folder / name.removesuffix(mark)).resolve()
        found = path.is_relative_to(folder) and path.is_file()
    except (OSError, ValueError):  # what no file can be called, or a folder that may not be looked into
        found = False
    if not found:
        raise ValueError(
            f"There is no training state {written(name)} under output/{_STATES}; choose one from the list."
        )
    return path
