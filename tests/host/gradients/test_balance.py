"""Two backward passes through one forward of the host's networks, as the share of the spectral terms needs them."""

from __future__ import annotations

import pytest
import torch

SHARE = 0.5


def losses(x0_hat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Stand-ins of the main and the spectral part."""
    target = torch.randn(x0_hat.shape, generator=torch.Generator().manual_seed(8))
    return (x0_hat - target).square().mean(), 30 * (x0_hat.diff(dim=2) - target.diff(dim=2)).abs().mean()


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("family", ["wan", "ltx", "hunyuan", "sprites", "unet3d"])
def test_balanced_gradient_is_that_of_two_forwards_with_and_without_checkpoints(load, family, checkpoint):
    case = load(family)
    case = case if checkpoint else case.without_checkpoints()
    backward = case.host.module("sma.balance").backward

    def job(denoiser):
        adapter = case.adapter(denoiser, dropout=0.3).train()
        values = adapter.parameters()

        def gradient() -> torch.Tensor:
            row = torch.cat([value.grad.flatten() for value in values])
            for value in values:
                value.grad = None
            return row

        alone = []
        for part in (0, 1):
            losses(case.x0_hat(denoiser))[part].backward()
            alone.append(gradient())
        backward(losses(case.x0_hat(denoiser)), SHARE, values)
        both = gradient()
        adapter.detach()
        return both, *alone

    both, main, spectral = case.inside(job)
    expected = main + SHARE * main.norm() / spectral.norm() * spectral
    assert abs(spectral.norm() / main.norm() - SHARE) > 0.1
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-5 * float(expected.norm()))
