from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sma.sprites.model import SpritesModel, load_sprites, read_weights, sigmas
from sma.sprites.train import TrainingBatch, TrainSettings, start_from, train, training_batch


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
    settings = TrainSettings(steps=1000, warmup=60, learning_rate=2e-3)
    assert settings.rate(0) == pytest.approx(2e-3 / 60)
    assert settings.rate(60) == settings.rate(500) == 2e-3
    assert settings.rate(750) == pytest.approx(1e-3)
    assert 0 < settings.rate(999) < 1e-5


def test_training_writes_weights_that_moved_and_repeats_itself(tmp_path: Path) -> None:
    settings = TrainSettings(steps=2, batch=1, start="")
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
    settings, out = TrainSettings(steps=3, batch=1, start=""), tmp_path / "weights.safetensors"
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
        train(TrainSettings(steps=4, batch=1, start=""), out)
    resumed = train(settings, out)
    assert seen == [0, 1, 2, 2]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_run_starts_from_the_weights_its_recipe_names(tmp_path: Path) -> None:
    first, out = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    known = train(TrainSettings(steps=2, batch=1, start=""), first).state_dict()
    # As of an edition with fewer words: colours and shapes alone, without the entries that came later.
    config, parts = read_weights(first)
    tensors = {f"unet.{name}": tensor for name, tensor in parts["unet"].items()}
    tensors |= {f"prompt.{slot}.weight": parts["prompt"][f"{slot}.weight"][:-1].clone() for slot in ("colour", "shape")}
    save_file(tensors, str(first), {"config": json.dumps({"unet": config})})
    model = SpritesModel()
    start_from(model, first)
    state = model.state_dict()
    assert all(torch.equal(state[key], known[key]) for key in state if key.startswith("unet."))
    assert torch.equal(state["prompt.colour.weight"][:-1], known["prompt.colour.weight"][:-1])
    assert not state["prompt.colour.weight"][-1].any() and not state["prompt.ground.weight"].any()
    named = TrainSettings(steps=2, batch=1, start=hashlib.sha256(first.read_bytes()).hexdigest())
    train(named, out, start=first)
    moved = load_sprites(out).unet.conv_in.weight - known["unet.conv_in.weight"]
    assert 0 < moved.abs().max() < 3 * named.learning_rate
    for settings, start in ((named, None), (named, out), (TrainSettings(steps=2, batch=1, start=""), first)):
        with pytest.raises(ValueError, match="--start"):
            train(settings, tmp_path / "third.safetensors", start=start)
    small = tmp_path / "small.safetensors"
    save_file(tensors, str(small), {"config": json.dumps({"unet": {**config, "cross_attention_dim": 16}})})
    with pytest.raises(ValueError, match="another network"):
        start_from(model, small)


def test_empty_training_is_refused() -> None:
    with pytest.raises(ValueError, match="0 clips"):
        TrainSettings(batch=0)
