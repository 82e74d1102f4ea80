"""DoRA (arXiv 2402.09353) as PEFT has it: a low-rank update whose result gets a norm per output that is learned too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .lora_formats import LowRank


@dataclass(frozen=True, eq=False)
class DoRA:
    """The weight ``magnitude * V / |V|`` of one layer, where ``V = W + scale * up down`` and the norm is of each output's row.

    Attributes:
        update: the low-rank part.
        magnitude: [out].
    """

    update: LowRank
    magnitude: Tensor


def dora_weight(weight: Tensor, down: Tensor, up: Tensor, scale: float, magnitude: Tensor) -> Tensor:
    """Returns the weight that a layer with DoRA has, in its own dtype; computed in float32 at least.

    Args:
        weight: [out, in, *kernel].
        down, up, scale, magnitude: as of :class:`DoRA`.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    product = up.to(weight.device, dtype).flatten(1) @ down.to(weight.device, dtype).flatten(1)
    direction = weight.to(dtype).flatten(1) + scale * product  # [out, in * kernel]
    # A row of zeros has no direction and stays 0.
    length = torch.linalg.vector_norm(direction, dim=1, keepdim=True).clamp_min(torch.finfo(dtype).tiny)
    changed = magnitude.to(weight.device, dtype)[:, None] * direction / length
    return changed.reshape(weight.shape).to(weight.dtype)
