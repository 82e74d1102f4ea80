"""Blocks run again in backward instead of keeping their activations, also where they overwrite what they were given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# What the host's video transformers call their blocks.
_BLOCK_LISTS = ("blocks", "vace_blocks", "transformer_blocks", "double_blocks", "single_blocks")

Forward = Callable[..., Any]


def blocks_of(network: nn.Module, *, checkpoint: bool) -> Iterator[nn.Module]:
    """The parts of a network that need care in backward: transformer blocks, which may overwrite what they were given.

    checkpoint: they are to run again. Then also what a UNet of ours names in ``run_again``, modules and module lists at any depth.
    """
    for name, child in network.named_children():
        if name in _BLOCK_LISTS and isinstance(child, nn.ModuleList):
            yield from child
    run_again = getattr(network, "run_again", ()) if checkpoint else ()
    for name, module in network.named_modules():
        if name.rpartition(".")[2] in run_again:
            yield from module if isinstance(module, nn.ModuleList) else (module,)


def _copies_saved(weights: frozenset[int]) -> AbstractContextManager:
    """Autograd saves copies here, so that blocks may overwrite their activations in place.

    Args:
        weights: storage addresses of what nobody overwrites; those are not copied.
    """

    def keep(tensor: Tensor) -> Tensor:
        if hasattr(tensor, "_qdata") or tensor.untyped_storage().data_ptr() in weights:
            return tensor
        return tensor.clone()

    return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)


def checkpointed(block: nn.Module, forward: Forward, weights: frozenset[int]) -> Forward:
    """``forward`` of a block that keeps only its inputs for backward and runs again there.

    The host's blocks update residuals in place (LTX-Video, HunyuanVideo). torch.utils.checkpoint and the host's own checkpoint run
    them again from the overwritten input; here every run gets copies.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        tensors: list[Tensor] = []
        call = _take_out((args, kwargs), tensors)
        # An output is differentiable only if an input is, and the first block with an adapter may have none. Adapters are forward hooks;
        # a block before the first of them stays without gradient and does not run again.
        adapted = any(module._forward_hooks for module in block.modules())
        trigger = torch.empty(0, requires_grad=adapted)
        # Some inputs come from outside the training, where the host is in inference mode; autograd cannot save those.
        tensors = [tensor.clone() if tensor.is_inference() else tensor for tensor in tensors]
        recipe = _Recipe(forward, call, weights)
        outputs = _Checkpoint.apply(recipe, trigger, *tensors)
        return _put_back(recipe.answer, outputs)

    return run


def kept(forward: Forward, weights: frozenset[int]) -> Forward:
    """``forward`` of a block that keeps its activations, as copies, so that it may overwrite them."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with _copies_saved(weights):
            return forward(*args, **kwargs)

    return run


@dataclass
class _Slot:
    """The place of a tensor that was taken out of a structure."""

    index: int


@dataclass
class _Recipe:
    """A call of a block without its tensors. ``answer``: the structure of what it returned."""

    forward: Forward
    call: Any
    weights: frozenset[int]
    answer: Any = None

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        args, kwargs = _put_back(self.call, tensors)
        outputs: list[Tensor] = []
        self.answer = _take_out(self.forward(*args, **kwargs), outputs)
        return outputs


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, recipe: _Recipe, trigger: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.recipe = recipe
        ctx.save_for_backward(*tensors)
        outputs = recipe.run([tensor.clone() for tensor in tensors])
        # Detached: the caller may update a block's output in place, which autograd forbids for views made in here.
        return tuple(output.detach() for output in outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad(), _copies_saved(ctx.recipe.weights):
            outputs = ctx.recipe.run([tensor.clone() for tensor in inputs])
        pairs = [
            (output, gradient)
            for output, gradient in zip(outputs, gradients, strict=True)
            if gradient is not None and output.requires_grad
        ]
        if pairs:
            torch.autograd.backward(*zip(*pairs, strict=True))
        return (None, None, *(tensor.grad for tensor in inputs))


def _replace(value: Any, kind: type, replacement: Callable[[Any], Any]) -> Any:
    """A copy of nested lists, tuples and dicts with every item of a kind replaced; other objects are shared."""
    if isinstance(value, kind):
        return replacement(value)
    if type(value) is dict:
        return {key: _replace(item, kind, replacement) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_replace(item, kind, replacement) for item in value)
    return value


def _take_out(value: Any, tensors: list[Tensor]) -> Any:
    """The structure of a value, with slots for its tensors, which are appended to ``tensors``."""

    def slot(tensor: Tensor) -> _Slot:
        tensors.append(tensor)
        return _Slot(len(tensors) - 1)

    return _replace(value, Tensor, slot)


def _put_back(structure: Any, tensors: list[Tensor] | tuple[Tensor, ...]) -> Any:
    return _replace(structure, _Slot, lambda slot: tensors[slot.index])
