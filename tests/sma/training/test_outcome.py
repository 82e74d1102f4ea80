"""A training is judged at the same noise with and without what it learned: no alarm for one that goes well, one where it diverged."""

from __future__ import annotations

import pytest
import torch

from sma import roles
from sma.lora import attach
from sma.losses import Denoising, MotionLoss, WeightedTerm
from sma.outcome import Outcome, outcome
from sma.plan import Phase, TrainingSettings
from sma.sprites.data import Scene, named_path
from sma.sprites.model import load_sprites, sigmas, to_latent
from sma.training import train

PHASE = Phase(MotionLoss((WeightedTerm("denoising", 1.0, Denoising()),)))


@pytest.fixture(scope="module")
def model():
    return load_sprites()


def trained(model, steps: int, learning_rate: float, seed: int) -> Outcome:
    """The sprites template's training but for its steps and learning rate."""
    scene, table = Scene("red", "circle", named_path("circle")), sigmas()
    clips = [to_latent(scene.render()[None])]
    context = model.prompt.encode([scene.prompt]).detach()
    settings = TrainingSettings(
        kind="v",
        sigma_at=lambda level: float(table[round(level * (len(table) - 1))]),
        steps=steps,
        learning_rate=learning_rate,
        batch_size=2,
        level_bias=0.4,
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed)
    adapter = attach(model.unet, roles.layers_of(model.unet, "motion"), rank=8, alpha=8, generator=generator)

    def denoise(x_t, sigma):
        return model.denoise(x_t, sigma, context.expand(len(x_t), -1, -1))

    try:
        train(denoise, clips, [PHASE], adapter, settings)
        return outcome([denoise], clips, PHASE, adapter, settings)
    finally:
        adapter.detach()


@pytest.mark.parametrize("seed", range(5))
def test_a_good_training_raises_no_alarm(model, seed):
    found = trained(model, steps=8, learning_rate=6e-3, seed=seed)
    assert found.warning() == "" and found.learned < found.without


@pytest.mark.parametrize("seed", range(2))
def test_a_training_that_diverged_is_noticed_and_the_remedy_named(model, seed):
    found = trained(model, steps=8, learning_rate=0.5, seed=seed)
    assert found.warning().startswith("The training diverged: the loss on the clip")
    assert "Lower learning_rate" in found.warning()


def test_the_adapter_is_left_on_and_nothing_learned_is_no_divergence(make_toy):
    toy = make_toy("v")
    settings = TrainingSettings(kind="v", sigma_at=toy.sigma_at)
    before = toy.adapter.state_dict()
    found = outcome([toy.denoise] * len(toy.clips), toy.clips, PHASE, toy.adapter, settings)
    assert found.without == found.learned > 0 and found.warning() == ""
    assert len(toy.calls) == 8
    assert all(value.equal(before[name]) for name, value in toy.adapter.state_dict().items())
    assert Outcome(1.0, float("nan")).warning()
