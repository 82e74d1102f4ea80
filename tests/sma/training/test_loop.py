"""What a training step draws, computes, moves and records."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sma.lora import attach
from sma.losses import Denoising, MotionLoss, WeightedTerm
from sma.spectral import REPAIRED, global_loss
from sma.training import Phase, TrainingSettings, train


def settings(**changes) -> TrainingSettings:
    return TrainingSettings(**{"kind": "flow", "sigma_at": float} | changes)


@pytest.mark.parametrize("kind", ["eps", "v", "flow", "x0"])
def test_loss_falls_and_only_the_adapter_changes(make_toy, kind):
    toy = make_toy(kind)
    network, fresh = toy.network, toy.adapter.state_dict()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    identities = [id(parameter) for parameter in network.parameters()]
    base = network(toy.clips[0])
    losses = [step.loss for step in toy.train(steps=80, batch_size=4, learning_rate=0.02).state.history]
    assert sum(losses[-20:]) < 0.85 * sum(losses[:20])
    assert all((value != fresh[name]).any() for name, value in toy.adapter.state_dict().items())
    assert (network(toy.clips[0]) - base).abs().max() > 0.1
    toy.adapter.detach()
    assert torch.equal(network(toy.clips[0]), base)
    assert [id(parameter) for parameter in network.parameters()] == identities
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def errors(toy, call, clip: torch.Tensor) -> torch.Tensor:
    """Squared error of the network's flow against noise - x0, [B, ...], from what the network saw."""
    s = call.sigma.view(-1, 1, 1, 1, 1)
    noise = (call.x_t - (1 - s) * clip) / s
    return (toy.network(call.x_t) - (noise - clip)) ** 2


def denoising_of(toy, call) -> list[float]:
    """The denoising loss of each sample of one forward."""
    toy.adapter.load_state_dict(call.values)
    with torch.no_grad():
        return errors(toy, call, toy.clips[0]).flatten(1).mean(1).tolist()


