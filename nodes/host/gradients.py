"""Training through weights that the host loaded for inference, without copying them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from .checkpoint import blocks_of, checkpointed, kept
from .frozen import can_freeze, frozen


def _alias(tensor: Tensor) -> Tensor:
    """A normal tensor over the same storage. Autograd refuses inference tensors, and a clone would double the weights' memory."""
    if hasattr(tensor, "_qdata"):
        # A quantised tensor is a wrapper around plain tensors; those are what autograd looks at.
        return type(tensor)(_alias(tensor._qdata), tensor._layout_cls, _alias_parameters(tensor._params))
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
        tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
    )
    if type(tensor) in (Tensor, nn.Parameter):
        return alias
    # Custom nodes bring weights in a packed format (GGUF), which the tensor's own attributes tell.
    alias = alias.as_subclass(type(tensor))
    vars(alias).update(vars(tensor))
    return alias


def _alias_parameters(parameters):
    changed = {
        field.name: _alias(value)
        for field in dataclasses.fields(parameters)
        if isinstance(value := getattr(parameters, field.name), Tensor)
    }
    return dataclasses.replace(parameters, **changed)


def _storages(tensor: Tensor) -> Iterator[int]:
    if hasattr(tensor, "_qdata"):
        yield from _storages(tensor._qdata)
    else:
        yield tensor.untyped_storage().data_ptr()


@contextlib.contextmanager
def differentiable(network: nn.Module, *, checkpoint: bool = True) -> Iterator[None]:
    """Lets gradients flow through (not into) a network of the host, whose weights are inference tensors.

    Every parameter and buffer is swapped for a zero-byte alias without gradient, and the very same objects are put back at the end:
    normal parameters left behind would break later loads of quantised models. Layers whose weights are cast for every call cast them
    again in backward. The host's kernels without autograd are switched off meanwhile. Adapters must be forward hooks.

    Args:
        network: the host's BaseModel, or a bare network.
        checkpoint: run each transformer block again in backward instead of keeping its activations. Off, they are kept as copies:
            faster, with several times the memory. Gradients are right either way, also where blocks update in place.
    """
    swapped: list[tuple[dict, str, Tensor]] = []
    replaced: list[tuple[nn.Module, Any]] = []
    was_training = comfy.model_management.in_training
    comfy.model_management.in_training = True

    def replace(module: nn.Module, forward: Callable[..., Any]) -> None:
        replaced.append((module, vars(module).get("forward")))
        module.forward = forward

    try:
        for module in network.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is None or tensor.is_meta:
                        continue
                    swapped.append((table, name, tensor))
                    alias = _alias(tensor)
                    table[name] = nn.Parameter(alias, requires_grad=False) if table is module._parameters else alias
        for name, module in network.named_modules():
            if can_freeze(module):
                replace(module, frozen(name, module, module.forward))
        weights = frozenset(address for _, _, tensor in swapped for address in _storages(tensor))
        for block in blocks_of(getattr(network, "diffusion_model", network), checkpoint=checkpoint):
            forward = block.forward
            replace(block, checkpointed(block, forward, weights) if checkpoint else kept(forward, weights))
        yield
    finally:
        for module, forward in reversed(replaced):
            del module.forward
            if forward is not None:
                module.forward = forward
        for table, name, tensor in swapped:
            table[name] = tensor
        comfy.model_management.in_training = was_training
