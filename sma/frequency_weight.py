"""How much each spatial frequency counts in the local loss."""

from __future__ import annotations

import torch
from torch import Tensor


def frequency_weight(
    height: int,
    width: int,
    *,
    delta: float = 0.05,
    base: float = 1.0,
    zero_border: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Weight of each spatial frequency, larger for lower ones (SMA, eq. 21).

    w(r, c) = ((H/2)^2 + (W/2)^2)^delta - ((r - H/2)^2 + (c - W/2)^2)^delta + base.

    Returns:
        [height, width] in the layout of `torch.fft.fftshift`, zero frequency at [height // 2, width // 2]. For odd
        sizes the centre of the formula lies half a bin beside it.
    """
    # In float64 on the CPU first: subtracting two close powers loses digits, and not every device has float64.
    row = torch.arange(height, dtype=torch.float64) - height / 2
    column = torch.arange(width, dtype=torch.float64) - width / 2
    distance = row[:, None] ** 2 + column**2
    weight = ((height / 2) ** 2 + (width / 2) ** 2) ** delta - distance**delta + base
    if zero_border:
        weight[0] = 0
        weight[:, 0] = 0
    return weight.to(dtype).to(device)


def half_plane(weight: Tensor) -> Tensor:
    """Fold a shifted weight [H, W] onto the bins of rfft2, [H, W // 2 + 1].

    A bin and its conjugate partner have equal amplitudes and angles of opposite sign, so the partner that rfft2 leaves
    out hands its weight over. Column 0, and the last one of even widths, hold both partners.
    """
    width = weight.shape[1]
    weight = torch.fft.ifftshift(weight)
    partner = weight.flip(0, 1).roll((1, 1), (0, 1))
    folded = weight + partner
    folded[:, 0] = weight[:, 0]
    if width % 2 == 0:
        folded[:, width // 2] = weight[:, width // 2]
    return folded[:, : width // 2 + 1]