def test_first_gradient_is_that_of_the_mean_loss_over_all_forwards(make_toy):
    toy = make_toy()
    state = toy.train(steps=1, accumulation=3, batch_size=2, clip_norm=0.0).state
    assert len(toy.calls) == 3
    toy.adapter.load_state_dict(toy.calls[0].values)
    loss = torch.stack([errors(toy, call, toy.clips[0]).mean() for call in toy.calls]).mean()
    loss.backward()
    norm = torch.cat([value.grad.flatten() for value in toy.adapter.parameters()]).norm().item()
    (record,) = state.history
    assert (record.loss, record.gradient_norm) == pytest.approx((loss.item(), norm), rel=1e-4)
    for name, value in toy.adapter.named_parameters():
        first_moment = state.optimizer[f"{name}.exp_avg"] / (1 - 0.9)
        torch.testing.assert_close(first_moment, value.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("limit", [0.05, 1e6])
def test_clipping_takes_the_norm_of_the_trained_values_alone(make_toy, limit):
    toy, states = make_toy(), []
    for frozen in (True, False):
        toy = make_toy()
        toy.network.requires_grad_(not frozen)
        states.append(toy.train(steps=1, clip_norm=limit).state)
    network_norm = torch.cat([parameter.grad.flatten() for parameter in toy.network.parameters()]).norm()
    norms = {state.history[0].gradient_norm for state in states}
    (norm,) = norms
    assert network_norm > norm > 0.05
    moments = [value for name, value in states[0].optimizer.items() if name.endswith("exp_avg")]
    clipped = torch.cat([value.flatten() for value in moments]).norm().item() / (1 - 0.9)
    assert clipped == pytest.approx(min(limit, norm), rel=1e-4)
    assert all(torch.equal(value, states[1].optimizer[name]) for name, value in states[0].optimizer.items())


def test_learning_rate_warms_up_then_stays_or_falls_along_a_cosine():
    constant = settings(steps=8, learning_rate=0.4, warmup_steps=4)
    assert [constant.learning_rate_at(step) for step in range(8)] == pytest.approx([0.1, 0.2, 0.3] + [0.4] * 5)
    cosine = replace(constant, schedule="cosine")
    expected = [0.1, 0.2, 0.3, 0.4, 0.4, 0.2 + 0.2 * math.sqrt(0.5), 0.2, 0.2 - 0.2 * math.sqrt(0.5)]
    assert [cosine.learning_rate_at(step) for step in range(8)] == pytest.approx(expected)
    assert cosine.learning_rate_at(8) == pytest.approx(0)
    assert settings(steps=2, warmup_steps=9, schedule="cosine").learning_rate_at(1) == pytest.approx(1e-3 * 2 / 9)


def test_every_step_uses_its_learning_rate(make_toy):
    toy = make_toy()
    options = {"steps": 5, "learning_rate": 0.4, "warmup_steps": 2, "schedule": "cosine"}
    history = toy.train(**options).state.history
    plan = settings(**options)
    assert [record.learning_rate for record in history] == [plan.learning_rate_at(step) for step in range(5)]
    # AdamW's first step is the learning rate times the sign of the gradient.
    moved = {name: value - toy.calls[0].values[name] for name, value in toy.calls[1].values.items()}
    ups = torch.cat([value.flatten() for name, value in moved.items() if name.endswith("up")])
    torch.testing.assert_close(ups.abs(), torch.full_like(ups, 0.2), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("low", "high", "bias"), [(0.0, 1.0, 1.0), (0.2, 0.7, 0.4), (0.1, 0.9, 3.0)])
def test_noise_levels_are_stratified_over_the_batch_and_biased_within_their_range(make_toy, low, high, bias):
    toy = make_toy()
    toy.train(steps=60, batch_size=5, level_range=(low, high), level_bias=bias)
    levels = torch.stack([call.sigma for call in toy.calls]).double()
    assert levels.min() >= low and levels.max() <= high
    u = ((levels - low) / (high - low)) ** (1 / bias) * 5 - torch.arange(5)
    assert u.min() > -1e-4 and u.max() < 1 + 1e-4  # sample i in the i-th fifth
    # 300 draws uniform within their fifth: mean 1/2, variance 1/12.
    assert u.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 300))
    assert u.var().item() == pytest.approx(1 / 12, rel=0.25)


def test_sigma_is_the_models_own_of_the_level(make_toy):
    """Both toys draw the same levels; the v toy's schedule is 0.05 + 3 level."""
    flow, v = make_toy("flow"), make_toy("v")
    flow.train(steps=3)
    v.train(steps=3)
    for a, b in zip(flow.calls, v.calls, strict=True):
        torch.testing.assert_close(0.05 + 3 * a.sigma, b.sigma)


@pytest.mark.parametrize("kind", ["eps", "v", "flow", "x0"])
def test_clip_is_noised_as_its_kind_with_fresh_unit_noise(make_toy, kind):
    toy = make_toy(kind, clips=((5, 16, 16),))
    toy.train(steps=3, batch_size=2)
    drawn = []
    for call in toy.calls:
        s = call.sigma.view(-1, 1, 1, 1, 1)
        clean = (1 - s) * toy.clips[0] if kind == "flow" else toy.clips[0]
        drawn.extend((call.x_t - clean) / s)
    assert torch.corrcoef(torch.stack([noise.flatten() for noise in drawn])).triu(1).abs().max() < 0.1
    assert all(noise.std().item() == pytest.approx(1, abs=0.06) for noise in drawn)


@pytest.mark.parametrize("kind", ["eps", "v", "flow", "x0"])
def test_denoiser_that_knows_the_clip_has_no_loss(make_toy, kind):
    toy = make_toy(kind)
    toy.meddle = lambda number, answer: toy.clips[0] + 0 * answer
    (record,) = toy.train(steps=1).state.history
    assert max(value for _, value in record.terms["denoising"]) < 1e-8


