"""The training loop: draw sigma and noise, predict, loss, step, report. One clip or several, one phase or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .checks import check_option
from .lora import Adapter
from .losses import MotionLoss
from .prediction import Kind, Prediction, add_noise
from .residuals import at_least_float32
from .state import Snapshot, StepRecord, TrainingState

Denoise = Callable[[Tensor, Tensor], Tensor]
Frames = Literal["all", "one"]
Schedule = Literal["constant", "cosine"]


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient became NaN or infinite; the adapter was set back by one step, see :func:`train`."""


@dataclass(frozen=True)
class Phase:
    """One forward and backward of a training step.

    Attributes:
        loss: what is minimised.
        groups: the adapter groups switched on during this phase; None is all.
        frames: "all" shows the network the clip, "one" a single random frame (MotionDirector's spatial phase).
    """

    loss: MotionLoss
    groups: tuple[str, ...] | None = None
    frames: Frames = "all"

    def __post_init__(self) -> None:
        check_option("frames", self.frames, Frames)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. Noise levels are shares 0..1 of the model's own schedule, 0 clean and 1 pure noise.

    Attributes:
        kind: what the network predicts, see :class:`~.prediction.Prediction`; decides how the clip is noised.
        sigma_at: the model's schedule, noise level -> sigma in the host's sense.
        steps: optimizer steps in all, including those a resumed state has behind it.
        learning_rate: AdamW's, after warm-up.
        batch_size: noised copies of the clip per forward.
        accumulation: forwards per optimizer step.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        schedule: "constant", or "cosine", which falls to 0 where the training ends.
        level_range: noise levels are drawn between these two.
        level_bias: levels are at share ``u ** level_bias`` of that range, u uniform and stratified over the batch; below 1 favours
            high noise, where motion is decided.
        clip_norm: gradient norm limit over the trained values; 0 is none.
        weight_decay: AdamW's.
        seed: of noise, noise levels, frame choice, dropout and loss-internal draws.
    """

    kind: Kind
    sigma_at: Callable[[float], float] = field(repr=False)
    steps: int = 250
    learning_rate: float = 1e-3
    batch_size: int = 1
    accumulation: int = 1
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    level_range: tuple[float, float] = (0.01, 0.99)
    level_bias: float = 1.0
    clip_norm: float = 1.0
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_option("kind", self.kind, Kind)
        check_option("schedule", self.schedule, Schedule)
        for name, least in (("steps", 1), ("batch_size", 1), ("accumulation", 1), ("warmup_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        for name in ("learning_rate", "level_bias"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and finite.")
        for name in ("clip_norm", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or above.")
        low, high = self.level_range
        if not 0 <= low < high <= 1:
            raise ValueError(f"level_range is {low} to {high}; it must rise within 0 to 1.")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of optimizer step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class StepInfo:
    """Handed to ``on_step`` after each optimizer step. ``x0_hat`` is the last clean estimate, [B, C, F, H, W], for previews."""

    record: StepRecord
    steps: int
    x0_hat: Tensor
    capture: Callable[[], TrainingState]


@dataclass(frozen=True)
class TrainingResult:
    """``state.adapter`` is the trained adapter, ``state.history`` every step's record."""

    state: TrainingState


