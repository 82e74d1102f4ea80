"""Layers that are not trained and whose weights are cast for every call: backward casts them again instead of keeping the copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...sma.lora_layers import input_of

Forward = Callable[..., Tensor]

_CONVOLUTIONS = {
    "Conv1d": torch.nn.grad.conv1d_input,
    "Conv2d": torch.nn.grad.conv2d_input,
    "Conv3d": torch.nn.grad.conv3d_input,
}
_NORMS = {
    "LayerNorm": lambda module, x, weight, bias: F.layer_norm(x, module.normalized_shape, weight, bias, module.eps),
    "RMSNorm": lambda module, x, weight, bias: F.rms_norm(x, module.normalized_shape, weight, module.eps),
    "GroupNorm": lambda module, x, weight, bias: F.group_norm(x, module.num_groups, weight, bias, module.eps),
}


def can_freeze(module: nn.Module) -> bool:
    """Whether a module is a layer of the host's own operations with a weight, whose derivative is known here.

    Layers whose forward somebody replaced (the host's bypass LoRA) or derived (GGUF) compute something else.
    """
    kind = type(module)
    if kind.__module__ != comfy.ops.__name__ or "forward" in vars(module) or getattr(module, "weight", None) is None:
        return False
    if kind.__name__ in _CONVOLUTIONS:
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return kind.__name__ == "Linear" or kind.__name__ in _NORMS


def frozen(name: str, module: nn.Module, forward: Forward) -> Forward:
    """``forward`` of a layer for which autograd keeps no weight.

    Autograd would keep the cast copy of every weight, more memory than the weights themselves; and where the host streams weights
    through shared buffers, backward would find other weights in them. So a cast layer that is asked for more than its own product,
    whose derivative is not known here, is refused by name.
    """

    def run(*args: Any, **kwargs: Any) -> Tensor:
        x = args[0] if args else kwargs["input"]
        if not (torch.is_grad_enabled() and x.requires_grad) or not _is_cast(module, x):
            return forward(*args, **kwargs)
        x = input_of(
            name, args, kwargs, "Train on weights that need no cast (float32, or those the model computes in)."
        )
        return _Frozen.apply(x, module, forward)

    return run


def _is_cast(module: nn.Module, x: Tensor) -> bool:
    weight = module.weight
    return (
        hasattr(weight, "_qdata")
        or weight.dtype != x.dtype
        or weight.device != x.device
        or len(module.weight_function) > 0
        or hasattr(module, "_v")
    )


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, module: nn.Module, forward: Forward) -> Tensor:
        ctx.module, ctx.shape = module, x.shape
        if type(module).__name__ in _NORMS:
            ctx.save_for_backward(x)
        # The host's fast fp8 layers clamp their input in place.
        x = x.clone() if isinstance(module, comfy.ops.fp8_ops.Linear) else x.detach()
        # Detached: autograd forbids updating a view made in here in place, and the host's blocks do that.
        return forward(x).detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        module, dtype = ctx.module, gradient.dtype
        weight, bias, stream = comfy.ops.cast_bias_weight(
            module, dtype=dtype, device=gradient.device, bias_dtype=dtype, offloadable=True
        )
        try:
            plain = weight.dequantize() if hasattr(weight, "_qdata") else weight
            return _input_gradient(module, gradient, plain, bias, ctx), None, None
        finally:
            comfy.ops.uncast_bias_weight(module, weight, bias, stream)


def _input_gradient(module: nn.Module, gradient: Tensor, weight: Tensor, bias: Tensor | None, ctx: Any) -> Tensor:
    kind = type(module).__name__
    if kind in _CONVOLUTIONS:
        arguments = module.stride, module.padding, module.dilation, module.groups
        return _CONVOLUTIONS[kind](ctx.shape, weight, gradient, *arguments)
    if kind in _NORMS:
        (saved,) = ctx.saved_tensors
        x = saved.detach().requires_grad_()
        with torch.enable_grad():
            y = _NORMS[kind](module, x, weight, bias)
        return torch.autograd.grad(y, x, gradient)[0]
    product = gradient @ weight
    # Smoothing of activation-aware quantisation: the layer multiplies its input first.
    scale = getattr(module, "pre_quant_scale", None)
    return product if scale is None else product * scale.to(product)
