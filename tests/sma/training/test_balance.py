"""The share of the spectral terms in a step's gradient, against gradients taken outside the loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sma.balance import backward
from sma.files import load_state, save_state
from sma.losses import MotionLoss, ResidualCosine, WeightedTerm, denoising, residual_cosine, spectral_terms
from sma.plan import SPATIAL, Phase, dual_path
from sma.prediction import Prediction
from sma.spectral import REPAIRED, global_loss, local_loss

SIZES = [(5, 4, 6), (4, 5, 3)]
DUAL = {"temporal": ["0"], "spatial 0": ["2"], "spatial 1": ["2"]}


@pytest.fixture
def balanced(plain_loss):
    """balanced(share, scale=1.0): denoising, cosine and both spectral terms, the weights of those times scale."""

    def make(share: float | None, scale: float = 1.0, **form) -> MotionLoss:
        form = replace(REPAIRED, global_weight=0.4 * scale, local_weight=0.2 * scale, **form)
        return MotionLoss(
            (*plain_loss.terms, WeightedTerm("cosine", 0.3, ResidualCosine()), *spectral_terms(form)), share
        )

    return make


def grown(toy):
    """The toy with an adapter that is no longer fresh, so that every value has a gradient."""
    source = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in toy.adapter.parameters():
            value.normal_(std=0.2, generator=source)
    return toy


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors]).double()


def first_gradient(state) -> torch.Tensor:
    """What AdamW was given in the only step: its first moment is a tenth of that."""
    return flat([value for name, value in state.optimizer.items() if name.endswith("exp_avg")]) / (1 - 0.9)


def gradients_of(toy, call) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Gradient and value of the main and of the spectral part of one forward, each by a forward and backward of its own."""
    x0, sigma = toy.clips[0].expand_as(call.x_t), call.sigma.view(-1, 1, 1, 1, 1)
    clean = (1 - sigma) * x0 if toy.kind == "flow" else x0
    values = list(toy.adapter.parameters())
    found = []
    for part in ("main", "spectral"):
        x0_hat = toy.denoise(call.x_t, call.sigma)
        p = Prediction.from_denoised(x0, (call.x_t - clean) / sigma, call.x_t, call.sigma, x0_hat, toy.kind)
        if part == "main":
            loss = denoising(p) + 0.3 * residual_cosine(p)
        else:
            loss = 0.4 * global_loss(x0, x0_hat) + 0.2 * sum(local_loss(x0, x0_hat, relative=True))
        loss = loss.mean()
        found.append((flat(torch.autograd.grad(loss, values)), loss.item()))
    (main, main_loss), (spectral, spectral_loss) = found
    return main, spectral, main_loss, spectral_loss


@pytest.mark.parametrize("kind", ["v", "flow"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.1, 3.0])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_each_forward_adds_the_spectral_gradient_at_its_share_of_the_norm_of_the_others(
    make_toy, balanced, kind, size, share, accumulation
):
    toy = grown(make_toy(kind, clips=(size,), phases=[Phase(balanced(share))]))
    values = toy.adapter.state_dict()
    state = toy.train(steps=1, clip_norm=0.0, accumulation=accumulation).state
    toy.adapter.load_state_dict(values)
    expected, total = 0.0, 0.0
    for call in toy.calls[:accumulation]:
        main, spectral, main_loss, spectral_loss = gradients_of(toy, call)
        scale = share * main.norm() / spectral.norm()
        expected += (main + scale * spectral) / accumulation
        total += (main_loss + float(scale) * spectral_loss) / accumulation
    torch.testing.assert_close(first_gradient(state), expected, rtol=0, atol=2e-5 * float(expected.norm()))
    (record,) = state.history
    assert record.loss == pytest.approx(total, rel=1e-4)
    assert record.gradient_norm == pytest.approx(float(expected.norm()), rel=1e-4)


def test_the_weights_of_the_spectral_terms_fix_their_proportion_only(make_toy, balanced):
    light, heavy, plain_light, plain_heavy = (
        grown(make_toy(phases=[Phase(balanced(share, scale))])).train(steps=1, clip_norm=0.0).state
        for share, scale in ((0.5, 0.01), (0.5, 100.0), (None, 0.01), (None, 100.0))
    )
    norm = float(first_gradient(light).norm())
    torch.testing.assert_close(first_gradient(light), first_gradient(heavy), rtol=0, atol=1e-5 * norm)
    assert light.history[0].loss == pytest.approx(heavy.history[0].loss, rel=1e-5)
    assert (first_gradient(plain_light) - first_gradient(plain_heavy)).norm() > norm


def test_without_a_share_the_gradient_is_that_of_one_backward_bit_for_bit(make_toy):
    def gradients(job) -> list[torch.Tensor]:
        toy = grown(make_toy())
        loss = toy.network(toy.clips[0]).square().mean()
        job(loss, toy.adapter.parameters())
        return [value.grad for value in toy.adapter.parameters()]

    ours = gradients(lambda loss, values: backward((loss,), None, values))
    reference = gradients(lambda loss, values: loss.backward())
    assert all(torch.equal(a, b) for a, b in zip(ours, reference, strict=True))
    assert flat(ours).norm() > 0


