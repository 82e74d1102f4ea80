"""Whether a training helped: the clip's loss with the trained adapter beside the loss without it, at the same noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .lora import Adapter
from .plan import Phase, TrainingSettings
from .prediction import Prediction, add_noise
from .residuals import at_least_float32

# Noise levels a clip's loss is taken at: the middles of equal parts of what was drawn.
_LEVELS = 4
# Losses of a training's own steps cannot be compared: each has another noise level, and over those alone they differ by more than a
# factor of 10. At the same noise nothing but the adapter differs. A training that goes well ends below 1, one that diverged above 2.
_GREW = 1.25
# Keeps these draws apart from those of the training.
_DRAWS = 0x5851F42D


@dataclass(frozen=True)
class Outcome:
    """Mean loss of the clips without the adapter and with it."""

    without: float
    learned: float

    def __str__(self) -> str:
        return f"Loss on the clip at the same noise: {self.without:.3g} before, {self.learned:.3g} after training"

    def warning(self) -> str:
        """What to say about a training that made the model worse at its own clip; "" about one that did not."""
        if self.learned <= _GREW * self.without:
            return ""
        return (
            f"The training diverged: the loss on the clip, at the same noise, went from {self.without:.3g} to {self.learned:.3g}. "
            "Lower learning_rate, to a tenth for a start."
        )


def outcome(
    denoisers: Sequence[Callable[[Tensor, Tensor], Tensor]],
    clips: Sequence[Tensor],
    phase: Phase,
    adapter: Adapter,
    settings: TrainingSettings,
    *,
    masks: Sequence[Tensor | None] | None = None,
) -> Outcome:
    """Compares a phase's loss with and without an adapter, at four noise levels and the same noise: eight forwards without gradient.

    Several clips take turns, the first four at most.

    Args:
        denoisers, clips, adapter, settings, masks: as :func:`~.training.train` has them; masks [1, 1, F, H, W].
        phase: one that shows the network all frames.
    """
    masks = [None] * len(clips) if masks is None else masks
    totals = {False: 0.0, True: 0.0}
    with torch.no_grad():
        for number in range(_LEVELS):
            index = number % len(clips)
            clip = at_least_float32(clips[index])
            learned = phase.on(index, adapter.groups)
            for on in totals:
                adapter.enable(**{group: on and group in learned for group in adapter.groups})
                generator = torch.Generator().manual_seed(_DRAWS + number)
                share = (number + 0.5) / _LEVELS
                prediction = _predict(denoisers[index], clip, masks[index], share, settings, generator)
                totals[on] += phase.loss.total(prediction, generator).item() / _LEVELS
    adapter.enable(**dict.fromkeys(adapter.groups, True))
    return Outcome(totals[False], totals[True])


def _predict(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    mask: Tensor | None,
    share: float,
    settings: TrainingSettings,
    generator: torch.Generator,
) -> Prediction:
    sigma = torch.full((1,), settings.sigma_at(settings.level_at(share)), dtype=x0.dtype, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    x_t = add_noise(x0, noise, sigma, settings.kind)
    return Prediction.from_denoised(x0, noise, x_t, sigma, denoise(x_t, sigma), settings.kind, mask)
