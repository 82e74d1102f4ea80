"""The training loop: draw sigma and noise, predict, loss, step, report. One clip or several, one phase or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .balance import backward
from .checks import check_frames
from .gradient_check import depends_on, idle_layers, last_factor
from .lora import Adapter
from .plan import Phase, TrainingSettings, of_clip
from .prediction import Prediction, add_noise
from .residuals import at_least_float32
from .state import Snapshot, StepRecord, TrainingState

Denoise = Callable[[Tensor, Tensor], Tensor]

# A host gives one seed to the adapter and to the run. Without this the first noise would be the numbers that drew the
# adapter's initial values. In the low 32 bits, as the CPU generator looks at no others.
_RUN = 0x9E3779B9


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient became NaN or infinite; the adapter was set back by one step, see :func:`train`."""


@dataclass(frozen=True)
class StepInfo:
    """Handed to ``on_step`` after each optimizer step. ``x0_hat`` [B, C, F, H, W] is the last clean estimate."""

    record: StepRecord
    steps: int
    x0_hat: Tensor
    capture: Callable[[], TrainingState]


@dataclass(frozen=True)
class TrainingResult:
    """``state.adapter`` is the trained adapter, ``state.history`` every step's record. ``idle`` holds the keys of layers that took no
    part in the model's answer, see :func:`~.gradient_check.idle_layers`, and learned nothing later either."""

    state: TrainingState
    idle: tuple[str, ...] = ()


