"""What a training run is asked to do: its phases and its settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from .checks import check_option, check_weight, check_whole
from .losses import MotionLoss
from .prediction import Kind

Frames = Literal["all", "one"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Phase:
    """One forward and backward of a training step.

    Attributes:
        loss: what is minimised.
        frames: "all" shows the network the clip, "one" a single random frame (MotionDirector's spatial phase).
        groups: the adapter groups switched on during this phase; None is all.

    Raises:
        ValueError: no motion loss, unknown frames, groups as a plain string, or one frame for a loss that compares
            frames.
    """

    loss: MotionLoss
    _: KW_ONLY
    frames: Frames = "all"
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.loss, MotionLoss):
            raise ValueError(f"The loss of a phase is {self.loss!r}; it must be a MotionLoss.")
        check_option("frames", self.frames, Frames)
        if isinstance(self.groups, str):
            raise ValueError(f"groups is {self.groups!r}; give a tuple of names, such as ({self.groups!r},).")
        if self.frames == "one":
            moving = [term.name for term in self.loss.terms if term.term.needs_motion]
            if moving:
                raise ValueError(
                    f'frames is "one", but {", ".join(moving)} compares frames; use frames="all" or leave the term out.'
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
            check_whole(name, getattr(self, name), least)
        for name in ("learning_rate", "level_bias"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and finite.")
        for name in ("clip_norm", "weight_decay"):
            check_weight(name, getattr(self, name))
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
