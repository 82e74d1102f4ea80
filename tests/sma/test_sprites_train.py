from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sma.sprites.model import load_sprites, sigmas
from sma.sprites.train import TrainingBatch, TrainSettings, train, training_batch


def alpha_bar() -> torch.Tensor:
    return 1 / (1 + sigmas().square())


def test_step_data_depend_on_seed_and_step_only() -> None:
    settings = TrainSettings(batch=3)
    first, again = (training_batch(settings, 5, alpha_bar()) for _ in range(2))
    for name in ("x", "target", "timestep", "tokens"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.x, training_batch(settings, 6, alpha_bar()).x)
    assert not torch.equal(first.x, training_batch(TrainSettings(batch=3, seed=1), 5, alpha_bar()).x)


def test_input_and_velocity_determine_a_clean_clip() -> None:
    batch = training_batch(TrainSettings(batch=10), 0, alpha_bar())
    level = alpha_bar()[batch.timestep].view(-1, 1, 1, 1, 1)
    x0 = level.sqrt() * batch.x - (1 - level).sqrt() * batch.target
    assert -1.001 < x0.min() and x0.max() < 1.001
    # The corner is ground, so grey: red, green and blue of a patch's first pixel agree.
    corner = x0[:, [0, 4, 8], :, 0, 0]
    torch.testing.assert_close(corner, corner[:, :1].expand_as(corner), rtol=0, atol=1e-3)


def test_timesteps_are_stratified() -> None:
    timestep = training_batch(TrainSettings(batch=10), 3, alpha_bar()).timestep
    assert (timestep // 100).tolist() == list(range(10))


def test_prompts_are_dropped_as_often_as_said() -> None:
    settings = TrainSettings(batch=1500)
    null = training_batch(settings, 0, alpha_bar()).tokens == torch.tensor([6, 3, 6, 3, 3])
    assert null.all(1).float().mean() == pytest.approx(0.1, abs=0.03)
    assert (null[:, 0] & ~null[:, 1]).float().mean() == pytest.approx(0.027, abs=0.015)
    assert (null[:, 4] & ~null[:, 1]).float().mean() == pytest.approx(0.27, abs=0.04)


def test_prompts_name_both_sprites_and_the_ground() -> None:
    settings = TrainSettings(batch=400, drop_prompt=0.0, drop_word=0.0, drop_ground=0.0)
    tokens = training_batch(settings, 0, alpha_bar()).tokens
    single = (tokens[:, 2] == 7) & (tokens[:, 3] == 4)
    assert torch.equal(single, (tokens[:, 2] == 7) | (tokens[:, 3] == 4))
    assert single.float().mean() == pytest.approx(0.8, abs=0.07)
    assert tokens[:, 4].bincount(minlength=3).tolist() == pytest.approx([200, 100, 100], abs=40)


def test_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    settings = TrainSettings(steps=1000, warmup=60)
    assert settings.rate(0) == pytest.approx(2e-3 / 60)
    assert settings.rate(60) == settings.rate(500) == 2e-3
    assert settings.rate(750) == pytest.approx(1e-3)
    assert 0 < settings.rate(999) < 1e-5


def test_training_writes_weights_that_moved_and_repeats_itself(tmp_path: Path) -> None:
    settings = TrainSettings(steps=2, batch=1)
    before = torch.get_rng_state()
    first = train(settings, tmp_path / "a.safetensors")
    second = train(settings, tmp_path / "b.safetensors")
    assert torch.equal(before, torch.get_rng_state())
    stored = load_sprites(tmp_path / "a.safetensors").state_dict()
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
        assert torch.equal(value, stored[key])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_stopped_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, out = TrainSettings(steps=3, batch=1), tmp_path / "weights.safetensors"
    whole = train(settings, tmp_path / "whole.safetensors")
    seen: list[int] = []

    def stop_at_third(given: TrainSettings, step: int, levels: torch.Tensor) -> TrainingBatch:
        seen.append(step)
        if seen == [0, 1, 2]:
            raise InterruptedError
        return training_batch(given, step, levels)

    monkeypatch.setattr("sma.sprites.train.training_batch", stop_at_third)
    with pytest.raises(InterruptedError):
        train(settings, out, checkpoint_every=0.0)
    with pytest.raises(ValueError, match="other settings"):
        train(TrainSettings(steps=4, batch=1), out)
    resumed = train(settings, out)
    assert seen == [0, 1, 2, 2]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_empty_training_is_refused() -> None:
    with pytest.raises(ValueError, match="0 clips"):
        TrainSettings(batch=0)
