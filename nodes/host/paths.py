"""Where the pack writes: LoRAs under output/loras, where the host's LoRA pickers look, and training states beside them."""

from __future__ import annotations

from pathlib import Path

import folder_paths

_STATES = "spectral_motion"


def next_file(folder: str, prefix: str, suffix: str = ".safetensors") -> Path:
    """The next free ``<prefix>_00001_<suffix>`` below ``output/<folder>/``; the host refuses prefixes that lead outside."""
    directory, name, counter, _, _ = folder_paths.get_save_image_path(
        f"{folder}/{prefix}", folder_paths.get_output_directory()
    )
    return Path(directory) / f"{name}_{counter:05}_{suffix}"


def next_lora(prefix: str) -> Path:
    return next_file("loras", prefix)


def next_state(prefix: str) -> Path:
    return next_file(_STATES, prefix)


def shown(path: Path) -> str:
    """A path as the user knows it, below the host's output folder."""
    output = Path(folder_paths.get_output_directory())
    return f"output/{path.relative_to(output).as_posix()}" if path.is_relative_to(output) else path.name


def saved_states() -> list[str]:
    """States that can be resumed, newest first."""
    folder = Path(folder_paths.get_output_directory()) / _STATES
    files = [path for path in folder.rglob("*.safetensors") if path.is_file()] if folder.is_dir() else []
    return [f.relative_to(folder).as_posix() for f in sorted(files, key=lambda f: f.stat().st_mtime, reverse=True)]


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