def test_history_holds_what_each_forward_saw_per_sigma(make_toy, full_loss):
    toy = make_toy(phases=[Phase(full_loss)])
    history = toy.train(steps=3, accumulation=2).state.history
    assert [record.step for record in history] == [1, 2, 3]
    for record, calls in zip(history, zip(toy.calls[::2], toy.calls[1::2], strict=True), strict=True):
        assert list(record.terms) == ["denoising", "debiased", "spectral_global", "spectral_local"]
        sigmas = [sigma for call in calls for sigma in call.sigma.tolist()]
        assert all([sigma for sigma, _ in pairs] == sigmas for pairs in record.terms.values())
        for name, expected in {
            "denoising": [value for call in calls for value in denoising_of(toy, call)],
            "spectral_global": [value for call in calls for value in global_loss(toy.clips[0], call.x0_hat).tolist()],
        }.items():
            assert [value for _, value in record.terms[name]] == pytest.approx(expected, rel=1e-4)
        weights = {"denoising": 1, "debiased": 0.5} | {
            "spectral_global": REPAIRED.global_weight,
            "spectral_local": REPAIRED.local_weight,
        }
        total = sum(weights[name] * value for name, pairs in record.terms.items() for _, value in pairs) / 4
        assert record.loss == pytest.approx(total, rel=1e-5)


def test_two_phases_of_a_step_see_the_same_values_and_move_their_groups(make_toy, plain_loss, full_loss):
    image = MotionLoss((WeightedTerm("image", 1.0, Denoising()),))
    toy = make_toy(
        phases=[Phase(frames="one", groups=("spatial",), loss=image), Phase(full_loss, groups=("temporal",))]
    )
    history = toy.train(steps=20, level_range=(0.0, 1e-3)).state.history
    frames = set()
    for record, spatial, temporal in zip(history, toy.calls[::2], toy.calls[1::2], strict=True):
        assert all(torch.equal(value, temporal.values[name]) for name, value in spatial.values.items())
        distance = (spatial.x_t[:1] - toy.clips[0]).abs().amax((0, 1, 3, 4))  # at sigma 0.001 the frame shows itself
        assert distance.min() < 0.02
        frames.add(int(distance.argmin()))
        assert (spatial.x_t.shape[2], temporal.x_t.shape[2]) == (1, 5)
        assert [sigma for sigma, _ in record.terms["image"]] == spatial.sigma.tolist()
        assert [sigma for sigma, _ in record.terms["denoising"]] == temporal.sigma.tolist()
    assert frames == set(range(5))
    assert torch.equal(toy.calls[0].values["0.up"], torch.zeros(8, 3, 1, 1, 1))
    assert toy.calls[2].values["0.up"].any() and toy.calls[2].values["2.up"].any()

    alone = make_toy(phases=[Phase(plain_loss, groups=("temporal",))])
    state = alone.train(weight_decay=0.5).state
    assert {name.split(".")[0] for name in state.optimizer} == {"0"}
    fresh = make_toy().adapter.state_dict()
    assert [torch.equal(value, fresh[name]) for name, value in state.adapter.items()] == [False, False, True, True]


def test_every_clip_is_trained_against_its_own_transforms(make_toy, full_loss):
    toy = make_toy(clips=((5, 4, 6), (5, 4, 6), (4, 3, 5)), phases=[Phase(full_loss)])
    history = toy.train(steps=30, batch_size=1, level_range=(0.0, 0.01)).state.history
    seen = set()
    for record, call in zip(history, toy.calls, strict=True):
        fitting = [index for index, clip in enumerate(toy.clips) if clip.shape == call.x_t.shape]
        index = min(fitting, key=lambda index: (toy.clips[index] - call.x_t).abs().max().item())
        seen.add(index)
        expected = global_loss(toy.clips[index], call.x0_hat).item()
        assert record.terms["spectral_global"][0][1] == pytest.approx(expected, rel=1e-4)
    assert seen == {0, 1, 2}


def test_same_seed_repeats_a_run_and_the_global_generator_plays_no_part(make_toy, full_loss):
    runs = []
    for seed, chaos in ((0, 1), (0, 2), (1, 1)):
        toy = make_toy(dropout=0.3, phases=[Phase(full_loss)])
        torch.manual_seed(chaos)
        before = torch.get_rng_state()
        runs.append(toy.train(seed=seed).state)
        assert torch.equal(torch.get_rng_state(), before)
    assert runs[0].history == runs[1].history
    assert all(torch.equal(value, runs[1].adapter[name]) for name, value in runs[0].adapter.items())
    assert runs[0].history[0].loss != runs[2].history[0].loss


