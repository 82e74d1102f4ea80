"""A toy network to train adapters on, which remembers every call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from sma.lora import Adapter, attach
from sma.losses import Debiased, Denoising, MotionLoss, WeightedTerm, spectral_terms
from sma.prediction import Kind
from sma.spectral import REPAIRED
from sma.training import Phase, TrainingResult, TrainingSettings, train

PLAIN = MotionLoss((WeightedTerm("denoising", 1.0, Denoising()),))
# A term that draws and two that hold the reference clip's transforms.
FULL = PLAIN.with_terms(WeightedTerm("debiased", 0.5, Debiased()), *spectral_terms(REPAIRED))
GROUPS = {"temporal": ["0"], "spatial": ["2"]}


@dataclass
class Call:
    """One forward of the network: its arguments, its answer, and the adapter's values at that moment."""

    x_t: Tensor
    sigma: Tensor
    x0_hat: Tensor
    values: dict[str, Tensor]


@dataclass
class Toy:
    """A network [B, 3, F, H, W] -> same of one prediction kind, with an adapter on it and clips to train on."""

    kind: Kind
    clips: Sequence[Tensor]
    network: nn.Module
    adapter: Adapter
    phases: Sequence[Phase] = (Phase(loss=PLAIN),)
    masks: Sequence[Tensor | None] | None = None
    calls: list[Call] = field(default_factory=list)
    # May fail, or change the answer; called with the number of the call and the answer.
    meddle: Callable[[int, Tensor], Tensor] = lambda number, x0_hat: x0_hat

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1, 1, 1)
        scale = (1 + s**2).sqrt()
        x0_hat = output = self.network(x_t if self.kind == "flow" else x_t / scale)
        if self.kind in ("eps", "flow"):
            x0_hat = x_t - s * output
        elif self.kind == "v":
            x0_hat = x_t / scale**2 - output * s / scale
        x0_hat = self.meddle(len(self.calls), x0_hat)
        self.calls.append(Call(x_t, sigma, x0_hat.detach(), self.adapter.state_dict()))
        return x0_hat

    def sigma_at(self, level: float) -> float:
        return level if self.kind == "flow" else 0.05 + 3 * level

    def train(self, *, state=None, on_step=None, on_stop=None, **settings) -> TrainingResult:
        settings = {"kind": self.kind, "sigma_at": self.sigma_at, "steps": 6, "batch_size": 2} | settings
        options = {"masks": self.masks, "state": state, "on_step": on_step, "on_stop": on_stop}
        return train(self.denoise, self.clips, self.phases, self.adapter, TrainingSettings(**settings), **options)


@pytest.fixture
def make_toy() -> Callable[..., Toy]:
    """make_toy(kind="flow", seed=0, dropout=0.0, clips=((5, 4, 6),), phases=None, groups=GROUPS): `seed` is the fresh adapter's."""

    def make(
        kind: Kind = "flow",
        *,
        seed: int = 0,
        dropout: float = 0.0,
        clips: Sequence[tuple[int, int, int]] = ((5, 4, 6),),
        phases: Sequence[Phase] | None = None,
        groups: Mapping[str, Sequence[str]] = GROUPS,
    ) -> Toy:
        source = torch.Generator().manual_seed(40)
        network = nn.Sequential(
            nn.Conv3d(3, 8, (3, 1, 1), padding=(1, 0, 0)), nn.SiLU(), nn.Conv3d(8, 3, (1, 3, 3), padding=(0, 1, 1))
        )
        for parameter in network.requires_grad_(False).parameters():
            parameter.normal_(std=0.3, generator=source)
        adapter = attach(
            network,
            ["0", "2"],
            rank=3,
            alpha=3.0,
            dropout=dropout,
            groups=groups,
            generator=torch.Generator().manual_seed(seed),
        )
        tensors = [torch.randn(1, 3, *shape, generator=source) for shape in clips]
        return Toy(kind, tensors, network, adapter, phases or (Phase(loss=PLAIN),))

    return make


@pytest.fixture
def plain_loss() -> MotionLoss:
    """The denoising loss alone."""
    return PLAIN


@pytest.fixture
def full_loss() -> MotionLoss:
    """Denoising, debiased and both spectral losses."""
    return FULL
