from __future__ import annotations

import pytest
import torch

from sma.prediction import Prediction, add_noise

SHAPE = (3, 2, 4, 5, 3)


@pytest.fixture
def clips():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(3)]


def per_sample(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def expand(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1, 1)


def test_variance_preserving_eps_network(clips):
    """The network sees sqrt(ab) x0 + sqrt(1-ab) n and answers the noise."""
    x0, noise, answer = clips
    ab = per_sample([0.9, 0.5, 0.01])
    seen = expand(ab).sqrt() * x0 + expand(1 - ab).sqrt() * noise
    x0_hat = (seen - expand(1 - ab).sqrt() * answer) / expand(ab).sqrt()  # Tweedie
    p = Prediction.from_denoised(x0, noise, seen / expand(ab).sqrt(), ((1 - ab) / ab).sqrt(), x0_hat, "eps")
    torch.testing.assert_close(p.output, answer)
    torch.testing.assert_close(p.noise_hat, answer)
    torch.testing.assert_close(p.target, noise)


def test_variance_preserving_v_network(clips):
    """v = sqrt(ab) n - sqrt(1-ab) x0; it implies x0 and the noise by a rotation of what the network saw."""
    x0, noise, answer = clips
    ab = per_sample([0.9, 0.5, 0.003])
    a, b = expand(ab).sqrt(), expand(1 - ab).sqrt()
    seen = a * x0 + b * noise
    p = Prediction.from_denoised(x0, noise, seen / a, ((1 - ab) / ab).sqrt(), a * seen - b * answer, "v")
    torch.testing.assert_close(p.output, answer)
    torch.testing.assert_close(p.target, a * noise - b * x0)
    torch.testing.assert_close(p.noise_hat, b * seen + a * answer)


def test_rectified_flow_network(clips):
    """x_t = (1-s) x0 + s n, and the network answers the velocity n - x0."""
    x0, noise, answer = clips
    sigma = per_sample([0.05, 0.5, 0.98])
    s = expand(sigma)
    x_t = (1 - s) * x0 + s * noise
    p = Prediction.from_denoised(x0, noise, x_t, sigma, x_t - s * answer, "flow")
    torch.testing.assert_close(p.output, answer)
    torch.testing.assert_close(p.target, noise - x0)
    torch.testing.assert_close(p.noise_hat, x_t + (1 - s) * answer)


def test_x0_network(clips):
    x0, noise, answer = clips
    sigma = per_sample([0.1, 1.0, 30.0])
    p = Prediction.from_denoised(x0, noise, x0 + expand(sigma) * noise, sigma, answer, "x0")
    assert torch.equal(p.output, answer)
    assert torch.equal(p.target, x0)
    torch.testing.assert_close(x0 + expand(sigma) * noise, answer + expand(sigma) * p.noise_hat)


@pytest.mark.parametrize("kind", ["eps", "v", "flow", "x0"])
def test_a_perfect_denoiser_answers_target_and_noise(clips, kind):
    x0, noise, _ = clips
    sigma = per_sample([0.1, 0.5, 0.9])
    p = Prediction.from_denoised(x0, noise, add_noise(x0, noise, sigma, kind), sigma, x0, kind)
    torch.testing.assert_close(p.output, p.target)
    torch.testing.assert_close(p.noise_hat, noise)


@pytest.mark.parametrize("kind", ["eps", "v", "flow", "x0"])
def test_gradient_reaches_the_estimate_through_output_and_noise(clips, kind):
    x0, noise, x0_hat = clips
    x0_hat.requires_grad_()
    sigma = per_sample([0.1, 0.5, 0.9])
    p = Prediction.from_denoised(x0, noise, add_noise(x0, noise, sigma, kind), sigma, x0_hat, kind)
    for quantity in (p.output, p.noise_hat):
        (gradient,) = torch.autograd.grad(quantity.sum(), x0_hat, retain_graph=True)
        assert (gradient != 0).all()


@pytest.mark.parametrize("sigma", [0.5, torch.tensor(0.5), torch.tensor([0.5]), torch.full((3, 1, 1, 1, 1), 0.5)])
def test_one_sigma_serves_every_sample(clips, sigma):
    x0, noise, x0_hat = clips
    p = Prediction.from_denoised(x0, noise, x0 + 0.5 * noise, sigma, x0_hat, "eps")
    assert p.sigma.tolist() == [0.5] * 3
    assert torch.equal(add_noise(x0, noise, sigma, "eps"), x0 + 0.5 * noise)
    torch.testing.assert_close(p.output, (x0 + 0.5 * noise - x0_hat) / 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(clips, dtype):
    x0, noise, x0_hat = (clip.to(dtype) for clip in clips)
    p = Prediction.from_denoised(x0, noise, x0 + noise, torch.ones(3, dtype=dtype), x0_hat, "v")
    for quantity in (p.x0, p.noise, p.x_t, p.sigma, p.x0_hat, p.noise_hat, p.target, p.output):
        assert quantity.dtype == torch.float32


def test_mask_is_kept(clips):
    x0, noise, x0_hat = clips
    mask = torch.ones(3, 1, 4, 5, 3)
    assert Prediction.from_denoised(x0, noise, x0 + noise, torch.ones(3), x0_hat, "eps", mask).mask is mask


def test_unknown_kind_is_refused(clips):
    x0, noise, x0_hat = clips
    with pytest.raises(ValueError, match="Unknown prediction kind 'epsilon'; use one of eps, v, flow, x0"):
        Prediction.from_denoised(x0, noise, x0 + noise, torch.ones(3), x0_hat, "epsilon")
    with pytest.raises(ValueError, match="Unknown prediction kind 'epsilon'"):
        add_noise(x0, noise, torch.ones(3), "epsilon")
