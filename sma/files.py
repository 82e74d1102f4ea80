"""What a training leaves on disk, all safetensors: the motion LoRA with its metadata, and the state to resume from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .disk import put
from .finite import is_finite
from .state import MOMENTS, StepRecord, TrainingState

_STATE_FORMAT = "spectral-motion training state 1"


class MotionLoRA(dict[str, Tensor]):
    """LoRA tensors by file key (an ordinary dict to whoever loads LoRAs), with what is known about their making.

    ``metadata`` maps names to JSON-able values: base model, method, losses, frames, rank, steps, seed, ...
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
        super().__init__(tensors)
        self.metadata = dict(metadata)


def save_lora(lora: Mapping[str, Tensor], metadata: Mapping[str, object], to: Path | Iterable[Path]) -> Path:
    """Writes LoRA tensors and returns where they are.

    Args:
        metadata: values that are no strings are stored as JSON, as the format holds strings only.
        to: a path, or names of which the first free one is taken, see :func:`~.disk.put`.

    Raises:
        DiskError: the disk failed.
    """
    text = {name: _storable(value) if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    tensors = {name: tensor.contiguous() for name, tensor in lora.items()}
    return put(to, lambda path: save_file(tensors, path, text))


def save_state(state: TrainingState, to: Path | Iterable[Path], about: Mapping[str, object] | None = None) -> Path:
    """Writes a training state and returns where it is. The old file of a path stays whole until the new one is complete.

    Args:
        to: as in :func:`save_lora`.
        about: JSON-able facts of the run, for :func:`state_about`.

    Raises:
        DiskError: the disk failed.
    """
    tensors = {f"adapter/{name}": tensor for name, tensor in state.adapter.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()}
    tensors["generator"] = state.generator
    history = json.dumps([asdict(record) for record in state.history])
    metadata = {"format": _STATE_FORMAT, "step": str(state.step), "history": history, "about": json.dumps(about or {})}
    return put(to, lambda path: save_file(tensors, path, metadata))


def state_about(path: Path) -> dict[str, object]:
    """What :func:`save_state` was told about the run, without reading the tensors; {} where that is damaged."""
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("about", "{}")
    with suppress(ValueError, RecursionError):
        if isinstance(about := json.loads(text), dict):
            return about
    return {}


def load_state(path: Path) -> TrainingState:
    """Reads what :func:`save_state` wrote.

    Raises:
        ValueError: the file is no training state, or a damaged one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} cannot be read: it is cut short or no safetensors file; choose a state saved by Train Motion LoRA."
        ) from error
    if metadata.get("format") != _STATE_FORMAT:
        raise ValueError(f"{path.name} is no training state; choose one saved by Train Motion LoRA.")
    try:
        state = TrainingState(
            step=int(metadata["step"]),
            adapter=_below("adapter/", tensors),
            optimizer=_below("optimizer/", tensors),
            generator=tensors["generator"],
            history=tuple(_record(raw) for raw in json.loads(metadata["history"])),
        )
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, "its step, history or generator cannot be read") from error
    if fault := _fault(state):
        raise _damaged(path, fault)
    return state


def _damaged(path: Path, fault: str) -> ValueError:
    return ValueError(f"{path.name} is damaged: {fault}. Choose another state.")


def _record(raw: Mapping[str, Any]) -> StepRecord:
    terms = {
        name: tuple((float(sigma), float(value)) for sigma, value in pairs) for name, pairs in raw["terms"].items()
    }
    numbers = (float(raw[name]) for name in ("loss", "gradient_norm", "learning_rate"))
    return StepRecord(int(raw["step"]), *numbers, terms)


def _fault(state: TrainingState) -> str:
    """What a run could not go on from; "" for a whole state."""
    if [record.step for record in state.history] != list(range(1, state.step + 1)):
        return f"it is after step {state.step} and its history does not list steps 1 to {state.step}"
    try:
        torch.Generator().set_state(state.generator)
    except (RuntimeError, TypeError):
        return "its random generator is not one of PyTorch"
    if not state.adapter:
        return "it holds no trained values"
    for name, value in state.adapter.items():
        moments = {key: state.optimizer.get(f"{name}.{key}") for key in MOMENTS}
        held = [tensor for tensor in moments.values() if tensor is not None]
        if held and len(held) < len(moments):
            return f"of {name} it holds {len(held)} of {len(moments)} moments"
        shapes = {"step": torch.Size([])} | dict.fromkeys(("exp_avg", "exp_avg_sq"), value.shape)
        if held and any(moments[key].shape != shape for key, shape in shapes.items()):
            return f"the moments of {name} do not have its shape, {list(value.shape)}"
        if not all(tensor.is_floating_point() and is_finite(tensor) for tensor in (value, *held)):
            return f"{name} or its moments hold NaN or infinite values"
    return ""


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _storable(text: str) -> str:
    """Text without half characters, which a prompt may hold and no file can."""
    return text.encode("utf-8", "replace").decode("utf-8")
