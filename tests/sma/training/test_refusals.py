"""What training refuses at its door."""

from __future__ import annotations

import math

import pytest
import torch

from sma.training import Phase, TrainingSettings


def bad_clip(frames: int = 5, fill: float = 0.0) -> torch.Tensor:
    return torch.full((1, 3, frames, 4, 6), fill)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([bad_clip(frames=1)], "The clip has 1 frame; motion needs at least 2. Load more frames"),
        (
            [bad_clip(), bad_clip(fill=math.nan)],
            "holds NaN or infinite values; finite ones are needed. Encode the clip",
        ),
        ([bad_clip(fill=math.inf)], "holds NaN or infinite values"),
        ([bad_clip()[0]], r"A clip is \[3, 5, 4, 6\]; it must be \[1, C, F, H, W\]. Encode"),
        ([torch.cat([bad_clip(), bad_clip()])], r"A clip is \[2, 3, 5, 4, 6\]; it must be \[1, C, F, H, W\]"),
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
        ([Phase(plain_loss), Phase(plain_loss, ("motion",))], "no group 'motion'; it has 'temporal', 'spatial'"),
    ):
        toy.phases = phases
        with pytest.raises(ValueError, match=message):
            toy.train()
    with pytest.raises(ValueError, match="Unknown frames 'two'; use one of all, one"):
        Phase(plain_loss, frames="two")
    assert toy.calls == []


def test_denoiser_of_another_shape_or_without_gradient_is_refused(make_toy, plain_loss):
    toy = make_toy()
    toy.meddle = lambda number, answer: answer[:, :2]
    with pytest.raises(ValueError, match=r"answered \[2, 2, 5, 4, 6\] to a clip of \[2, 3, 5, 4, 6\]; both must agree"):
        toy.train()
    toy.meddle = lambda number, answer: answer.detach()
    with pytest.raises(ValueError, match="No adapter layer that is switched on takes part in the denoising. Choose"):
        toy.train()
    toy = make_toy(phases=[Phase(plain_loss, groups=())])
    with pytest.raises(ValueError, match="No adapter layer that is switched on"):
        toy.train()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sigma"}, "Unknown kind 'sigma'; use one of eps, v, flow, x0"),
        ({"schedule": "linear"}, "Unknown schedule 'linear'; use one of constant, cosine"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"accumulation": 0}, "accumulation is 0; it must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps is -1; it must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": math.inf}, "learning_rate is inf; it must be above 0 and finite"),
        ({"level_bias": math.nan}, "level_bias is nan"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0; it must be 0 or above"),
        ({"clip_norm": math.nan}, "clip_norm is nan"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be 0 or above"),
        ({"level_range": (0.5, 0.5)}, "level_range is 0.5 to 0.5; it must rise within 0 to 1"),
        ({"level_range": (-0.1, 0.5)}, "level_range is -0.1 to 0.5"),
        ({"level_range": (0.1, 1.5)}, "level_range is 0.1 to 1.5"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**{"kind": "flow", "sigma_at": float} | changes)
