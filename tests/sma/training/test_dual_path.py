"""MotionDirector's dual path: which groups move, which stay, and that a stopped run goes on bit for bit."""

from __future__ import annotations

import pytest
import torch

from sma.plan import SPATIAL, SPATIAL_REST, Phase, dual_path

CLIPS = ((5, 4, 6), (4, 5, 3))
GROUPS = {"temporal": ["0"], "spatial 0": ["2"], "spatial 1": ["2"]}


@pytest.fixture
def make_dual(make_toy, full_loss):
    def make(**options):
        return make_toy(**{"clips": CLIPS, "groups": GROUPS, "phases": dual_path(full_loss)} | options)

    return make


def gradients_of(toy, *, learning, groups, frames, clip=0):
    """Norm of the gradient of every group after the first of the phases alone; the values are given, as fresh ones answer 0."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in toy.adapter.parameters():
            value.normal_(std=0.2, generator=generator)
    on = {group: group in groups for group in toy.adapter.groups}
    toy.adapter.enable(**on)
    toy.adapter.freeze(**{group: group not in learning for group in toy.adapter.groups})
    toy.network(toy.clips[clip][:, :, :frames]).square().mean().backward()
    norms = {}
    for group in toy.adapter.groups:
        values = [value.grad for value in toy.adapter.parameters([group])]
        norms[group] = None if values[0] is None else float(torch.cat([value.flatten() for value in values]).norm())
    return norms


def test_a_frozen_group_takes_part_and_gets_no_gradient(make_dual):
    both = gradients_of(make_dual(), groups=GROUPS, learning=GROUPS, frames=None)
    with_spatial = gradients_of(make_dual(), groups=("temporal", "spatial 0"), learning=("temporal",), frames=None)
    alone = gradients_of(make_dual(), groups=("temporal",), learning=("temporal",), frames=None)
    assert all(both.values())
    assert with_spatial["spatial 0"] is None and with_spatial["spatial 1"] is None and alone["spatial 0"] is None
    assert with_spatial["temporal"] and abs(with_spatial["temporal"] - alone["temporal"]) > 1e-3


def moved(before, state):
    return {name for name, value in state.adapter.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_each_step_moves_the_shared_group_and_that_of_its_clip(make_dual, dropout):
    toy = make_dual(dropout=dropout)
    states = [toy.adapter.state_dict()]
    seen = []

    def on_step(info):
        state = info.capture()
        names, shape = moved(states[-1], state), list(info.x0_hat.shape[2:])
        clip = CLIPS.index(tuple(shape))
        groups = {name.rpartition(".")[0] for name in names}
        assert groups == {"0", f"spatial {clip}/2"}
        assert set(info.record.terms) >= {"spatial_denoising", "denoising"}
        states.append(state.adapter)
        seen.append(clip)

    toy.train(steps=12, on_step=on_step, learning_rate=0.02)
    assert set(seen) == {0, 1}
    single = [call.x_t.shape[2] == 1 for call in toy.calls]
    assert single == [True, False] * 12


def test_no_loss_but_its_own_moves_a_group(make_dual, full_loss, plain_loss):
    """A huge loss of one phase neither bends nor shrinks the step of the other: not through gradients, and not through clipping."""

    def spatial(motion, **settings):
        state = make_dual(phases=(dual_path(full_loss)[0], dual_path(motion)[1])).train(steps=1, **settings).state
        return {name: value for name, value in state.optimizer.items() if name.startswith("spatial")}

    loud = plain_loss.with_terms(("loud", 1e4, plain_loss.terms[0].term))
    for limit in (0.01, 0.0):
        a, b = spatial(plain_loss, clip_norm=limit), spatial(loud, clip_norm=limit)
        assert a.keys() == b.keys() and a
        assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_in_a_fifth_of_the_steps_the_spatial_group_sits_out(make_dual):
    toy = make_dual()
    history = toy.train(steps=120, group_dropout={SPATIAL: SPATIAL_REST}).state.history
    resting = [record for record in history if "spatial_denoising" not in record.terms]
    assert all("denoising" in record.terms for record in history)
    assert 12 <= len(resting) <= 36  # 24 expected, 4.4 standard deviation


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_stopped_and_resumed_dual_path_equals_the_uninterrupted_one_bit_for_bit(make_dual, stop, tmp_path):
    from sma.files import load_state, save_state

    settings = {
        "steps": 8,
        "learning_rate": 0.02,
        "accumulation": 2,
        "group_dropout": {SPATIAL: 0.4},
        "schedule": "cosine",
        "weight_decay": 0.1,
    }
    whole = make_dual(dropout=0.2).train(**settings).state
    kept = []

    def cancel(info):
        if info.record.step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_dual(dropout=0.2).train(on_step=cancel, on_stop=kept.append, **settings)
    save_state(kept[0], tmp_path / "state.safetensors")
    resumed = make_dual(dropout=0.2, seed=9).train(state=load_state(tmp_path / "state.safetensors"), **settings).state
    assert resumed.history == whole.history
    for ours, reference in ((resumed.adapter, whole.adapter), (resumed.optimizer, whole.optimizer)):
        assert list(ours) == list(reference)
        assert all(torch.equal(value, reference[name]) for name, value in ours.items())


def test_a_run_leaves_no_group_frozen_or_off(make_dual, plain_loss):
    toy = make_dual(phases=[Phase(plain_loss, groups=("temporal", SPATIAL), learning=("temporal",))])
    toy.train(steps=1)
    toy.network(toy.clips[0]).mean().backward()
    assert all(value.grad is not None for value in toy.adapter.parameters())


def test_one_group_of_several_on_a_module_can_be_exported(make_dual):
    adapter = make_dual().adapter
    adapter.layers["spatial 1/2"].up.data.fill_(0.5)
    one = adapter.export("net.", ["temporal", "spatial 1"])
    assert {key.removeprefix("net.").split(".")[0] for key in one} == {"0", "2"}
    assert one["net.2.lora_B.weight"].eq(0.5).all()
    with pytest.raises(ValueError, match="Several groups adapt 2, and a file holds one update of it. Name one group"):
        adapter.export("net.")
