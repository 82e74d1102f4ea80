"""A loss and the values that it depends on: its slope two ways, and whether descent lowers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def slopes(values: Sequence[torch.Tensor], loss: Callable[[], torch.Tensor]) -> tuple[float, float]:
    """The slope along the gradient that the values hold: by backward, and by central finite differences. Leaves the values moved."""
    size = sum(value.grad.square().sum() for value in values).sqrt()
    losses = []
    for step in (1e-2, -2e-2):
        with torch.no_grad():
            for value in values:
                value.add_(value.grad / size, alpha=step)
            losses.append(loss().item())
    return float(size), (losses[0] - losses[1]) / 2e-2


def descend(values: Sequence[torch.Tensor], loss: Callable[[], torch.Tensor], steps: int) -> list[float]:
    """Losses of so many steps of AdamW."""
    optimizer = torch.optim.AdamW(values, lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        current = loss()
        current.backward()
        optimizer.step()
        losses.append(current.item())
    return losses
