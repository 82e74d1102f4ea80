"""What a training run is asked to do: its phases and its settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from .checks import check_option, check_weight, check_whole
from .losses import Denoising, MotionLoss, WeightedTerm
from .prediction import Kind

Frames = Literal["all", "one"]
Schedule = Literal["constant", "cosine"]

# Groups of the dual path: one for motion, and one for the looks of each clip.
TEMPORAL, SPATIAL = "temporal", "spatial {clip}"
# Share of the steps in which MotionDirector has the spatial group off.
SPATIAL_REST = 0.2


@dataclass(frozen=True)
class Phase:
    """One forward and backward of a training step.

    Attributes:
        loss: what is minimised.
        frames: "all" shows the network the clip, "one" a single random frame (MotionDirector's spatial phase).
        groups: the adapter groups switched on during this phase; None is all. ``{clip}`` in a name stands for the number of
            the clip that is drawn, counted from 0: each clip may have a group of its own.
        learning: those of them that get a gradient; None is all. The others take part as they are.

    Raises:
        ValueError: no motion loss, unknown frames, groups as a plain string, groups that learn and are not on, or one frame
            for a loss that compares frames.
    """

    loss: MotionLoss
    _: KW_ONLY
    frames: Frames = "all"
    groups: Sequence[str] | None = None
    learning: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.loss, MotionLoss):
            raise ValueError(f"The loss of a phase is {self.loss!r}; it must be a MotionLoss.")
        check_option("frames", self.frames, Frames)
        for name in ("groups", "learning"):
            if isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name} is {value!r}; give a tuple of names, such as ({value!r},).")
        off = set() if self.groups is None else set(self.learning or ()) - set(self.groups)
        if off:
            raise ValueError(f"The group {min(off)!r} is to learn in a phase that has it off; add it to groups.")
        if self.frames == "one":
            moving = [term.name for term in self.loss.terms if term.term.needs_motion]
            if moving:
                raise ValueError(
                    f'frames is "one", but {", ".join(moving)} compares frames; use frames="all" or leave the term out.'
                )

    def on(self, clip: int, groups: Iterable[str]) -> set[str]:
        """The groups of an adapter that are on for a clip."""
        return set(groups) if self.groups is None else {of_clip(name, clip) for name in self.groups}

    def learns(self, clip: int, groups: Iterable[str]) -> set[str]:
        """The groups of an adapter that learn from a clip."""
        on = self.on(clip, groups)
        return on if self.learning is None else {of_clip(name, clip) for name in self.learning}


def of_clip(group: str, clip: int) -> str:
    """The name of a group for the clip of this number, see :class:`Phase`."""
    return group.replace("{clip}", str(clip))


def dual_path(motion_loss: MotionLoss) -> tuple[Phase, Phase]:
    """MotionDirector's two phases (arXiv 2310.08465, section 4) for the groups ``TEMPORAL`` and one ``SPATIAL`` per clip.

    The spatial group of a clip learns its looks from single frames; with that group on, so that looks are no news, the
    temporal group learns from the whole clip. In ``SPATIAL_REST`` of the steps the reference has the spatial group off
    (``group_dropout`` of the settings). Unlike there, the second phase draws noise of its own, and both backwards come before both
    steps: the reference takes its spatial step in between, which leaks into the temporal gradient.

    Args:
        motion_loss: of the temporal group; MotionDirector's is ``denoising`` and ``anchor_debiased``.
    """
    looks = MotionLoss((WeightedTerm("spatial_denoising", 1.0, Denoising()),))
    return (
        Phase(looks, frames="one", groups=(SPATIAL,)),
        Phase(motion_loss, groups=(TEMPORAL, SPATIAL), learning=(TEMPORAL,)),
    )


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
        level_bias: levels are at share ``u ** level_bias`` of that range, u uniform and stratified over the batch;
            below 1 favours high noise, where motion is decided.
        clip_norm: gradient norm limit over the values that one phase trains, or phases that share groups; 0 is none.
        weight_decay: AdamW's.
        group_dropout: adapter group -> share 0..1 (exclusive) of the forwards in which it sits out all phases, names as in
            :class:`Phase`. A phase in which nothing is left to learn is skipped then.
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
    group_dropout: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        check_option("kind", self.kind, Kind)
        check_option("schedule", self.schedule, Schedule)
        for name, least in (("steps", 1), ("batch_size", 1), ("accumulation", 1), ("warmup_steps", 0)):
            check_whole(name, getattr(self, name), least)
        for name in ("learning_rate", "level_bias"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and finite.")
        for name in ("clip_norm", "weight_decay"):
            check_weight(name, getattr(self, name))
        for group, share in self.group_dropout.items():
            if not 0 <= share < 1:
                raise ValueError(f"The group {group!r} sits out a share of {share}; it must be at least 0 and below 1.")
        low, high = self.level_range
        if not 0 <= low < high <= 1:
            raise ValueError(f"level_range is {low} to {high}; it must rise within 0 to 1.")

    def level_at(self, u: Any) -> Any:
        """The noise level at which a draw ``u``, 0..1, or a tensor of them, trains."""
        low, high = self.level_range
        return low + (high - low) * u**self.level_bias

    @property
    def median_sigma(self) -> float:
        """The sigma that half of all draws stay below: sigma rises with the level, and the level with the draw."""
        return self.sigma_at(self.level_at(0.5))

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of optimizer step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
