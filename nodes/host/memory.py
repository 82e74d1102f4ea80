"""How much memory a training will take, said before its first step.

One forward without gradients is watched: it is as large as those of the training, costs a fraction of one step and holds nothing. What
its layers take in and give out is about what backward needs at its peak. On small random Wan, LTX-Video, HunyuanVideo and UNet3D
networks that peak, measured tensor by tensor, was 0.65 to 1.18 times the estimate (tests/host/gradients/test_memory.py).
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from ...sma.checks import size_text
from ...sma.lora import Adapter
from .checkpoint import blocks_of

_CGROUP = Path("/sys/fs/cgroup")
# Of what is free: above that share a training counts as tight. The peak was up to 1.18 times the estimate, and the host, the page and
# what the graph does next need the rest.
_TIGHT = 0.6
# Values, gradients and AdamW's two moments, and the copy of values and moments that a failed step falls back on.
_COPIES_OF_ADAPTER = 7


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes. ``free``: what the device has left for ``adapter`` and ``activations``, the weights being loaded."""

    weights: int
    adapter: int
    activations: int
    free: int

    @property
    def total(self) -> int:
        return self.weights + self.adapter + self.activations

    def __str__(self) -> str:
        return f"about {size_text(self.total)} of memory, {size_text(self.weights)} of it the model"

    def warning(self) -> str:
        """What to say where the training does not fit beside the loaded weights, or hardly; "" where it fits well."""
        added = self.adapter + self.activations
        if added <= _TIGHT * self.free:
            return ""
        degree = "does not fit" if added > self.free else "is tight"
        return (
            f"Memory {degree}: training needs about {size_text(added)} beside the model, and {size_text(self.free)} are free. "
            "Use fewer frames or pixels, a smaller batch, or checkpointing."
        )


def estimate(denoiser: Any, adapter: Adapter, *, batch: int, checkpoint: bool) -> MemoryEstimate:
    """What training an attached adapter will take.

    Args:
        denoiser: a HostDenoiser inside its training; its first clip is denoised once.
        adapter: what will be trained.
        batch: samples per forward.
        checkpoint: blocks run again in backward.
    """
    network, clip = denoiser.network, denoiser.clip[:1]
    watched = _Watched(network, checkpoint)
    with watched, torch.no_grad():
        denoiser.denoise(clip, torch.full((1,), denoiser.sigma_at(0.5), dtype=clip.dtype, device=clip.device))
    inside = watched.blocks
    if checkpoint and inside:
        # A block that runs again in backward has its graph then, one block at a time.
        activations = watched.taken + watched.outside + max(inside.values())
    else:
        activations = watched.outside + sum(inside.values())
    return MemoryEstimate(
        weights=storage_bytes(network),
        adapter=_COPIES_OF_ADAPTER * sum(_bytes(value) for value in adapter.parameters()),
        activations=activations * batch,
        free=free_memory(clip.device),
    )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device. On a CPU the host looks at the whole machine; a container may have less."""
    free = comfy.model_management.get_free_memory(device)
    return min(free, _left_in_container()) if device.type == "cpu" else free


def check_room(shape: Sequence[int], device: torch.device, name: str, widgets: str) -> None:
    """Nothing where a float32 tensor of a shape has room on a device.

    Args:
        name: what it is, for the message.
        widgets: those that would make it smaller.

    Raises:
        ValueError: names its size and what is free.
    """
    size, free = 4 * math.prod(shape), free_memory(device)
    if size > free:
        raise ValueError(
            f"{name.capitalize()} of {list(shape)} takes {size_text(size)}, and {size_text(free)} are free. Lower {widgets}."
        )


def _left_in_container() -> float:
    """What a Linux container's memory limit leaves, file caches counted as free; infinite where there is no limit."""
    for limit, used in (
        (_CGROUP / "memory.max", _CGROUP / "memory.current"),
        (_CGROUP / "memory" / "memory.limit_in_bytes", _CGROUP / "memory" / "memory.usage_in_bytes"),
    ):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            stat = limit.with_name("memory.stat")  # some sandboxes have none
            counters = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
            return max(0, int(text) - int(used.read_text()) + int(counters.get("inactive_file", 0)))
    return math.inf


def storage_bytes(network: nn.Module) -> int:
    """Memory that a network's weights occupy, those shared by several layers or objects counted once."""
    storages = {}
    for tensor in (*network.parameters(), *network.buffers()):
        for plain in _plain(tensor):
            storage = plain.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class _Watched:
    """Counts, while a network runs, the bytes that its layers take in and give out.

    Attributes:
        blocks: block -> bytes inside it.
        outside: bytes of what layers outside any block give out.
        taken: bytes of what all blocks were called with; what several were called with counts once.
    """

    def __init__(self, network: nn.Module, checkpoint: bool) -> None:
        self.network = network
        self._watched = list(blocks_of(network, checkpoint=checkpoint))
        self.blocks: Counter[nn.Module] = Counter()
        self.outside = 0
        self.taken = 0
        self._seen: dict[int, weakref.ref] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> _Watched:
        inside = {module: block for block in self._watched for module in block.modules()}
        for module in self.network.modules():
            if not any(True for _ in module.children()):
                self._handles.append(module.register_forward_hook(self._layer(inside.get(module)), with_kwargs=True))
        for block in self._watched:
            self._handles.append(block.register_forward_pre_hook(self._block, with_kwargs=True))
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _layer(self, block: nn.Module | None) -> Any:
        def count(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given, made = (sum(_bytes(tensor) for tensor in _tensors(value)) for value in ((args, kwargs), output))
            if block is None:
                self.outside += made
            else:
                # Blocks may overwrite their tensors, so autograd keeps copies there: one for each layer that needs it.
                self.blocks[block] += given + made

        return count

    def _block(self, block: nn.Module, args: Any, kwargs: Any) -> None:
        for tensor in _tensors((args, kwargs)):
            known = self._seen.get(id(tensor))
            if known is None or known() is not tensor:
                self._seen[id(tensor)] = weakref.ref(tensor)
                self.taken += _bytes(tensor)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor, or the plain tensors that a quantised one wraps."""
    if hasattr(tensor, "_qdata"):
        yield tensor._qdata
        yield from (value for value in vars(tensor._params).values() if isinstance(value, Tensor))
    else:
        yield tensor
