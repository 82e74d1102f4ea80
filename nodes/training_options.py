"""What the widgets of Train Motion LoRA say, and what follows from it for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..sma import roles
from ..sma.experts import boundary_of, expert_levels
from ..sma.prediction import Kind
from ..sma.training import TrainingSettings
from .training_inputs import BY_PATTERN, FULL, LORA, ONE_ADAPTER, ONE_MODEL

# What a LoRA file tells of them as they are.
_RECORDED = (
    "rank",
    "dropout",
    "learning_rate",
    "schedule",
    "warmup_steps",
    "batch_size",
    "accumulation",
    "clip_norm",
    "weight_decay",
    "seed",
    "blocks",
)

# noise_bias 0. A flow model's own shift favours high noise already: at shift 8 a bias of 0.4 leaves 1 draw in 300 below sigma 0.5.
FLOW_BIAS, OTHER_BIAS = 1.0, 0.4


def named_after(prefix: str, expert: str) -> str:
    """A file name prefix that tells of which expert the file is."""
    return f"{prefix}_{expert.replace(' ', '_')}"


@dataclass(frozen=True)
class TrainingOptions:
    """The widgets' values by name. Those with a default came later; prompts that were saved before lack them."""

    layers: dict[str, Any]
    rank: int
    steps: int
    learning_rate: float
    seed: int
    save_every: int
    resume_from: str
    batch_size: int
    accumulation: int
    dropout: float
    warmup_steps: int
    schedule: str
    noise_low: float
    noise_high: float
    noise_bias: float
    clip_norm: float
    weight_decay: float
    save_prefix: str
    checkpointing: bool
    expert: str = ONE_MODEL
    expert_boundary: float = 0.0
    blocks: str = ""
    method: str = ONE_ADAPTER
    adapter: str = LORA

    @property
    def prefix(self) -> str:
        """File name prefix; an expert's tells which it is."""
        return self.save_prefix if self.expert == ONE_MODEL else named_after(self.save_prefix, self.expert)

    def layers_of(self, network: nn.Module) -> list[str]:
        """Names of the layers to adapt. ValueError where the network has none of them."""
        if self.layers["layers"] == BY_PATTERN:
            names = roles.matching(network, self.layers["pattern"])
        else:
            names = roles.layers_of(network, self.layers["layers"])
        return roles.in_blocks(network, names, self.blocks)

    def settings(
        self,
        network: nn.Module,
        kind: Kind,
        sigma_at: Callable[[float], float],
        group_dropout: Mapping[str, float],
    ) -> TrainingSettings:
        """How to train a network that predicts ``kind`` on this schedule.

        Raises:
            ValueError: an expert where there are no two, no noise levels, or settings out of range.
        """
        levels = (self.noise_low, self.noise_high)
        if not self.noise_low < self.noise_high:
            raise ValueError(
                f"noise_low is {self.noise_low:g} and noise_high {self.noise_high:g}; no noise level lies between. Raise noise_high."
            )
        if self.expert != ONE_MODEL:
            if kind != "flow":
                raise ValueError(
                    f"The {self.expert} expert is one of two flow models and this model predicts {kind}. "
                    f"Set expert to {ONE_MODEL!r}."
                )
            if (family := roles.known_family(network)) is not None and not family.experts:
                raise ValueError(f"{family.name} is one model for all noise. Set expert to {ONE_MODEL!r}.")
            boundary = self.expert_boundary or boundary_of(roles.variant_of(network))
            levels = expert_levels(self.expert, boundary, levels, sigma_at)
        return TrainingSettings(
            kind=kind,
            sigma_at=sigma_at,
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            accumulation=self.accumulation,
            warmup_steps=self.warmup_steps,
            schedule=self.schedule,
            level_range=levels,
            level_bias=self.noise_bias or (FLOW_BIAS if kind == "flow" else OTHER_BIAS),
            clip_norm=self.clip_norm,
            weight_decay=self.weight_decay,
            group_dropout=group_dropout,
            seed=self.seed,
        )

    def describe_expert(self, settings: TrainingSettings) -> str:
        """Which expert learns and between which sigmas; "" for a model that is alone."""
        if self.expert == ONE_MODEL:
            return ""
        low, high = (settings.sigma_at(level) for level in settings.level_range)
        return f"{self.expert} expert, sigma {low:.3f} to {high:.3f}"

    def describe_noise(self, settings: TrainingSettings) -> str:
        """The noise levels' bias in force and the median sigma that follows from it, the range and the schedule."""
        chosen = "" if self.noise_bias else " (automatic)"
        return f"noise bias {settings.level_bias:g}{chosen}, median sigma {settings.median_sigma:.3g}"

    def recorded(self, settings: TrainingSettings) -> dict[str, object]:
        """What goes into the metadata of a LoRA file; empty values are to be left out."""
        return (
            {name: getattr(self, name) for name in _RECORDED}
            | {
                "layers": self.layers["layers"],
                "pattern": self.layers.get("pattern", ""),
                "noise": [*settings.level_range, settings.level_bias],
                "expert": "" if self.expert == ONE_MODEL else self.expert,
                "framework": "" if self.method == ONE_ADAPTER else self.method,
            }
            | ({"adapter": self.adapter, "rank": ""} if self.adapter == FULL else {})
        )
