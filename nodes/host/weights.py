"""Weights files, read without running code that they may carry, and put into networks without a tensor left over."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .diffusers_folder import read_json

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
# What diffusers and transformers call the weights in a component's folder.
_COMPONENT_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
# Counters that older releases of transformers saved as weights and later ones compute.
_HARMLESS = ("position_ids",)
# A file may hold itself.
_DEEPEST_WRAPPING = 8


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU and, where the format allows, still on disk until they are used.

    path: a .safetensors or .sft file, a pickle (.bin, .pt, .pth, .ckpt) or the .index.json of a file in parts. Pickles are read with
        weights_only; what a trainer wrapped as ``{"state_dict": ...}`` is unwrapped.

    Raises:
        ValueError: a damaged file, one that holds something else, or a pickle that wants to run code.
    """
    if path.suffix.lower() == ".json":
        return {name: tensor for part in _parts(path) for name, tensor in read_weights(part).items()}
    if path.suffix.lower() in SAFETENSORS_SUFFIXES:
        with _safetensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    return named_tensors(read_pickle(path), path.name)


def _parts(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise ValueError(f"{index.name} names no weights files. Download it again.")
    parts = [index.with_name(Path(name).name) for name in sorted(set(places.values()))]
    if absent := [part.name for part in parts if not part.is_file()]:
        raise ValueError(
            f"{index.name} names {len(parts)} files and {len(absent)} of them are missing, for example {absent[0]}. "
            "Copy all of them into its folder."
        )
    return parts


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is damaged or no safetensors file ({error}). Download it again and compare its size."
        ) from error


def read_pickle(path: Path) -> Any:
    """What a pickle of torch holds, on the CPU and, where the format allows, still on disk until it is used.

    Raises:
        ValueError: a damaged file, or one that wants to run code.
    """
    try:
        # Files of torch before 1.6 are no zip archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, EOFError, RuntimeError, LookupError, ValueError) as error:
        # The unpickler stumbles over a damaged file wherever it happens to be.
        raise ValueError(
            f"{path.name} could not be read as plain tensors: it is damaged, or a pickle that wants to run code of its own. "
            "Use a .safetensors file of this model."
        ) from error


def named_tensors(content: Any, name: str) -> dict[str, Tensor]:
    """The tensors in what :func:`read_pickle` found, without a trainer's wrapping; name: of the file, for the message.

    Raises:
        ValueError: there are none.
    """
    for _ in range(_DEEPEST_WRAPPING):
        if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
            content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} holds a {type(content).__name__}, no named tensors. Choose a weights file.")
    weights = {key: tensor for key, tensor in content.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
    if not weights:
        raise ValueError(f"{name} holds no named tensors. Choose a weights file.")
    return weights


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself; nothing for other files.

    Raises:
        ValueError: a damaged file.
    """
    if path.suffix.lower() not in SAFETENSORS_SUFFIXES:
        return {}
    with _safetensors(path) as file:
        return file.metadata() or {}


def find_weights(folder: Path) -> Path:
    """The weights file of a diffusers component's folder, or the index of one in parts.

    Safetensors come before pickles, and half precision before full, as the host's own loader of such folders has it.

    Raises:
        ValueError: none there.
    """
    for suffixes in (SAFETENSORS_SUFFIXES, _PICKLE_SUFFIXES):
        for stem, suffix in product(_COMPONENT_STEMS, suffixes):
            for name in (f"{stem}.fp16{suffix}", f"{stem}{suffix}"):
                if (folder / name).is_file():
                    return folder / name
            indices = sorted(folder.glob(f"{stem}{suffix}.index*.json"))
            variants = [path for path in sorted(folder.glob(f"{stem}.*{suffix}")) if "-of-" not in path.name]
            if found := indices + variants:
                return found[0]
    raise ValueError(
        f"{folder.parent.name}/{folder.name} holds no weights. Put the model's {', '.join(_COMPONENT_STEMS[:-1])} or "
        f"{_COMPONENT_STEMS[-1]} file (.safetensors or .bin) into that folder."
    )


def check_fit(expected: Mapping[str, Any], weights: Mapping[str, Tensor], name: str) -> None:
    """Compares the tensors a network has (anything with a shape, by name) with those of a file.

    name: of the network, for the message.

    Raises:
        ValueError: says how many tensors are missing, surplus or of another shape, and names one of each.
    """
    missing = [key for key in expected if key not in weights and not key.endswith(_HARMLESS)]
    surplus = [key for key in weights if key not in expected and not key.endswith(_HARMLESS)]
    misshaped = [key for key in expected if key in weights and weights[key].shape != expected[key].shape]
    faults = []
    if missing:
        faults.append(f"lack {_count(missing)} (for example {missing[0]!r})")
    if surplus:
        faults.append(f"have {_count(surplus)} too many (for example {surplus[0]!r})")
    if misshaped:
        key = misshaped[0]
        shapes = f"{list(weights[key].shape)} in the file, {list(expected[key].shape)} in the network"
        faults.append(f"have {_count(misshaped)} of another shape (for example {key!r}: {shapes})")
    if faults:
        *first, last = faults
        found = f"{', '.join(first)} and {last}" if first else last
        raise ValueError(f"The {name} weights {found}. Use the file that belongs to this network.")


def _count(keys: Sequence[str]) -> str:
    return f"{len(keys)} tensor{'' if len(keys) == 1 else 's'}"


def load_exactly(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Copies weights into a module, in the module's own dtypes.

    Raises:
        ValueError: they do not fit, see :func:`check_fit`.
    """
    check_fit(module.state_dict(), weights, name)
    module.load_state_dict(weights, strict=False)
