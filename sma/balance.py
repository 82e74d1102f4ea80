"""The backward pass of a loss, with the spectral terms balanced against the others where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def backward(parts: Sequence[Tensor], share: float | None, values: Sequence[nn.Parameter]) -> float:
    """Adds the gradient of a loss to the ``.grad`` of an adapter's values.

    With a share the gradient of the spectral part is scaled to a norm of ``share`` times that of the main part. Norms run over
    all values that get a gradient, the LoRA's factors, in which equal norms are not equal changes of the network's
    weights. One scale per call and nothing remembered, so a resumed run repeats it. It takes a second backward pass
    through the network, with activations kept until then.

    Args:
        parts: scalars: the loss alone, or with a share the main and the spectral part.
        share: see MotionLoss.spectral_share; None: an ordinary backward pass.
        values: of the adapter.

    Returns:
        The loss, the spectral part with its scale. A part without gradient has the spectral part add nothing: scale 0.
    """
    if share is None:
        (loss,) = parts
        loss.backward()
        return loss.item()
    main, spectral = parts
    # Not torch.autograd.grad: layers inside a block that runs again in backward put their gradients into .grad alone.
    before = _take_gradients(values)
    main.backward(retain_graph=True)
    of_main = _take_gradients(values)
    spectral.backward()
    of_spectral = _take_gradients(values)
    norm = _norm(of_spectral)
    scale = share * _norm(of_main) / norm if norm > 0 else 0.0
    scaled = [None if gradient is None else scale * gradient for gradient in of_spectral]
    for value, *gradients in zip(values, before, of_main, scaled, strict=True):
        found = [gradient for gradient in gradients if gradient is not None]
        value.grad = torch.stack(found).sum(0) if found else None
    return main.item() + scale * spectral.item()


def _take_gradients(values: Sequence[nn.Parameter]) -> list[Tensor | None]:
    gradients = [value.grad for value in values]
    for value in values:
        value.grad = None
    return gradients


def _norm(gradients: Sequence[Tensor | None]) -> float:
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients if gradient is not None]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