def train(
    denoise: Denoise | Sequence[Denoise],
    clips: Sequence[Tensor] | Tensor,
    phases: Sequence[Phase],
    adapter: Adapter,
    settings: TrainingSettings,
    *,
    masks: Sequence[Tensor | None] | None = None,
    state: TrainingState | None = None,
    on_step: Callable[[StepInfo], None] | None = None,
    on_stop: Callable[[TrainingState], None] | None = None,
) -> TrainingResult:
    """Trains an attached adapter until ``settings.steps`` steps are done.

    Stopping after k steps and resuming from the state gives, bit for bit on a CPU, what an uninterrupted run gives.

    Args:
        denoise: (x_t [B, C, F, H, W], sigma [B]) -> x0_hat [B, C, F, H, W], with gradient to the adapter. One for all
            clips, or one for each where they are conditioned differently. The network's own weights should not require
            gradients; those would only pile up there.
        clips: clean clips [1, C, F, H, W] in the model's latent space, F >= 2, or all as one tensor [N, C, F, H, W];
            each forward draws one.
        phases: run one after the other in every step, each with noise of its own, all on the clip that the forward drew; all
            backwards come before the optimizer's step. What a phase has no gradient for (the group of another clip) is
            left alone by that step.
        adapter: attached to the network behind ``denoise``; left in evaluation mode with all groups on.
        masks: where the losses look, one per clip: None, or 0 or above and broadcastable to [1, 1, F, H, W].
        state: where an earlier run stopped, at most ``settings.steps`` steps on.
        on_step: called after every step; what it raises ends the run and is passed on. This is how a host cancels.
        on_stop: called with the state after the last whole step if the run ends by any exception, before it is passed
            on. After a NonFiniteLoss it is the state one step earlier: the failure comes from the values that the last
            step left, and only from before that step can a lower learning rate lead elsewhere. A run's first state is
            never gone behind.

    Raises:
        ValueError: no clip or phase, clips with fewer than 2 frames, NaN or infinite values, masks that do not fit,
            unknown groups, a state beyond the last step, another number of denoisers, or one whose answer has another shape or no gradient
            to the adapter or to some of its layers.
        RuntimeError: called where gradients are switched off.
        NonFiniteLoss: the loss or gradient became NaN or infinite.
    """
    if isinstance(clips, Tensor):
        clips = clips.split(1) if clips.ndim == 5 else [clips]
    _check(clips, phases, adapter, settings, state)
    clips = [at_least_float32(clip) for clip in clips]
    masks = _fitting(masks, clips)
    denoisers = [denoise] * len(clips) if callable(denoise) else list(denoise)
    if len(denoisers) != len(clips):
        raise ValueError(
            f"{len(denoisers)} denoisers and {len(clips)} clips were given; one for all or one for each is needed."
        )
    bound = [
        [phase.loss.bind(clip, mask=mask) if phase.frames == "all" else phase.loss for phase in phases]
        for clip, mask in zip(clips, masks, strict=True)
    ]
    apart = [adapter.parameters(groups) for groups in _learning_apart(phases, len(clips), adapter)]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(settings.seed ^ _RUN)
    history = [] if state is None else state.restore(adapter, optimizer, generator)
    generator_state = generator.get_state()

    def capture() -> TrainingState:
        return TrainingState.capture(adapter, optimizer, generator_state, history)

    before: Snapshot | None = None
    finished = False
    unproven, idle = set(adapter.layers), {}
    adapter.train()
    try:
        while len(history) < settings.steps:
            step = len(history)
            kept = step if before is None else step - 1
            optimizer.zero_grad(set_to_none=True)
            total, terms = 0.0, {}
            for _ in range(settings.accumulation):
                index = int(torch.randint(len(clips), (), generator=generator))
                out = _sitting_out(settings.group_dropout, index, generator)
                for phase, loss in zip(phases, bound[index], strict=True):
                    learning = phase.learns(index, adapter.groups) - out
                    if not learning:
                        continue
                    on = phase.on(index, adapter.groups) - out
                    adapter.enable(**{group: group in on for group in adapter.groups})
                    adapter.freeze(**{group: group not in learning for group in adapter.groups})
                    prediction = _predict(
                        denoisers[index], clips[index], masks[index], phase, adapter, settings, generator
                    )
                    values = loss(prediction, generator)
                    parts = [part.mean() / settings.accumulation for part in loss.parts_of(values)]
                    sigmas = prediction.sigma.tolist()
                    _require_finite(sum(part.item() for part in parts), f"loss at sigma {max(sigmas):.4g}", step, kept)
                    first = unproven.intersection(adapter.keys(learning))
                    # With a spectral share the first part scales the other.
                    informative = first and depends_on(parts[0], prediction.x0_hat)
                    total += backward(parts, loss.spectral_share, adapter.parameters())
                    if informative:
                        again = partial(denoisers[index], prediction.x_t, prediction.sigma)
                        found = idle_layers(adapter, [key for key in adapter.layers if key in first], again)
                        idle |= {key: last_factor(adapter.layers[key]).detach().clone() for key in found}
                        unproven -= first
                    for name, value in values.items():
                        terms[name] = terms.get(name, ()) + tuple(zip(sigmas, value.tolist(), strict=True))
            limit = settings.clip_norm if settings.clip_norm > 0 else math.inf
            norm = math.hypot(*(float(torch.nn.utils.clip_grad_norm_(part, limit)) for part in apart))
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
        adapter.freeze(**dict.fromkeys(adapter.groups, False))
        if not finished and on_stop is not None:
            on_stop(capture())
    # What follows a layer may start at 0 and learn: then the layer matters from the next step on.
    still = [key for key in adapter.layers if key in idle and torch.equal(last_factor(adapter.layers[key]), idle[key])]
    return TrainingResult(capture(), tuple(still))


def _check(
    clips: Sequence[Tensor],
    phases: Sequence[Phase],
    adapter: Adapter,
    settings: TrainingSettings,
    state: TrainingState | None,
) -> None:
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise RuntimeError(
            "Training needs gradients, which are switched off here; "
            "call train outside torch.inference_mode and torch.no_grad."
        )
    if state is not None and state.step > settings.steps:
        raise ValueError(
            f"The state has {state.step} steps behind it and steps is {settings.steps}; raise steps to go on."
        )
    if not clips or not phases:
        raise ValueError(f"There are {len(clips)} clips and {len(phases)} phases; at least 1 of both is needed.")
    for clip in range(len(clips)):
        resting = {of_clip(group, clip) for group in settings.group_dropout}
        learning = set().union(*(phase.learns(clip, adapter.groups) for phase in phases))
        adapter.check_groups(resting.union(learning, *(phase.on(clip, adapter.groups) for phase in phases)))
        if learning <= resting:
            raise ValueError("A step could train nothing; let a group learn that never sits out.")
    for clip in clips:
        if clip.ndim != 5 or clip.shape[0] != 1:
            raise ValueError(
                f"A clip is {list(clip.shape)}; it must be [1, C, F, H, W]. Encode one video as a video latent."
            )
        check_frames(clip.shape[2])
        if not torch.isfinite(clip).all():
            raise ValueError("The clip holds NaN or infinite values; finite ones are needed. Encode the clip again.")


