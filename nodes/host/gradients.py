"""Training through weights that the host loaded for inference, without copying them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import comfy.model_management
import torch
from torch import Tensor, nn


def _alias(tensor: Tensor) -> Tensor:
    """A normal tensor over the same storage. Autograd refuses inference tensors, and a clone would double the weights' memory."""
    if hasattr(tensor, "_qdata"):
        # A quantised tensor is a wrapper around plain tensors; those are what autograd looks at.
        return type(tensor)(_alias(tensor._qdata), tensor._layout_cls, _alias_parameters(tensor._params))
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
        tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
    )


def _alias_parameters(parameters):
    changed = {
        field.name: _alias(value)
        for field in dataclasses.fields(parameters)
        if isinstance(value := getattr(parameters, field.name), Tensor)
    }
    return dataclasses.replace(parameters, **changed)


@contextlib.contextmanager
def differentiable(network: nn.Module) -> Iterator[None]:
    """Lets gradients flow through (not into) a network whose weights are inference tensors.

    Every parameter and buffer is swapped for a zero-byte alias and the very same objects are put back at the end: normal parameters
    left behind would break later loads of quantised models. The host's kernels without autograd are switched off meanwhile.
    """
    swapped: list[tuple[dict, str, Tensor]] = []
    was_training = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        for module in network.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is None or tensor.requires_grad or tensor.is_meta:
                        continue
                    swapped.append((table, name, tensor))
                    alias = _alias(tensor)
                    table[name] = nn.Parameter(alias, requires_grad=False) if table is module._parameters else alias
        yield
    finally:
        for table, name, tensor in swapped:
            table[name] = tensor
        comfy.model_management.in_training = was_training
