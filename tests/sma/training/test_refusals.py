"""What training refuses at its door."""

from __future__ import annotations

import math

import pytest
import torch

from sma.losses import ResidualCosine, SpectralGlobal, SpectralLocal
from sma.spectral import REPAIRED
from sma.training import Phase, TrainingSettings


def bad_clip(frames: int = 5, fill: float = 0.0) -> torch.Tensor:
    return torch.full((1, 3, frames, 4, 6), fill)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([bad_clip(frames=1)], "The clip has 1 frame; motion needs at least 2. Raise frame_count"),
        ([bad_clip(frames=0)], "The clip has 0 frames; motion needs at least 2"),
        (
            [bad_clip(), bad_clip(fill=math.nan)],
            "holds NaN or infinite values; finite ones are needed. Encode the clip",
        ),
        ([bad_clip(fill=math.inf)], "holds NaN or infinite values"),
        ([bad_clip()[0]], r"A clip is \[3, 5, 4, 6\]; it must be \[1, C, F, H, W\]. Encode"),
        ([torch.cat([bad_clip(), bad_clip()])], r"A clip is \[2, 3, 5, 4, 6\]; it must be \[1, C, F, H, W\]"),
        (bad_clip()[0], r"A clip is \[3, 5, 4, 6\]; it must be \[1, C, F, H, W\]"),
        ([], "There are 0 clips and 1 phases; at least 1 of both is needed"),
    ],
)
def test_bad_clips_are_refused_before_anything_runs(make_toy, clips, message):
    toy = make_toy()
    toy.clips = clips
    with pytest.raises(ValueError, match=message):
        toy.train(on_stop=pytest.fail)
    assert toy.calls == []


def test_bad_phases_are_refused(make_toy, plain_loss):
    toy = make_toy()
    for phases, message in (
        ([], "There are 1 clips and 0 phases"),
        ([Phase(plain_loss), Phase(plain_loss, groups=("motion",))], "no group 'motion'; it has 'temporal', 'spatial'"),
    ):
        toy.phases = phases
        with pytest.raises(ValueError, match=message):
            toy.train()
    with pytest.raises(ValueError, match="Unknown frames 'two'; use one of all, one"):
        Phase(plain_loss, frames="two")
    with pytest.raises(ValueError, match=r"groups is 'temporal'; give a tuple of names, such as \('temporal',\)"):
        Phase(plain_loss, groups="temporal")
    with pytest.raises(ValueError, match="The loss of a phase is 'all'; it must be a MotionLoss"):
        Phase("all")
    assert toy.calls == []


@pytest.mark.parametrize("term", [ResidualCosine(), SpectralGlobal(REPAIRED), SpectralLocal(REPAIRED)])
def test_single_frame_phase_refuses_terms_that_compare_frames(plain_loss, term):
    loss = plain_loss.with_terms(("motion", 0.5, term))
    with pytest.raises(ValueError, match='frames is "one", but motion compares frames; use frames="all"'):
        Phase(frames="one", loss=loss)
    assert Phase(frames="all", groups=None, loss=loss) == Phase(loss=loss)


@pytest.mark.parametrize("off", [torch.inference_mode, torch.no_grad])
def test_training_where_gradients_are_off_is_refused(make_toy, off):
    toy = make_toy()
    with off(), pytest.raises(RuntimeError, match="Training needs gradients, which are switched off here; call train"):
        toy.train(on_stop=pytest.fail)
    assert toy.calls == []


def test_state_beyond_the_last_step_is_refused_and_one_at_it_is_finished(make_toy):
    state = make_toy().train(steps=3).state
    with pytest.raises(ValueError, match="The state has 3 steps behind it and steps is 2; raise steps to go on."):
        make_toy().train(steps=2, state=state)
    assert make_toy().train(steps=3, state=state).state.step == 3


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([], "There are 0 masks and 1 clips; give one mask or None per clip"),
        ([torch.ones(5, 4, 5)], r"A mask is \[5, 4, 5\]; it must fit \[1, 1, F, H, W\] of its clip \[1, 3, 5, 4, 6\]"),
        ([torch.ones(1, 3, 5, 4, 6)], "must fit"),
        ([torch.zeros(1, 1, 5, 4, 6)], "nothing but 0"),
        ([-torch.ones(1, 1, 5, 4, 6)], "negative"),
        ([torch.full((1, 1, 5, 4, 6), math.nan)], "NaN or infinite"),
    ],
)
def test_masks_that_do_not_fit_are_refused(make_toy, masks, message):
    toy = make_toy()
    toy.masks = masks
    with pytest.raises(ValueError, match=message):
        toy.train(on_stop=pytest.fail)
    assert toy.calls == []


def test_denoiser_of_another_shape_or_without_gradient_is_refused(make_toy, plain_loss):
    toy = make_toy()
    toy.meddle = lambda number, answer: answer[:, :2]
    with pytest.raises(ValueError, match=r"answered \[2, 2, 5, 4, 6\] to a clip of \[2, 3, 5, 4, 6\]; both must agree"):
        toy.train()
    toy.meddle = lambda number, answer: answer.detach()
    with pytest.raises(ValueError, match="No adapter layer that is switched on takes part in the denoising, or"):
        toy.train()


def test_phases_in_which_nothing_can_learn_are_refused(make_toy, plain_loss):
    with pytest.raises(ValueError, match="A step could train nothing; let a group learn that never sits out"):
        make_toy(phases=[Phase(plain_loss, groups=())]).train()
    with pytest.raises(ValueError, match="A step could train nothing"):
        make_toy(phases=[Phase(plain_loss, groups=("spatial",))]).train(group_dropout={"spatial": 0.5})
    with pytest.raises(ValueError, match="'temporal' is to learn in a phase that has it off; add it to groups"):
        Phase(plain_loss, groups=("spatial",), learning=("temporal",))
    with pytest.raises(ValueError, match="learning is 'spatial'; give a tuple of names"):
        Phase(plain_loss, learning="spatial")
    with pytest.raises(ValueError, match="'spatial 0' sits out a share of 1.0; it must be at least 0 and below 1"):
        make_toy().train(group_dropout={"spatial 0": 1.0})
    with pytest.raises(ValueError, match="no group 'spatial 0'"):
        make_toy(phases=[Phase(plain_loss, groups=("spatial {clip}",))]).train()
    with pytest.raises(ValueError, match="no group 'spacial'"):
        make_toy().train(group_dropout={"spacial": 0.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sigma"}, "Unknown kind 'sigma'; use one of eps, v, flow, x0"),
        ({"schedule": "linear"}, "Unknown schedule 'linear'; use one of constant, cosine"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"steps": 2.5}, "steps is 2.5; it must be a whole number"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"accumulation": 0}, "accumulation is 0; it must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps is -1; it must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": math.inf}, "learning_rate is inf; it must be above 0 and finite"),
        ({"level_bias": math.nan}, "level_bias is nan"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0; it must be 0 or above"),
        ({"clip_norm": math.nan}, "clip_norm is nan"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be 0 or above"),
        ({"weight_decay": math.inf}, "weight_decay is inf; it must be 0 or above and finite"),
        ({"level_range": (0.5, 0.5)}, "level_range is 0.5 to 0.5; it must rise within 0 to 1"),
        ({"level_range": (-0.1, 0.5)}, "level_range is -0.1 to 0.5"),
        ({"level_range": (0.1, 1.5)}, "level_range is 0.1 to 1.5"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**{"kind": "flow", "sigma_at": float} | changes)
