"""The losses of a training, for the host's own nodes."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_execution.graph_utils import ExecutionBlocker


def loss_map(losses: Sequence[float]) -> dict[str, Sequence[float]] | ExecutionBlocker:
    """Returns the host's LOSS_MAP of a training's losses, one for each step.

    Where all are one value, as after a single step, the host leaves out what is connected, and nothing else: its Plot Loss Graph divides
    by the range of the losses, and its error would take the rest of the prompt along, the video too.
    """
    if len(set(losses)) < 2:
        return ExecutionBlocker(None)
    return {"loss": losses}
