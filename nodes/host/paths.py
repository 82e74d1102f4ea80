"""The files the pack offers and writes: LoRAs under output/loras, where the host's LoRA pickers look, and training states elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths

_STATES = "spectral_motion"


def _next_file(folder: str, prefix: str) -> Path:
    """The next free ``<prefix>_00001_.safetensors`` below ``output/<folder>/``.

    The host refuses prefixes that lead outside output/; those that lead out of the folder are refused here.
    """
    base = Path(folder_paths.get_output_directory(), folder).resolve()
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
    if not isinstance(name, str) or not folder_paths.exists_annotated_filepath(name):
        return None
    # Without following links, which may lead from inside a folder to another disk. Older hosts, such as 0.24, look at no name's "..".
    path, base = (
        Path(os.path.normpath(Path(each).absolute()))
        for each in (folder_paths.get_annotated_filepath(name), _base(name))
    )
    if base not in path.parents:
        return None
    bases = (folder_paths.get_input_directory, folder_paths.get_output_directory, folder_paths.get_temp_directory)
    whole = any(path.samefile(base) for get in bases if (base := Path(get())).is_dir())
    return None if whole else path


def _base(name: str) -> str:
    return folder_paths.annotated_filepath(name)[1] or folder_paths.get_input_directory()


def or_hint(choices: list[str], place: str) -> list[str]:
    """Choices of a widget; where there are none, the place to put files in, as an empty list would say nothing."""
    return choices or [f"nothing found in {place}"]


def saved_loras() -> list[str]:
    """LoRA files the host knows, in its model folders and under output/loras."""
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """The file of a name from :func:`saved_loras`.

    Raises:
        FileNotFoundError: no such file in the LoRA folders.
    """
    return Path(folder_paths.get_full_path_or_raise("loras", name))


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
