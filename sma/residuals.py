"""Frame residuals: what changes from one frame to the next."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_frames


def at_least_float32(x: Tensor) -> Tensor:
    """Raise half and bfloat16 to float32; float32 and float64 come back as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def frame_residuals(x: Tensor, *, absolute: bool = False) -> Tensor:
    """Difference of neighbouring frames, x[:, :, 1:] - x[:, :, :-1].

    Signed as in SMA (arXiv 2403.15249) and VMC (arXiv 2312.00845, eq. 17); `absolute=True` is what their code does.

    Args:
        x: [B, C, F, H, W], F >= 2, pixels or latents in any range.
        absolute: take the absolute value, which forgets the direction of a change.

    Returns:
        [B, C, F-1, H, W], at least float32.

    Raises:
        ValueError: x is not 5-D or has fewer than 2 frames.
    """
    if x.ndim != 5:
        raise ValueError(f"The clip has shape {list(x.shape)}; motion needs [batch, channels, frames, height, width].")
    check_frames(x.shape[2])
    residual = at_least_float32(x).diff(dim=2)
    return residual.abs() if absolute else residual