def train(
    denoise: Denoise,
    clips: Sequence[Tensor],
    phases: Sequence[Phase],
    adapter: Adapter,
    settings: TrainingSettings,
    *,
    state: TrainingState | None = None,
    on_step: Callable[[StepInfo], None] | None = None,
    on_stop: Callable[[TrainingState], None] | None = None,
) -> TrainingResult:
    """Trains an attached adapter until ``settings.steps`` steps are done.

    Stopping after k steps and resuming from the state gives, bit for bit on a CPU, what an uninterrupted run gives.

    Args:
        denoise: (x_t [B, C, F, H, W], sigma [B]) -> x0_hat [B, C, F, H, W], with gradient to the adapter. The network's own weights
            should not require gradients; those would only pile up there.
        clips: clean clips [1, C, F, H, W] in the model's latent space, F >= 2; each forward draws one of them.
        phases: run one after the other in every step; all backwards come before the optimizer's step.
        adapter: attached to the network behind ``denoise``; left in evaluation mode with all groups on.
        state: where an earlier run stopped.
        on_step: called after every step; what it raises ends the run and is passed on. This is how a host cancels.
        on_stop: called with the state after the last whole step if the run ends by any exception, before it is passed on. After
            a NonFiniteLoss it is the state one step earlier: the failure comes from the values that the last step left, and only
            from before that step can a lower learning rate lead elsewhere. A run's first state is never gone behind.

    Raises:
        ValueError: no clip or phase, clips with fewer than 2 frames, NaN or infinite values, unknown groups, or a denoiser whose
            answer has another shape or no gradient to the adapter.
        NonFiniteLoss: the loss or gradient became NaN or infinite.
    """
    _check(clips, phases, adapter)
    clips = [at_least_float32(clip) for clip in clips]
    bound = [[phase.loss.bind(clip) if phase.frames == "all" else phase.loss for phase in phases] for clip in clips]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(settings.seed)
    history = [] if state is None else state.restore(adapter, optimizer, generator)
    generator_state = generator.get_state()

    def capture() -> TrainingState:
        return TrainingState.capture(adapter, optimizer, generator_state, history)

    before: Snapshot | None = None
    finished = False
    adapter.train()
    try:
        while len(history) < settings.steps:
            step = len(history)
            kept = step if before is None else step - 1
            optimizer.zero_grad(set_to_none=True)
            total, terms = 0.0, {}
            for _ in range(settings.accumulation):
                index = int(torch.randint(len(clips), (), generator=generator))
                for phase, loss in zip(phases, bound[index], strict=True):
                    prediction = _predict(denoise, clips[index], phase, adapter, settings, generator)
                    values = loss(prediction, generator)
                    scalar = loss.total_of(values).mean() / settings.accumulation
                    sigmas = prediction.sigma.tolist()
                    _require_finite(scalar.item(), f"loss at sigma {max(sigmas):.4g}", step, kept)
                    scalar.backward()
                    total += scalar.item()
                    for name, value in values.items():
                        terms[name] = terms.get(name, ()) + tuple(zip(sigmas, value.tolist(), strict=True))
            limit = settings.clip_norm if settings.clip_norm > 0 else math.inf
            norm = float(torch.nn.utils.clip_grad_norm_(adapter.parameters(), limit))
            _require_finite(norm, "gradient norm", step, kept)
            optimizer.param_groups[0]["lr"] = rate = settings.learning_rate_at(step)
            before = Snapshot.of(adapter, optimizer, generator_state)
            optimizer.step()
            history.append(StepRecord(step + 1, total, norm, rate, terms))
            generator_state = generator.get_state()
            if on_step is not None:
                on_step(StepInfo(history[-1], settings.steps, prediction.x0_hat.detach(), capture))
        finished = True
    except NonFiniteLoss:
        if before is not None:
            before.restore(adapter, optimizer)
            generator_state = before.generator
            history.pop()
        raise
    finally:
        optimizer.zero_grad(set_to_none=True)
        adapter.train(False)
        adapter.enable(**dict.fromkeys(adapter.groups, True))
        if not finished and on_stop is not None:
            on_stop(capture())
    return TrainingResult(capture())


def _check(clips: Sequence[Tensor], phases: Sequence[Phase], adapter: Adapter) -> None:
    if not clips or not phases:
        raise ValueError(f"There are {len(clips)} clips and {len(phases)} phases; at least 1 of both is needed.")
    for phase in phases:
        adapter.check_groups(phase.groups or ())
    for clip in clips:
        if clip.ndim != 5 or clip.shape[0] != 1:
            raise ValueError(
                f"A clip is {list(clip.shape)}; it must be [1, C, F, H, W]. Encode one video as a video latent."
            )
        if clip.shape[2] < 2:
            raise ValueError(f"The clip has {clip.shape[2]} frame; motion needs at least 2. Load more frames.")
        if not torch.isfinite(clip).all():
            raise ValueError("The clip holds NaN or infinite values; finite ones are needed. Encode the clip again.")


def _require_finite(value: float, name: str, step: int, kept: int) -> None:
    if not math.isfinite(value):
        raise NonFiniteLoss(
            f"The {name} became {value} in step {step + 1}; the state after step {kept} was kept. "
            "Lower the learning rate or the loss weights."
        )


def _predict(
    denoise: Denoise,
    clip: Tensor,
    phase: Phase,
    adapter: Adapter,
    settings: TrainingSettings,
    generator: torch.Generator,
) -> Prediction:
    """Noises copies of a clip and asks the denoiser. All draws come from the one CPU generator, in a fixed order."""
    batch = settings.batch_size
    if phase.frames == "one":
        frame = int(torch.randint(clip.shape[2], (), generator=generator))
        clip = clip[:, :, frame : frame + 1]
    x0 = clip.expand(batch, *clip.shape[1:])
    # Stratified over the batch, so that every step sees low and high noise.
    u = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    low, high = settings.level_range
    levels = low + (high - low) * u**settings.level_bias
    sigma = torch.tensor([settings.sigma_at(float(level)) for level in levels], dtype=x0.dtype, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    adapter.dropout_seed = int(torch.randint(2**31, (), generator=generator))
    adapter.enable(**{group: phase.groups is None or group in phase.groups for group in adapter.groups})
    x_t = add_noise(x0, noise, sigma, settings.kind)
    x0_hat = denoise(x_t, sigma)
    if x0_hat.shape != x0.shape:
        raise ValueError(
            f"The denoiser answered {list(x0_hat.shape)} to a clip of {list(x0.shape)}; both must agree. "
            "Encode the clip with the VAE of this model."
        )
    if not x0_hat.requires_grad:
        raise ValueError("No adapter layer that is switched on takes part in the denoising. Choose other layers.")
    return Prediction.from_denoised(x0, noise, x_t, sigma, x0_hat, settings.kind)
