"""Stopping, by whatever, and going on from the state."""

from __future__ import annotations

import pytest
import torch

from sma.files import load_state, save_state
from sma.losses import MotionLoss
from sma.training import NonFiniteLoss, Phase, StepInfo, TrainingState

CLIPS = ((5, 4, 6), (4, 5, 3), (7, 3, 3))
STEPS = 6


class Cancelled(BaseException):
    """A host's cancel may stand outside Exception."""


def assert_same(a: TrainingState, b: TrainingState) -> None:
    for ours, reference in ((a.adapter, b.adapter), (a.optimizer, b.optimizer)):
        assert list(ours) == list(reference)
        assert all(torch.equal(value, reference[name]) for name, value in ours.items())
    assert torch.equal(a.generator, b.generator)
    assert a.history == b.history
    assert a.step == b.step == len(a.history)


def assert_left_clean(toy) -> None:
    """Groups on, dropout and gradients off."""
    x = toy.clips[0]
    first = toy.network(x)
    toy.adapter.dropout_seed += 1
    assert torch.equal(toy.network(x), first)
    assert all(value.grad is None for value in toy.adapter.parameters())
    toy.adapter.enable(temporal=True, spatial=True)
    assert torch.equal(toy.network(x), first)
    for group in ("temporal", "spatial"):
        toy.adapter.enable(**{group: False})
        assert not torch.equal(toy.network(x), first)
        toy.adapter.enable(**{group: True})


@pytest.fixture(params=["plain", "accumulated with dropout", "two phases", "several clips on a schedule", "all of it"])
def case(request, make_toy, plain_loss, full_loss):
    """(a function making the toy from an adapter seed, settings)."""

    def phases(one: MotionLoss, motion: MotionLoss) -> list[Phase]:
        return [Phase(one, groups=("spatial",), frames="one"), Phase(motion, groups=("temporal",))]

    toys, settings = {
        "plain": ({}, {}),
        "accumulated with dropout": ({"dropout": 0.3}, {"accumulation": 3}),
        "two phases": ({"phases": phases(plain_loss, full_loss)}, {}),
        "several clips on a schedule": (
            {"clips": CLIPS, "phases": [Phase(full_loss)]},
            {"schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.1},
        ),
        "all of it": (
            {"clips": CLIPS, "dropout": 0.2, "phases": phases(plain_loss, full_loss)},
            {"accumulation": 2, "schedule": "cosine", "warmup_steps": 3, "level_bias": 0.4, "clip_norm": 0.1},
        ),
    }[request.param]
    return lambda seed=0: make_toy(seed=seed, **toys), {"learning_rate": 0.02, "steps": STEPS, "seed": 5} | settings


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_stopped_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(case, stop, tmp_path):
    make, settings = case
    captured = []
    whole = make().train(on_step=lambda info: captured.append(info.capture()), **settings).state
    assert any((value != captured[0].adapter[name]).any() for name, value in whole.adapter.items())

    def cancel(info: StepInfo) -> None:
        if info.record.step == stop:
            raise Cancelled

    kept = []
    with pytest.raises(Cancelled):
        make().train(on_step=cancel, on_stop=kept.append, **settings)
    (state,) = kept
    assert_same(state, captured[stop - 1])
    path = tmp_path / "kept.safetensors"
    save_state(state, path)
    for start in (state, load_state(path)):
        other = make(seed=9)  # nothing of a fresh adapter may survive
        assert_same(other.train(state=start, **settings).state, whole)


def test_resuming_does_not_change_the_state_it_started_from(make_toy):
    toy, kept = make_toy(), []
    toy.train(steps=3, on_step=lambda info: kept.append(info.capture()))
    before = {name: value.clone() for name, value in (kept[0].adapter | kept[0].optimizer).items()}
    make_toy(seed=4).train(steps=3, state=kept[0])
    assert all(torch.equal(value, before[name]) for name, value in (kept[0].adapter | kept[0].optimizer).items())
    assert kept[0].step == len(kept[0].history) == 1


def test_finished_state_trains_no_further(make_toy):
    state = make_toy().train().state
    toy = make_toy(seed=4)
    assert_same(toy.train(state=state).state, state)
    assert toy.calls == []


@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt, RuntimeError])
def test_exception_of_on_step_passes_unchanged_with_the_state_of_that_step(make_toy, error):
    toy, thrown, seen = make_toy(dropout=0.5), error("stop"), []

    def on_step(info: StepInfo) -> None:
        seen.append(info.record.step)
        if info.record.step == 2:
            raise thrown

    with pytest.raises(error) as caught:
        toy.train(on_step=on_step, on_stop=lambda state: seen.append(state.step))
    assert caught.value is thrown
    assert caught.value.__cause__ is None
    assert seen == [1, 2, 2]
    assert_left_clean(toy)


