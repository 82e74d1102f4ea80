"""Weights files, read without running code that they may carry, and put into networks without a tensor left over."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
# What diffusers and transformers call the weights in a component's folder.
COMPONENT_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
# Counters that older releases of transformers saved as weights and later ones compute.
_HARMLESS = ("position_ids",)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU and, where the format allows, still on disk until they are used.

    path: a .safetensors or .sft file, a pickle (.bin, .pt, .pth, .ckpt) or the .index.json of a file in parts. Pickles are read with
        weights_only; what a trainer wrapped as ``{"state_dict": ...}`` is unwrapped.

    Raises:
        ValueError: a damaged file, one that holds something else, or a pickle that wants to run code.
    """
    if path.suffix.lower() == ".json":
        parts = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        return {
            name: tensor for part in parts for name, tensor in read_weights(path.with_name(Path(part).name)).items()
        }
    if path.suffix.lower() in SAFETENSORS_SUFFIXES:
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(
                f"{path.name} is damaged or no safetensors file ({error}). Download it again and compare its size."
            ) from error
    return _read_pickle(path)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # Files of torch before 1.6 are no zip archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{path.name} could not be read as plain tensors: it is damaged, or a pickle that wants to run code of its own. "
            "Use a .safetensors file of this model."
        ) from error
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, no named tensors. Choose a weights file.")
    weights = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not weights:
        raise ValueError(f"{path.name} holds no named tensors. Choose a weights file.")
    return weights


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself; nothing for other files."""
    if path.suffix.lower() not in SAFETENSORS_SUFFIXES:
        return {}
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def find_weights(folder: Path, stems: Sequence[str] = COMPONENT_STEMS) -> Path:
    """The weights file of a diffusers component's folder, or the index of one in parts.

    Safetensors come before pickles, and half precision before full, as the host's own loader of such folders has it.

    Raises:
        ValueError: none there.
    """
    for suffixes in (SAFETENSORS_SUFFIXES, _PICKLE_SUFFIXES):
        for stem, suffix in product(stems, suffixes):
            for name in (f"{stem}.fp16{suffix}", f"{stem}{suffix}"):
                if (folder / name).is_file():
                    return folder / name
            indices = sorted(folder.glob(f"{stem}{suffix}.index*.json"))
            variants = [path for path in sorted(folder.glob(f"{stem}.*{suffix}")) if "-of-" not in path.name]
            if found := indices + variants:
                return found[0]
    raise ValueError(
        f"{folder.parent.name}/{folder.name} holds no weights. "
        f"Put {stems[0]}.safetensors or {stems[0]}.bin of the model into that folder."
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
