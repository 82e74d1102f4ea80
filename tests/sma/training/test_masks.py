"""Training on a part of the picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sma.losses import MotionLoss, ResidualCosine, WeightedTerm, spectral_terms
from sma.prediction import Prediction
from sma.spectral import OUTPUT, PAPER
from sma.training import Phase


def test_mask_chooses_where_the_denoising_loss_looks(make_toy, plain_loss):
    toy = make_toy(clips=((5, 4, 6), (5, 4, 6)), phases=[Phase(frames="all", groups=None, loss=plain_loss)])
    mask = (torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(3)) < 0.3).float()
    toy.masks = [None, mask]
    history = toy.train(steps=8, batch_size=1, level_range=(0.0, 0.3)).state.history
    masked = set()
    for record, call in zip(history, toy.calls, strict=True):
        near = [(clip - call.x_t).abs().mean().item() for clip in toy.clips]
        index = near.index(min(near))
        s = call.sigma.view(-1, 1, 1, 1, 1)
        noise = (call.x_t - (1 - s) * toy.clips[index]) / s
        error = ((call.x_t - call.x0_hat) / s - (noise - toy.clips[index])) ** 2
        expected = error[:, :, mask.bool()].mean() if index else error.mean()
        assert record.terms["denoising"][0][1] == pytest.approx(expected.item(), rel=1e-4)
        masked.add(index)
    assert masked == {0, 1}


def test_mask_of_a_single_frame_is_that_frames_own(make_toy, plain_loss):
    """Each frame's mask shows one pixel, where the clip has the frame's number and the network answers x0 alone."""
    toy = make_toy("x0", phases=[Phase(plain_loss, frames="one")])
    frames = torch.arange(5.0).view(1, 1, 5, 1, 1)
    toy.clips = [frames.expand(1, 3, 5, 4, 6)]
    toy.masks = [torch.where(torch.arange(6) == frames, 1.0, 0.0)]
    toy.meddle = lambda number, answer: torch.arange(6.0).expand_as(answer) + 0 * answer
    history = toy.train(steps=20).state.history
    assert max(value for record in history for _, value in record.terms["denoising"]) == 0
    toy.masks = None
    assert min(record.loss for record in toy.train(steps=5).state.history) > 0.5


@pytest.mark.parametrize("settings", [PAPER, OUTPUT])
def test_motion_is_compared_inside_the_mask_only(make_toy, settings):
    loss = MotionLoss((WeightedTerm("vmc", 1.0, ResidualCosine()), *spectral_terms(settings)))
    toy = make_toy(phases=[Phase(loss)])
    mask = torch.zeros(1, 1, 5, 4, 6)
    mask[..., 1:, 1:3, 2:5] = 1
    toy.masks = [mask]
    history = toy.train(steps=4, level_range=(0.2, 0.8)).state.history
    for record, call in zip(history, toy.calls, strict=True):
        x0, s = toy.clips[0].expand_as(call.x_t), call.sigma.view(-1, 1, 1, 1, 1)
        noise = (call.x_t - (1 - s) * x0) / s
        p = Prediction.from_denoised(x0, noise, call.x_t, call.sigma, call.x0_hat, "flow")
        for name, value in loss(replace(p, mask=mask), torch.Generator()).items():
            assert [found for _, found in record.terms[name]] == pytest.approx(value.tolist(), rel=1e-3)
            assert value.tolist() != pytest.approx(loss(p, torch.Generator())[name].tolist(), rel=0.05)


def test_a_mask_without_motion_is_refused_before_the_first_step(make_toy, full_loss):
    toy = make_toy(phases=[Phase(full_loss)])
    toy.masks = [torch.tensor([1.0, 0, 1, 0, 1]).view(1, 1, 5, 1, 1)]
    with pytest.raises(ValueError, match="which spectral_global, spectral_local compares"):
        toy.train()
    assert not toy.calls
