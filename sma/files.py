"""What a training leaves on disk, all safetensors: the motion LoRA with its metadata, and the state to resume from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .state import StepRecord, TrainingState

_STATE_FORMAT = "spectral-motion training state 1"


class MotionLoRA(dict[str, Tensor]):
    """LoRA tensors by file key (an ordinary dict to whoever loads LoRAs), with what is known about their making.

    ``metadata`` maps names to JSON-able values: base model, method, losses, frames, rank, steps, seed, ...
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
        super().__init__(tensors)
        self.metadata = dict(metadata)


def save_lora(lora: Mapping[str, Tensor], metadata: Mapping[str, object], path: Path) -> None:
    """Writes LoRA tensors; metadata values that are no strings are stored as JSON, as the format holds strings only."""
    text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    _replace(path, {name: tensor.contiguous() for name, tensor in lora.items()}, text)


def save_state(state: TrainingState, path: Path, about: Mapping[str, object] | None = None) -> None:
    """Writes a training state. The old file of this name stays whole until the new one is complete.

    Args:
        about: JSON-able facts of the run, for :func:`state_about`.
    """
    tensors = {f"adapter/{name}": tensor for name, tensor in state.adapter.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()}
    tensors["generator"] = state.generator
    history = json.dumps([asdict(record) for record in state.history])
    metadata = {"format": _STATE_FORMAT, "step": str(state.step), "history": history, "about": json.dumps(about or {})}
    _replace(path, tensors, metadata)


def state_about(path: Path) -> dict[str, object]:
    """What :func:`save_state` was told about the run, without reading the tensors."""
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("about", "{}"))


def load_state(path: Path) -> TrainingState:
    """Reads what :func:`save_state` wrote.

    Raises:
        ValueError: the file is no training state.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path.name} cannot be read ({error}); choose a state saved by Train Motion LoRA.") from error
    if metadata.get("format") != _STATE_FORMAT:
        raise ValueError(f"{path.name} is no training state; choose one saved by Train Motion LoRA.")
    history = tuple(
        StepRecord(**record | {"terms": {name: tuple(map(tuple, pairs)) for name, pairs in record["terms"].items()}})
        for record in json.loads(metadata["history"])
    )
    return TrainingState(
        step=int(metadata["step"]),
        adapter=_below("adapter/", tensors),
        optimizer=_below("optimizer/", tensors),
        generator=tensors["generator"].to(torch.uint8),
        history=history,
    )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _replace(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        save_file(tensors, partial, metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
