"""Training of one cell of the motion benchmark: a LoRA of the sprites model on one clip, in stretches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.motion_methods import FORMS, METHODS, phases
from sma.lora import attach
from sma.losses import denoising
from sma.networks.unet3d_transformers import write_out_attention
from sma.plan import SPATIAL, SPATIAL_REST, TEMPORAL, TrainingSettings, of_clip
from sma.prediction import Prediction, add_noise
from sma.roles import layers_of
from sma.sprites.data import Scene
from sma.sprites.model import SpritesModel, load_sprites, sigmas, to_latent
from sma.state import TrainingState
from sma.training import train

_CLOSING_STEPS = 50
_LOOKS = of_clip(SPATIAL, 0)


@dataclass(frozen=True)
class Protocol:
    """What is the same in every cell. Noise levels as in sma.training, whose defaults hold for the rest: no warm-up,
    gradient norm clipped to 1.

    autocast: compute the network in bfloat16; ComfyUI trains in float32 on a CPU, which takes a quarter longer.
    fit_draws: noised copies on which the fit is measured.
    """

    batch_size: int = 2
    level_bias: float = 0.4
    level_range: tuple[float, float] = (0.01, 0.99)
    rank: int = 8
    autocast: bool = True
    fit_draws: int = 16
    prompts: tuple[str, ...] = ("green square on plain", "blue triangle on plain")
    noises: int = 4
    sampler_steps: int = 20
    guidance: float = 3.0

    def precision(self) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast)

    def load(self, weights: Path) -> SpritesModel:
        """The base model, its own weights at rest."""
        model = load_sprites(weights).requires_grad_(False)
        if self.autocast:
            # On so few tokens attention that is written out is the faster one, in bfloat16 only.
            write_out_attention(model.unet)
        return model


def own_seed(purpose: str, motion: str, seed: int) -> int:
    """A seed for one purpose in one pair of motion and training seed: such pairs share no draw with each other."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {motion} {seed}".encode()).digest()[:4], "big") >> 1


@cache
def _table() -> Tensor:
    return sigmas()


def sigma_at(level: float) -> float:
    """Noise level 0..1 to the sprites schedule's sigma; levels are shares of its timesteps."""
    return float(_table()[round(level * (len(_table()) - 1))])


class Trainer:
    """A LoRA that learns a scene's motion; it stays attached to the model.

    The dual path's looks group is made after the temporal one, so that this has the values it would have alone.
    """

    def __init__(
        self,
        model: SpritesModel,
        scene: Scene,
        method: str,
        form: str,
        motion: str,
        seed: int,
        learning_rate: float,
        protocol: Protocol,
    ) -> None:
        self._protocol, self._dual = protocol, METHODS[method].dual
        self._phases = phases(method, form)
        self._clip = to_latent(scene.render()[None])
        with torch.no_grad():
            context = model.prompt.encode([scene.prompt])

        def denoise(x_t: Tensor, sigma: Tensor) -> Tensor:
            with protocol.precision():
                return model.denoise(x_t, sigma, context.expand(len(x_t), -1, -1))

        self._denoise = denoise
        groups = {TEMPORAL: layers_of(model.unet, "motion")}
        if self._dual:
            groups[_LOOKS] = layers_of(model.unet, "looks")
        purpose = "other initial values" if FORMS[form].null else "initial values"
        self.adapter = attach(
            model.unet,
            dict.fromkeys(name for names in groups.values() for name in names),
            rank=protocol.rank,
            alpha=protocol.rank,
            groups=groups,
            generator=torch.Generator().manual_seed(own_seed(purpose, motion, seed)),
        )
        self._settings = TrainingSettings(
            kind="v",
            sigma_at=sigma_at,
            batch_size=protocol.batch_size,
            learning_rate=learning_rate,
            level_bias=protocol.level_bias,
            level_range=protocol.level_range,
            group_dropout={_LOOKS: SPATIAL_REST} if self._dual else {},
            seed=own_seed("training", motion, seed),
        )
        self._draws = self._fixed_draws(own_seed("fit", motion, seed))
        self._state: TrainingState | None = None

    def train_to(self, steps: int) -> None:
        """Go on until so many steps are done: the same values as in one go, see sma.training."""
        settings = replace(self._settings, steps=steps)
        self._state = train(self._denoise, [self._clip], self._phases, self.adapter, settings, state=self._state).state

    def closing_losses(self) -> dict[str, float]:
        """Every term, also those only watched, over the last 50 steps."""
        found: dict[str, list[float]] = {}
        for record in self._state.history[-_CLOSING_STEPS:]:
            for name, values in record.terms.items():
                found.setdefault(name, []).extend(value for _, value in values)
        return {name: sum(values) / len(values) for name, values in found.items()}

    def fit(self) -> float:
        """Denoising error with the adapter as it is sampled with, over draws that are the same for all methods and forms."""
        with torch.no_grad(), self.sampling():
            return denoising(self._predict(self._draws)).mean().item()

    def gradient_ratio(self) -> float | None:
        """Norm of the weighted spectral terms' gradient, before any share scales it, over that of the other terms, in the
        values that learn from them; over every other draw of `fit`. None without spectral terms."""
        loss = self._phases[-1].loss
        names = [term.name for term in loss.terms if term.weight > 0]
        if not any(name.startswith("spectral") for name in names):
            return None
        prediction = self._predict(tuple(part[::2] for part in self._draws))
        values = loss(prediction, torch.Generator().manual_seed(0))
        weighted = {term.name: term.weight * values[term.name].mean() for term in loss.terms if term.weight > 0}
        learning = self.adapter.parameters([TEMPORAL])

        def norm(spectral: bool) -> float:
            chosen = [value for name, value in weighted.items() if name.startswith("spectral") == spectral]
            gradients = torch.autograd.grad(torch.stack(chosen).sum(), learning, retain_graph=True)
            return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()

        return norm(True) / norm(False)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """The adapter as it is sampled with: of the dual path the temporal group alone."""
        if self._dual:
            self.adapter.enable(**{_LOOKS: False})
        try:
            yield
        finally:
            if self._dual:
                self.adapter.enable(**{_LOOKS: True})

    def _fixed_draws(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Clean clips, noises and sigmas, at the quantiles of the noise levels that training draws."""
        count, (low, high) = self._protocol.fit_draws, self._protocol.level_range
        quantiles = (torch.arange(count) + 0.5) / count
        levels = low + (high - low) * quantiles**self._protocol.level_bias
        x0 = self._clip.expand(count, -1, -1, -1, -1)
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
        return x0, noise, torch.tensor([sigma_at(float(level)) for level in levels])

    def _predict(self, draws: tuple[Tensor, ...]) -> Prediction:
        x0, noise, sigma = draws
        x_t = add_noise(x0, noise, sigma, "v")
        return Prediction.from_denoised(x0, noise, x_t, sigma, self._denoise(x_t, sigma), "v")
