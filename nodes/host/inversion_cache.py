"""Inverted clips under the host's temp/ folder, which the host empties when it starts."""

from __future__ import annotations

import hashlib
import logging
import uuid
import weakref
from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...sma.disk import DiskError, put

logger = logging.getLogger(__name__)

# An object's address may be another's later; a name given once is not.
_names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def cache_file(model: Any, *made_from: Any) -> Path:
    """Where the result of a MODEL and of tensors, conditioning and settings belongs.

    The MODEL counts by object and weight patches: one that the host had to load or patch again is another. Tensors count by content,
    inside of lists and dicts too; objects such as a ControlNet by identity.
    """
    digest = hashlib.sha256()
    for part in (model, str(model.patches_uuid), *made_from):
        _feed(digest, part)
    return Path(folder_paths.get_temp_directory()) / "spectral_motion" / f"inverted_{digest.hexdigest()}.safetensors"


def read(path: Path) -> Tensor | None:
    """What was written there; None where nothing was or the file is damaged."""
    try:
        return load_file(path)["inverted"] if path.is_file() else None
    except (SafetensorError, KeyError, OSError) as error:
        logger.warning("%s in temp/ is damaged (%s); the clip is inverted again.", path.name, error)
        return None


def write(path: Path, inverted: Tensor) -> None:
    """Keeps an inverted clip. A full disk costs the copy, not the inversion."""
    try:
        put(path, lambda partial: save_file({"inverted": inverted.contiguous()}, partial))
    except DiskError as error:
        logger.warning("The inverted clip could not be kept in temp/: %s", error)


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, dict | list | tuple):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        for item in value.items() if isinstance(value, dict) else value:
            _feed(digest, item)
    elif value is None or isinstance(value, bool | int | float | str):
        digest.update(f"{value!r};".encode())
    else:
        digest.update(_name(value).encode())


def _name(value: Any) -> str:
    try:
        return _names.setdefault(value, uuid.uuid4().hex)
    except TypeError:  # what cannot be known again, such as a numpy array, counts as new
        return uuid.uuid4().hex
