"""What Train Motion LoRA trains: one adapter, or MotionDirector's dual path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from ..sma import roles
from ..sma.losses import MotionLoss
from ..sma.plan import SPATIAL, SPATIAL_REST, TEMPORAL, dual_path, of_clip
from ..sma.training import Phase
from .training_inputs import ONE_ADAPTER
from .training_options import TrainingOptions


@dataclass(frozen=True)
class TrainingPlan:
    """Layers, groups of adapters and phases of a training.

    Attributes:
        motion_layers: names of the layers that learn motion.
        groups: adapter group -> names of its layers; None is one group of the motion layers.
        phases: of a step.
        resting: adapter group -> share of the steps in which it sits out.
        motion: the groups that make the LoRA; None is all.
        beside: other groups -> what their files are named after.
    """

    motion_layers: Sequence[str]
    phases: Sequence[Phase]
    groups: Mapping[str, Sequence[str]] | None = None
    resting: Mapping[str, float] = field(default_factory=dict)
    motion: tuple[str, ...] | None = None
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """Names of all layers, each once."""
        groups = {"all": self.motion_layers} if self.groups is None else self.groups
        return list(dict.fromkeys(name for names in groups.values() for name in names))

    def describe(self) -> str:
        """What is trained beside the motion; "" for nothing."""
        if self.groups is None:
            return ""
        count = len(self.beside)
        layers = len(self.groups[of_clip(SPATIAL, 0)])
        return f"{count} spatial adapter{'s' if count > 1 else ''} of {layers} modules beside the temporal one"


def plan_of(options: TrainingOptions, network: nn.Module, clips: int, motion_loss: MotionLoss) -> TrainingPlan:
    """How the options train a network on so many clips.

    Raises:
        ValueError: no such layers, or a dual path on a network of which no looks are known.
    """
    motion_layers = options.layers_of(network)
    if options.method == ONE_ADAPTER:
        return TrainingPlan(motion_layers, [Phase(motion_loss)])
    if roles.known_family(network) is None:
        raise ValueError(
            f"{type(network).__name__} is no video network of a known family, so the layers of its looks are not known. "
            f"Set method to {ONE_ADAPTER!r}."
        )
    looks = roles.in_blocks(network, roles.layers_of(network, "looks"), options.blocks)
    spatial = [of_clip(SPATIAL, clip) for clip in range(clips)]
    return TrainingPlan(
        motion_layers,
        dual_path(motion_loss),
        groups={TEMPORAL: motion_layers} | dict.fromkeys(spatial, looks),
        resting={SPATIAL: SPATIAL_REST},
        motion=(TEMPORAL,),
        beside={group: f"spatial_clip{number}" for number, group in enumerate(spatial, 1)},
    )