def _sitting_out(shares: Mapping[str, float], clip: int, generator: torch.Generator) -> set[str]:
    """Groups that are off in all phases of a forward. Draws nothing where none ever is."""
    return {
        of_clip(group, clip) for group, share in shares.items() if float(torch.rand((), generator=generator)) < share
    }


def _learning_apart(phases: Sequence[Phase], clips: int, adapter: Adapter) -> list[set[str]]:
    """The groups that learn, in sets of which no phase trains two: what one phase learns must not be clipped for another."""
    apart: list[set[str]] = []
    for phase in phases:
        groups = set().union(*(phase.learns(clip, adapter.groups) for clip in range(clips)))
        meeting = [other for other in apart if other & groups]
        apart = [other for other in apart if other not in meeting] + [groups.union(*meeting)]
    return apart


def _fitting(masks: Sequence[Tensor | None] | None, clips: Sequence[Tensor]) -> list[Tensor | None]:
    """One mask [1, 1, F, H, W] or None per clip, on its device."""
    masks = [None] * len(clips) if masks is None else masks
    if len(masks) != len(clips):
        raise ValueError(f"There are {len(masks)} masks and {len(clips)} clips; give one mask or None per clip.")
    fitting = []
    for mask, clip in zip(masks, clips, strict=True):
        if mask is not None:
            try:
                mask = mask.expand(1, 1, *clip.shape[2:]).to(clip)
            except RuntimeError as error:
                raise ValueError(
                    f"A mask is {list(mask.shape)}; it must fit [1, 1, F, H, W] of its clip {list(clip.shape)}. "
                    "Resize it."
                ) from error
            faults = {
                "NaN or infinite values": not torch.isfinite(mask).all(),
                "negative values": (mask < 0).any(),
                "nothing but 0": not mask.any(),
            }
            if fault := next((name for name, found in faults.items() if found), None):
                raise ValueError(f"A mask holds {fault}; use 0 to 1, and more than 0 where the losses are to look.")
        fitting.append(mask)
    return fitting


def _require_finite(value: float, name: str, step: int, kept: int) -> None:
    if math.isfinite(value):
        return
    if step == 0:  # no learning rate has played a part yet
        raise NonFiniteLoss(
            f"The {name} became {value} in step 1, before anything was learned. "
            "Look at the weights of the model and at what is connected, or lower the loss weights."
        )
    after = f"the state after step {kept} was kept" if kept else "no step before it can be kept"
    raise NonFiniteLoss(
        f"The {name} became {value} in step {step + 1}; {after}. Lower the learning rate or the loss weights."
    )


def _predict(
    denoise: Denoise,
    clip: Tensor,
    mask: Tensor | None,
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
        mask = None if mask is None else mask[:, :, frame : frame + 1]
    x0 = clip.expand(batch, *clip.shape[1:])
    # Stratified over the batch, so that every step sees low and high noise.
    u = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    levels = settings.level_at(u).tolist()
    sigma = torch.tensor([settings.sigma_at(level) for level in levels], dtype=x0.dtype, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    adapter.called.clear()
    adapter.dropout_seed = int(torch.randint(2**31, (), generator=generator))
    x_t = add_noise(x0, noise, sigma, settings.kind)
    x0_hat = denoise(x_t, sigma)
    if x0_hat.shape != x0.shape:
        raise ValueError(
            f"The denoiser answered {list(x0_hat.shape)} to a clip of {list(x0.shape)}; both must agree. "
            "Encode the clip with the VAE of this model."
        )
    if not x0_hat.requires_grad:
        raise ValueError(
            "No adapter layer that is switched on takes part in the denoising, or what follows has no gradient. "
            "Choose other layers, or remove what replaces the model's attention."
        )
    return Prediction.from_denoised(x0, noise, x_t, sigma, x0_hat, settings.kind, mask)