def test_a_run_leaves_the_adapter_evaluating_with_all_groups_on(make_toy, plain_loss):
    toy = make_toy(dropout=0.5, phases=[Phase(plain_loss, groups=("spatial",))])
    toy.adapter.enable(temporal=False)
    state = toy.train().state
    with torch.no_grad():
        toy.adapter.layers["0"].up.normal_(generator=torch.Generator().manual_seed(0))
    assert state.step == 6
    assert_left_clean(toy)


def in_forward(number: int, answer: torch.Tensor) -> torch.Tensor:
    if number == 7:
        raise Cancelled
    return answer


def in_backward(number: int, answer: torch.Tensor) -> torch.Tensor:
    if number == 7:
        answer.register_hook(lambda gradient: in_forward(number, gradient))
    return answer


def not_a_number(number: int, answer: torch.Tensor) -> torch.Tensor:
    return answer * torch.nan if number == 7 else answer


def infinite_gradient(number: int, answer: torch.Tensor) -> torch.Tensor:
    if number == 7:
        answer.register_hook(lambda gradient: gradient * torch.inf)
    return answer


@pytest.mark.parametrize(
    ("meddle", "error", "message", "steps"),
    [
        (in_forward, Cancelled, None, 3),
        (in_backward, Cancelled, None, 3),
        (
            not_a_number,
            NonFiniteLoss,
            r"loss at sigma 0\.\d+ became nan in step 4; .* after step 2 was kept. Lower",
            2,
        ),
        (infinite_gradient, NonFiniteLoss, r"gradient norm became (inf|nan) in step 4; .* after step 2 was kept", 2),
    ],
)
def test_failure_within_a_step_keeps_the_state_to_go_on_from(make_toy, meddle, error, message, steps):
    """Two forwards a step: the eighth fails, so that half of step 4 is done and its gradients are there. Step 3 is undone
    where it may be what led to the failure."""
    settings = {"accumulation": 2, "learning_rate": 0.02}
    captured, kept = [], []
    whole = make_toy(dropout=0.3).train(on_step=lambda info: captured.append(info.capture()), **settings).state
    toy = make_toy(dropout=0.3)
    toy.meddle = meddle
    with pytest.raises(error, match=message):
        toy.train(on_stop=kept.append, **settings)
    (state,) = kept
    assert_same(state, captured[steps - 1])
    assert all(torch.equal(value, state.adapter[name]) for name, value in toy.adapter.state_dict().items())
    assert_left_clean(toy)
    assert_same(make_toy(seed=4, dropout=0.3).train(state=state, **settings).state, whole)


@pytest.mark.parametrize("good_steps", [0, 3])
def test_run_that_overflowed_goes_on_from_the_kept_state_at_a_lower_learning_rate(make_toy, good_steps):
    start = make_toy().train(steps=good_steps, learning_rate=0.02).state if good_steps else None
    kept = []
    kept_words = "the state after step 3 was kept" if good_steps else "no step before it can be kept"
    with pytest.raises(NonFiniteLoss, match=f"in step {good_steps + 2}; {kept_words}. Lower the learning rate"):
        make_toy().train(steps=8, learning_rate=1e25, state=start, on_stop=kept.append)
    (state,) = kept
    assert state.step == good_steps
    history = make_toy(seed=4).train(steps=8, learning_rate=0.02, state=state).state.history
    assert [record.step for record in history] == list(range(1, 9))
    assert max(record.loss for record in history) < 1e3


def test_run_that_fails_in_its_first_step_keeps_the_state_it_started_from(make_toy):
    start = make_toy().train(steps=2).state
    for state in (None, start):
        toy, kept = make_toy(), []
        fresh = toy.adapter.state_dict()
        toy.meddle = lambda number, answer: answer * torch.nan
        # Before the first step no learning rate has played a part.
        said = "in step 3; the state after step 2 was kept" if state else "in step 1, before anything was learned"
        with pytest.raises(NonFiniteLoss, match=said):
            toy.train(state=state, on_stop=kept.append)
        expected = fresh if state is None else state.adapter
        assert kept[0].step == (0 if state is None else 2)
        assert all(torch.equal(value, expected[name]) for name, value in kept[0].adapter.items())


def test_state_of_another_adapter_is_refused_before_anything_runs(make_toy):
    state = make_toy().train(steps=1).state
    strange = TrainingState(**{**vars(state), "adapter": {"0.down": torch.zeros(3, 3)}})
    toy, kept = make_toy(seed=4), []
    before = toy.adapter.state_dict()
    with pytest.raises(ValueError, match="tensor names differ between the state and this adapter"):
        toy.train(state=strange, on_stop=kept.append)
    assert kept == toy.calls == []
    assert all(torch.equal(value, before[name]) for name, value in toy.adapter.state_dict().items())
