"""Answers in a sentence where a tensor is none that the pack computes with: PyTorch has many kinds, and most operations know few."""

from __future__ import annotations

import torch
from torch import Tensor

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has its values in memory one after another: not sparse, not quantised, not a mere shape."""
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


def check_plain(name: str, tensor: Tensor, *, floating: bool = True) -> None:
    """Nothing where a tensor is plain, and where it must be holds floating-point values.

    Args:
        name: of what holds it, for the message.
        floating: whether whole numbers and truth values are refused as well.

    Raises:
        ValueError: names what it holds and what is needed.
    """
    if not is_plain(tensor):
        raise ValueError(f"{name} is sparse, quantised or without values; a plain tensor is needed. Make it again.")
    if tensor.is_complex() or (floating and tensor.dtype not in _FLOATS):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{name} holds {kind} values; float32, float16 or bfloat16 ones are needed. Make it again.")
