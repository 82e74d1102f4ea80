"""Layers that no gradient reaches, found at their first backward: they would stay as they are while the run reports success."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from .lora import Adapter
from .lora_layers import Update

# How much more than a repeated forward differs from the first, on devices that do not repeat bit for bit, is a change.
_NOISE_FACTOR, _ROUNDING = 10.0, 1e-6


def idle_layers(adapter: Adapter, keys: Collection[str], answer: Callable[[], Tensor]) -> set[str]:
    """Returns those of the layers that take no part in a model's answer, after a backward of a loss that is not flat.

    They were not called (a part of the network that this conditioning leaves out), or what they put out is not used (the text's side
    of a last block) or does not matter (attention over one single token). No gradient is right for these alone. Whether a layer
    without gradient changes the answer is tried out, on whatever network.

    Args:
        adapter: whose ``called`` was cleared before the forward.
        keys: layers that were on and not frozen.
        answer: computes the answer again; called without gradients, up to three times.

    Raises:
        ValueError: layers change the answer and got no gradient, as behind an attention kernel that has none.
    """
    silent = [key for key in keys if not any(_reached(value) for value in adapter.layers[key].parameters())]
    # Half precision rounds small gradients down to 0.
    suspects = [
        key
        for key in silent
        if key in adapter.called and (_cut_off(adapter.layers[key]) or adapter.called[key] != torch.float16)
    ]
    if suspects and _matter(adapter, suspects, answer):
        raise ValueError(
            f"{len(suspects)} of {len(keys)} layers change the model's answer and get no gradient, for example {suspects[0]}: "
            "what follows them is computed without one. Remove what replaces the model's attention or layers, or leave these out."
        )
    return set(silent)


def depends_on(loss: Tensor, answer: Tensor) -> bool:
    """Whether a loss changes with a model's answer; one that is flat there says nothing about layers. Keeps the graph."""
    (slope,) = torch.autograd.grad(loss, answer, retain_graph=True, allow_unused=True)
    return slope is not None and bool(slope.any())


def last_factor(layer: Update) -> Tensor:
    """The factor of an update that starts at 0; while it is 0 the others change nothing."""
    return [*layer.parameters()][-1]


def _reached(value: Tensor) -> bool:
    return value.grad is not None and bool(value.grad.any())


def _cut_off(layer: Update) -> bool:
    return all(value.grad is None for value in layer.parameters())


def _matter(adapter: Adapter, keys: Collection[str], answer: Callable[[], Tensor]) -> bool:
    """Whether the answer changes with what the layers add to their outputs."""
    values = [last_factor(adapter.layers[key]) for key in keys]
    before = [value.detach().clone() for value in values]
    generator = torch.Generator().manual_seed(0)
    training = adapter.training
    adapter.train(False)
    try:
        with torch.no_grad():
            first, again = answer(), answer()
            for value in values:
                value.copy_(torch.randn(value.shape, generator=generator))
            changed = answer()
    finally:
        with torch.no_grad():
            for value, own in zip(values, before, strict=True):
                value.copy_(own)
        adapter.train(training)
    noise, change = (torch.linalg.vector_norm(other - first) for other in (again, changed))
    # Not "greater": what became NaN changed.
    return not bool(change <= _NOISE_FACTOR * noise + _ROUNDING * torch.linalg.vector_norm(first))
