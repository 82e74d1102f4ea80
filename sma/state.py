"""What a training run remembers: a record of every step, and everything that a bit-exact resume needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .lora import Adapter

# What AdamW keeps of a value.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step saw.

    Attributes:
        step: counted from 1.
        loss: the weighted total.
        gradient_norm: before clipping.
        learning_rate: of this step.
        terms: loss term -> (sigma, unweighted value) of every noised sample it was evaluated on, so losses can be read
            per sigma.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    terms: dict[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class Snapshot:
    """What a step changes, copied on its own device: the adapter's values, AdamW's moments, a generator's state."""

    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    generator: Tensor

    @classmethod
    def of(cls, adapter: Adapter, optimizer: torch.optim.Optimizer, generator: Tensor) -> Snapshot:
        """Copies the present values; ``generator`` is a generator's state."""
        values = {name: value.detach().clone() for name, value in adapter.named_parameters()}
        moments = {
            f"{name}.{key}": value.detach().clone()
            for name, parameter in adapter.named_parameters()
            for key, value in optimizer.state[parameter].items()
        }
        return cls(values, moments, generator.clone())

    def restore(self, adapter: Adapter, optimizer: torch.optim.Optimizer) -> None:
        """Copies values and moments back; a value without moments here has none afterwards."""
        adapter.load_state_dict(self.adapter)
        optimizer.state.clear()
        for name, parameter in adapter.named_parameters():
            for key in MOMENTS:
                value = self.optimizer.get(f"{name}.{key}")
                if value is not None:
                    # AdamW keeps its step counter on the CPU, its moments beside the values.
                    optimizer.state[parameter][key] = value.clone() if key == "step" else value.to(parameter, copy=True)


@dataclass(frozen=True)
class TrainingState:
    """Everything a bit-exact resume needs, all on the CPU.

    Attributes:
        step: optimizer steps done.
        adapter: the trained values, as :meth:`~.lora.Adapter.state_dict` names them.
        optimizer: AdamW's ``<value>.step``, ``.exp_avg`` and ``.exp_avg_sq``; values that never had a gradient have
            none.
        generator: state of the run's CPU generator.
        history: one record per step.
    """

    step: int
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    generator: Tensor
    history: tuple[StepRecord, ...]

    @classmethod
    def capture(
        cls, adapter: Adapter, optimizer: torch.optim.Optimizer, generator: Tensor, history: Sequence[StepRecord]
    ) -> TrainingState:
        """Copies the present values; ``generator`` is a generator's state."""
        now = Snapshot.of(adapter, optimizer, generator)
        values, moments = ({name: x.cpu() for name, x in own.items()} for own in (now.adapter, now.optimizer))
        return cls(len(history), values, moments, now.generator, tuple(history))

    def restore(
        self, adapter: Adapter, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> list[StepRecord]:
        """Copies everything back and returns the history.

        Raises:
            ValueError: the state is of other layers or another rank.
        """
        Snapshot(self.adapter, self.optimizer, self.generator).restore(adapter, optimizer)
        generator.set_state(self.generator)
        return list(self.history)