def test_dropout_acts_in_training_with_another_mask_in_every_forward(make_toy):
    dropping, whole = make_toy(dropout=0.5), make_toy()
    seeds = []
    dropping.meddle = lambda number, answer: seeds.append(dropping.adapter.dropout_seed) or answer
    losses = [[record.loss for record in toy.train(accumulation=2).state.history] for toy in (dropping, whole)]
    assert losses[0][0] == losses[1][0]  # a fresh update is 0
    assert losses[0][-1] != pytest.approx(losses[1][-1], rel=1e-6)
    assert len(set(seeds)) == len(seeds) == 12


def test_on_step_hears_of_every_step_with_the_last_clean_estimate(make_toy):
    toy, heard = make_toy(), []
    result = toy.train(on_step=heard.append, on_stop=pytest.fail)
    assert [info.record for info in heard] == list(result.state.history)
    assert {info.steps for info in heard} == {6}
    for info, call in zip(heard, toy.calls, strict=True):
        assert torch.equal(info.x0_hat, call.x0_hat)
        assert not info.x0_hat.requires_grad


def test_half_precision_clips_are_noised_in_float32(make_toy):
    toy = make_toy()
    toy.clips = [clip.bfloat16() for clip in toy.clips]
    toy.train(steps=2)
    assert {(call.x_t.dtype, call.sigma.dtype) for call in toy.calls} == {(torch.float32, torch.float32)}


def test_adapter_attached_under_inference_mode_trains(make_toy):
    toy, again = make_toy(), make_toy()
    again.adapter.detach()
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(0)
        groups = again.adapter.groups
        again.adapter = attach(again.network, ["0", "2"], rank=3, alpha=3.0, groups=groups, generator=generator)
    assert not any(value.is_inference() for value in again.adapter.parameters())
    trained, expected = again.train().state, toy.train().state
    assert trained.history == expected.history
    assert all(torch.equal(value, expected.adapter[name]) for name, value in trained.adapter.items())


def test_one_tensor_of_clips_is_trained_like_a_list_of_them(make_toy):
    toy, again = (make_toy(clips=((5, 4, 6), (5, 4, 6))) for _ in range(2))
    again.clips = torch.cat(list(again.clips))
    assert again.train().state.history == toy.train().state.history


def test_each_clip_is_denoised_by_its_own_denoiser(make_toy):
    toy = make_toy(clips=((5, 4, 6), (6, 4, 6)))
    asked = []

    def denoiser_of(frames):
        def denoise(x_t, sigma):
            asked.append((frames, x_t.shape[2]))
            return toy.denoise(x_t, sigma)

        return denoise

    def run(denoisers):
        return train(denoisers, toy.clips, toy.phases, toy.adapter, settings(steps=8))

    run([denoiser_of(5), denoiser_of(6)])
    assert set(asked) == {(5, 5), (6, 6)}
    with pytest.raises(ValueError, match="1 denoisers and 2 clips were given; one for all or one for each is needed"):
        run([toy.denoise])


@pytest.mark.parametrize("seed", [0, 5, 2**64 - 1])
def test_noise_is_not_drawn_from_the_numbers_that_made_the_adapter(make_toy, seed):
    """One seed serves both in a host."""
    toy = make_toy("x0", clips=((5, 16, 16),))
    toy.train(steps=1, batch_size=1, seed=seed)
    (call,) = toy.calls
    noise = ((call.x_t - toy.clips[0]) / call.sigma).flatten()
    source, likeness = torch.Generator(), []
    for offset in range(40):  # whatever was drawn before the noise
        torch.rand(offset, generator=source.manual_seed(seed))
        likeness.append(torch.corrcoef(torch.stack([noise, torch.randn(noise.shape, generator=source)]))[0, 1].abs())
    assert max(likeness) < 0.2