def test_a_spectral_gradient_of_zero_adds_nothing(make_toy, balanced):
    """At pure noise there is no signal to weigh by."""
    states = []
    for loss in (balanced(0.7, sigma_weight="signal"), MotionLoss(balanced(None).terms[:2])):
        states.append(grown(make_toy(phases=[Phase(loss)])).train(steps=3, sigma_at=lambda level: 1.0).state)
    shared, alone = states
    assert all(torch.equal(value, alone.adapter[name]) for name, value in shared.adapter.items())
    assert [record.loss for record in shared.history] == [record.loss for record in alone.history]


def test_a_main_gradient_of_zero_leaves_nothing_to_be_a_share_of(make_toy, balanced):
    loss = MotionLoss((("flat", 1.0, lambda p: 0 * p.output.flatten(1).sum(1)), *balanced(None).terms[2:]), 0.7)
    toy = grown(make_toy(phases=[Phase(loss)]))
    before = toy.adapter.state_dict()
    state = toy.train(steps=3).state
    assert all(torch.equal(value, before[name]) for name, value in state.adapter.items())
    assert [(record.loss, record.gradient_norm) for record in state.history] == [(0, 0)] * 3


def test_a_group_that_does_not_learn_counts_for_nothing(make_toy, balanced):
    """Norms are those of what the phase trains: the looks get no gradient from the motion phase, nor lend theirs to its balance."""
    share, looks = 0.5, dual_path(balanced(0.5))[0]
    toy = grown(
        make_toy(clips=(SIZES[0],), groups={"temporal": ["0"], "spatial 0": ["2"]}, phases=dual_path(balanced(share)))
    )
    values = toy.adapter.state_dict()
    state = toy.train(steps=1, clip_norm=0.0).state
    toy.adapter.load_state_dict(values)
    toy.adapter.freeze(**{"spatial 0": True})
    count = sum(value.numel() for value in toy.adapter.parameters(["temporal"]))
    call = toy.calls[1]
    x0, temporal = toy.clips[0].expand_as(call.x_t), toy.adapter.parameters(["temporal"])
    noise = (call.x_t - (1 - call.sigma.view(-1, 1, 1, 1, 1)) * x0) / call.sigma.view(-1, 1, 1, 1, 1)
    parts = []
    for part in (0, 1):
        x0_hat = toy.denoise(call.x_t, call.sigma)
        p = Prediction.from_denoised(x0, noise, call.x_t, call.sigma, x0_hat, "flow")
        scalar = balanced(share).parts_of(balanced(share)(p, torch.Generator()))[part].mean()
        parts.append(flat(torch.autograd.grad(scalar, temporal)))
    expected = parts[0] + share * parts[0].norm() / parts[1].norm() * parts[1]
    torch.testing.assert_close(first_gradient(state)[:count], expected, rtol=0, atol=2e-5 * float(expected.norm()))

    alone = grown(make_toy(clips=(SIZES[0],), groups={"temporal": ["0"], "spatial 0": ["2"]}, phases=[looks]))
    spatial = first_gradient(alone.train(steps=1, clip_norm=0.0).state)
    assert torch.equal(first_gradient(state)[count:], spatial)


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("stop", [1, 4])
def test_stopped_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(make_toy, balanced, dual, stop, tmp_path):
    def make(seed: int = 0):
        phases = dual_path(balanced(0.4)) if dual else [Phase(balanced(0.4, sigma_weight="signal"))]
        groups = {"groups": DUAL} if dual else {}
        toy = make_toy(clips=SIZES, phases=phases, dropout=0.2, seed=seed, **groups)
        toy.masks = [torch.arange(clip.shape[2]).view(1, 1, -1, 1, 1) / clip.shape[2] for clip in toy.clips]
        return toy

    settings = {"steps": 6, "learning_rate": 0.02, "accumulation": 2, "weight_decay": 0.1, "clip_norm": 0.1}
    settings |= {"group_dropout": {SPATIAL: 0.4}} if dual else {}
    whole, kept = make().train(**settings).state, []
    unbalanced = make()
    unbalanced.phases = [replace(phase, loss=replace(phase.loss, spectral_share=None)) for phase in unbalanced.phases]
    assert unbalanced.train(**settings).state.history != whole.history

    def cancel(info):
        if info.record.step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make().train(on_step=cancel, on_stop=kept.append, **settings)
    save_state(kept[0], tmp_path / "state.safetensors")
    resumed = make(seed=9).train(state=load_state(tmp_path / "state.safetensors"), **settings).state
    assert resumed.history == whole.history
    for ours, reference in ((resumed.adapter, whole.adapter), (resumed.optimizer, whole.optimizer)):
        assert list(ours) == list(reference)
        assert all(torch.equal(value, reference[name]) for name, value in ours.items())
