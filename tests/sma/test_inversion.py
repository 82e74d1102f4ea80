from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sma.inversion import ddim_invert, ddim_sample, ddim_timesteps, flow_invert


def stand_in(weights: Tensor):
    """The network that the reference numbers were made with: eps = (0.3 + 0.7 t / 1000) W x, and a variance nobody asked for."""

    def predict_noise(x: Tensor, t: int) -> Tensor:
        noise_hat = (0.3 + 0.7 * t / 1000) * torch.einsum("dc,bcfhw->bdfhw", weights, x)
        return torch.cat([noise_hat, torch.full_like(noise_hat, torch.nan)], dim=1)

    return predict_noise


def alphas(schedule: str, start: float = 0.00085, end: float = 0.012) -> Tensor:
    power = {"linear": 1.0, "scaled_linear": 0.5}[schedule]
    betas = torch.linspace(start**power, end**power, 1000, dtype=torch.float32) ** (1 / power)
    return (1 - betas).cumprod(0)


@pytest.mark.golden_cases("ddim/invert_*", 3)
def test_inversion_is_that_of_the_published_code(golden, case):
    case = golden(case)
    params, tensors = case.params, case.tensors
    assert ddim_timesteps(1000, params["n_steps"], params["steps_offset"]) == params["timesteps_ascending"]
    ab = alphas(params["beta_schedule"], params["beta_start"], params["beta_end"])
    kept = {}
    x_T = ddim_invert(
        stand_in(tensors["W"]),
        tensors["x0"],
        ab,
        steps=params["n_steps"],
        steps_offset=params["steps_offset"],
        final_alpha=1.0 if params["set_alpha_to_one"] else None,
        on_step=lambda step, x, x0_hat: kept.update({step: x}),
    )
    final = 1.0 if params["set_alpha_to_one"] else float(ab[0])
    assert final == pytest.approx(case.scalars["final_alpha_cumprod"], abs=1e-6)
    torch.testing.assert_close(kept[1], tensors["x_first"], **case.close)
    torch.testing.assert_close(kept[params["n_steps"] // 2], tensors["x_mid"], **case.close)
    torch.testing.assert_close(x_T, tensors["x_T"], **case.close)


@pytest.mark.golden_cases("ddim/dmt_*", 2)
def test_inversion_and_sampling_are_those_of_dmt(golden, case):
    case = golden(case)
    tensors, steps = case.tensors, case.params["n_steps"]
    ab, network = alphas("scaled_linear"), stand_in(tensors["W"])
    timesteps = ddim_timesteps(1000, steps)
    assert [timesteps[-1], timesteps[0]] == case.params["timesteps_first_last"]
    x_T = ddim_invert(network, tensors["x0"], ab, steps=steps)
    torch.testing.assert_close(x_T, tensors["x_T"], **case.close)
    back = ddim_sample(network, tensors["x_T"], ab, steps=steps)
    torch.testing.assert_close(back, tensors["x0_reconstructed"], **case.close)


def clip() -> Tensor:
    return torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def curved(x: Tensor, t: float) -> Tensor:
    """A network that bends: exact inversion needs its value at the unknown end of a step."""
    return 0.8 * torch.tanh(x + t / 1000)


@pytest.mark.parametrize("final_alpha", [None, 1.0])
def test_many_steps_come_back_closely_and_refined_ones_exactly(final_alpha):
    x0, ab = clip(), alphas("scaled_linear").double()

    def way_back(steps: int, refinements: int) -> float:
        options = {"steps": steps, "final_alpha": final_alpha}
        x_T = ddim_invert(curved, x0, ab, refinements=refinements, **options)
        return (ddim_sample(curved, x_T, ab, **options) - x0).abs().max().item()

    few, many = way_back(20, 0), way_back(999, 0)
    assert many < 0.05 < few
    assert way_back(20, 60) < 1e-6 * few


def test_steps_of_ddim_are_those_of_diffusers():
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    config |= {"set_alpha_to_one": False, "steps_offset": 1}
    down, up = DDIMScheduler(**config), DDIMInverseScheduler(**config)
    x0 = x = clip().float()
    up.set_timesteps(20)
    for t in up.timesteps.tolist():
        x = up.step(curved(x, t), t, x).prev_sample
    assert up.timesteps.tolist() == ddim_timesteps(1000, 20)
    ours = ddim_invert(curved, x0, up.alphas_cumprod, steps=20)
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=1e-5)
    down.set_timesteps(20)
    for t in down.timesteps.tolist():
        x = down.step(curved(x, t), t, x).prev_sample
    torch.testing.assert_close(ddim_sample(curved, ours, up.alphas_cumprod, steps=20), x, atol=1e-5, rtol=1e-5)


def test_a_perfect_network_gives_its_noise_back():
    """eps_hat that knows the clip: every x_t lies on the line from clip to one noise, which is what comes out."""
    x0, ab = clip(), alphas("scaled_linear").double()
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    seen = []
    x_T = ddim_invert(lambda x, t: noise, x0, ab, steps=10, final_alpha=1.0, on_step=lambda *step: seen.append(step))
    torch.testing.assert_close(x_T, ab[901].sqrt() * x0 + (1 - ab[901]).sqrt() * noise)
    assert [step for step, _, _ in seen] == list(range(1, 11))
    for _, _, x0_hat in seen:
        torch.testing.assert_close(x0_hat, x0)
    assert torch.equal(flow_invert(lambda x, s: noise - x0, x0, [0.0, 1.0]), x0 + (noise - x0))


def test_flow_comes_back_by_euler():
    x0 = clip()
    sigmas = [8 * u / (1 + 7 * u) for u in (index / 25 for index in range(26))]  # shift 8, as Wan

    def velocity(x: Tensor, sigma: float) -> Tensor:
        return curved(x, 1000 * sigma) - 0.5 * x

    def way_back(refinements: int) -> float:
        x = flow_invert(velocity, x0, sigmas, refinements=refinements)
        for s_to, s_from in zip(sigmas[-2::-1], sigmas[:0:-1], strict=True):
            x = x + (s_to - s_from) * velocity(x, s_from)
        return (x - x0).abs().max().item()

    assert way_back(40) < 1e-6 < way_back(0) < 0.2


def test_what_the_callback_raises_stops_at_once():
    class Cancel(BaseException):
        pass

    calls = []

    def network(x: Tensor, t: float) -> Tensor:
        calls.append(t)
        return x

    def stop(step: int, x: Tensor, x0_hat: Tensor) -> None:
        if step == 3:
            raise Cancel

    with pytest.raises(Cancel):
        ddim_invert(network, clip(), alphas("linear"), steps=10, on_step=stop)
    assert calls == [1, 101, 201]
    with pytest.raises(Cancel):
        flow_invert(network, clip(), [0.0, 0.2, 0.4, 0.6, 1.0], on_step=stop)
    assert calls[3:] == [0.2, 0.4, 0.6]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    x0 = clip().to(dtype)
    assert ddim_invert(curved, x0, alphas("linear"), steps=2).dtype == torch.float32
    assert flow_invert(curved, x0, [0.0, 1.0]).dtype == torch.float32


@pytest.mark.parametrize("steps", [1000, 1001])
def test_more_steps_than_noise_levels_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; .* hold at most 999"):
        ddim_invert(curved, clip(), alphas("linear"), steps=steps)


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="steps is 0"):
        ddim_timesteps(1000, 0)
    with pytest.raises(ValueError, match="refinements is -1"):
        flow_invert(curved, clip(), [0.0, 1.0], refinements=-1)
