"""The files the pack offers and writes: LoRAs under output/loras, where the host's LoRA pickers look, and training states elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths

from .lists import host_file, host_files

_STATES = "spectral_motion"


def _next_file(folder: str, prefix: str) -> Path:
    """The next free ``<prefix>_00001_.safetensors`` below ``output/<folder>/``.

    The host refuses prefixes that lead outside output/; those that name no file in the folder are refused here.

    Raises:
        ValueError: the prefix is empty or leads to the folder itself or out of it.
    """
    base = Path(folder_paths.get_output_directory(), folder).resolve()
    if "\0" in prefix or (base / prefix).resolve() == base:
        raise ValueError(f"The file name prefix {prefix!r} names no file; choose a plain name.")
    if not (base / prefix).resolve().is_relative_to(base):
        raise ValueError(f"The file name prefix {prefix!r} leads out of output/{folder}; choose a plain name.")
    directory, name, counter, _, _ = folder_paths.get_save_image_path(
        f"{folder}/{prefix}", folder_paths.get_output_directory()
    )
    return Path(directory) / f"{name}_{counter:05}_.safetensors"


def next_lora(prefix: str) -> Path:
    return _next_file("loras", prefix)


def next_state(prefix: str) -> Path:
    return _next_file(_STATES, prefix)


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


def state_name(path: Path) -> str:
    """A state's name as :func:`saved_states` lists it."""
    return path.relative_to(Path(folder_paths.get_output_directory()) / _STATES).as_posix()


def saved_states() -> list[str]:
    """States that can be resumed, newest first."""
    folder = Path(folder_paths.get_output_directory()) / _STATES
    files = [path for path in folder.rglob("*.safetensors") if path.is_file()] if folder.is_dir() else []
    return [state_name(path) for path in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)]


def state_path(name: str) -> Path:
    """The state of this name.

    Raises:
        ValueError: no such file below the states folder.
    """
    folder = (Path(folder_paths.get_output_directory()) / _STATES).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise ValueError(f"There is no training state {name!r} under output/{_STATES}; choose one from the list.")
    return path
