from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sma.losses import (
    Debiased,
    MotionLoss,
    ResidualCosine,
    WeightedTerm,
    anchor_debiased,
    denoising,
    residual_cosine,
    signal_share,
    spectral_terms,
)
from sma.prediction import Prediction, add_noise
from sma.spectral import OFFICIAL


def answered(output: torch.Tensor, target: torch.Tensor) -> Prediction:
    """A prediction whose network was asked for the noise and said `output`."""
    nothing = torch.zeros_like(target)
    sigma = torch.ones(len(target))
    return Prediction(nothing, target, target, sigma, nothing, output, target, output, "eps")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.golden_cases("vmc/cosine_*", 3)
def test_residual_cosine_matches_vmc(golden, case):
    case = golden(case)
    output = case.tensors["model_pred"].requires_grad_()
    p = answered(output, case.tensors["target"])
    loss = residual_cosine(p).mean()
    loss.backward()
    tolerance = {"rel": case.tolerance["rtol"], "abs": case.tolerance["atol"]}
    assert loss.item() == pytest.approx(case.scalars["loss"], **tolerance)
    torch.testing.assert_close(output.grad, case.tensors["grad_model_pred"], **case.close)
    paper = residual_cosine(p, absolute=False, over="pixels").mean()
    assert paper.item() == pytest.approx(case.scalars["loss_paper_eq17"], **tolerance)


@pytest.mark.golden_cases("motiondirector/debias_*", 3)
def test_denoising_and_debiased_error_match_motion_director(golden, case):
    case = golden(case)
    output = case.tensors["model_pred"].requires_grad_()
    p = answered(output, case.tensors["target"])
    anchor = torch.full((len(output),), int(case.scalars["anchor"]))
    losses = {"loss_org": denoising(p), "loss_ad": anchor_debiased(p, anchor=anchor, beta=case.params["beta"])}
    losses["loss_total"] = losses["loss_org"] + losses["loss_ad"]
    for name, loss in losses.items():
        expected = pytest.approx(case.scalars[name], rel=case.tolerance["rtol"], abs=case.tolerance["atol"])
        assert loss.mean().item() == expected
    losses["loss_total"].mean().backward()
    torch.testing.assert_close(output.grad, case.tensors["grad_model_pred"], **case.close)


@pytest.mark.golden_cases("sma/step_*", 2)
@pytest.mark.parametrize("bound", [False, True])
def test_whole_step_matches_the_official_code(golden, case, bound):
    case = golden(case)
    output, x0 = case.tensors["unet_output"].requires_grad_(), case.tensors["images"]
    alpha_bar = case.scalars["alpha_bar_t"]
    sigma = torch.tensor([math.sqrt((1 - alpha_bar) / alpha_bar)])
    x_t = case.tensors["noisy"] / math.sqrt(alpha_bar)
    x0_hat = x_t - sigma * output[:, : x0.shape[1]]  # the other half of the channels is the variance
    torch.testing.assert_close(x0_hat, case.tensors["v0hat"], **case.close)
    p = Prediction.from_denoised(x0, case.tensors["noise"], x_t, sigma, x0_hat, "eps")
    settings = replace(
        OFFICIAL,
        levels=case.params["num_levels"],
        level_weights=tuple(case.params["ld_levels"]),
        global_weight=case.params["ld_global"],
        local_weight=case.params["ld_local"],
        delta=case.params["delta"],
        base=case.params["base"],
    )
    loss = MotionLoss((WeightedTerm("cosine", 1.0, ResidualCosine()), *spectral_terms(settings)))
    loss = loss.bind(x0) if bound else loss
    values = loss(p, generator())
    total = loss.total_of(values).mean()
    expected = {"cosine": "loss_cos", "spectral_global": "loss_global", "spectral_local": "loss_local"}
    tolerance = {"rel": case.tolerance["rtol"], "abs": case.tolerance["atol"]}
    for name, scalar in expected.items():
        assert values[name].item() == pytest.approx(case.scalars[scalar], **tolerance)
    assert total.item() == pytest.approx(case.scalars["loss_total"], **tolerance)
    total.backward()
    torch.testing.assert_close(output.grad, case.tensors["grad_unet_output"], **case.close)


def test_denoising_is_the_mean_squared_error_of_each_sample(predicted):
    p = predicted(batch=3)
    expected = torch.stack([((p.output[i] - p.target[i]) ** 2).mean() for i in range(3)])
    torch.testing.assert_close(denoising(p), expected)


def test_masked_denoising_is_the_error_inside_the_mask(predicted):
    p = predicted()
    mask = torch.zeros(2, 1, 8, 3, 5)
    mask[0, :, 2:4, 1:, 3] = 1
    mask[1, :, 5] = 1
    loss = denoising(replace(p, mask=mask))
    error = (p.output - p.target) ** 2
    torch.testing.assert_close(loss, torch.stack([error[0, :, 2:4, 1:, 3].mean(), error[1, :, 5].mean()]))


def test_mask_broadcasts_and_soft_values_weigh(predicted):
    p = predicted()
    torch.testing.assert_close(denoising(replace(p, mask=torch.full((1, 1, 1, 1, 1), 0.25))), denoising(p))
    assert denoising(replace(p, mask=torch.zeros(1, 1, 1, 3, 5))).tolist() == [0, 0]


def test_debiased_error_equals_the_written_out_form_with_one_anchor_per_sample(predicted):
    p = predicted(batch=3)
    anchor, beta = torch.tensor([0, 7, 3]), 0.7

    def phi(e: torch.Tensor, a: int) -> torch.Tensor:
        return math.sqrt(beta**2 + 1) * e - beta * e[:, a : a + 1]

    expected = [((phi(p.output[i], a) - phi(p.target[i], a)) ** 2).mean() for i, a in enumerate(anchor.tolist())]
    torch.testing.assert_close(anchor_debiased(p, anchor=anchor, beta=beta), torch.stack(expected))


@pytest.mark.parametrize("anchor", [[0, 8], [-1, 3]])
def test_anchor_outside_the_clip_is_refused(anchor, predicted):
    with pytest.raises(ValueError, match=r"The anchors are \[.*\]; with 8 frames each must be 0 to 7"):
        anchor_debiased(predicted(), anchor=torch.tensor(anchor))


@pytest.mark.parametrize("beta", [-0.5, math.nan, math.inf])
def test_bad_beta_is_refused(beta, predicted):
    with pytest.raises(ValueError, match="beta is .*; it must be 0 or above and finite"):
        Debiased(beta)
    with pytest.raises(ValueError, match="beta is .*; it must be 0 or above and finite"):
        anchor_debiased(predicted(), anchor=torch.zeros(2, dtype=torch.long), beta=beta)


def test_debiased_term_draws_its_anchors_from_the_generator(predicted):
    p = predicted(batch=3)
    anchor = torch.randint(8, (3,), generator=generator(5))
    assert torch.equal(Debiased()(p, generator(5)), anchor_debiased(p, anchor=anchor))


@pytest.mark.parametrize("over", ["frames", "pixels"])
def test_cosine_in_output_space_compares_output_with_target(over, predicted):
    p = predicted(kind="flow")
    swapped = replace(p, noise_hat=p.output, noise=p.target)
    expected = residual_cosine(swapped, over=over)
    assert torch.equal(residual_cosine(p, over=over, space="output"), expected)
    assert not torch.allclose(residual_cosine(p, over=over), expected)


@pytest.mark.parametrize("option", [{"over": "time"}, {"space": "latent"}])
def test_unknown_cosine_options_are_refused(option, predicted):
    (name,) = option
    with pytest.raises(ValueError, match=f"Unknown {name}"):
        ResidualCosine(**option)
    with pytest.raises(ValueError, match=f"Unknown {name}"):
        residual_cosine(predicted(), **option)


@pytest.mark.parametrize("kind", ["eps", "v", "flow", "x0"])
def test_signal_share_is_the_clips_part_in_the_variance_of_the_noised_clip(kind):
    source = generator(3)
    x0, noise = (torch.randn(3, 4, 5, 40, 50, generator=source, dtype=torch.float64) for _ in range(2))
    sigma = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x_t = add_noise(x0, noise, sigma, kind)
    clip = x_t - sigma.view(-1, 1, 1, 1, 1) * noise
    share = signal_share(Prediction.from_denoised(x0, noise, x_t, sigma, x0, kind))
    expected = clip.flatten(1).var(1) / x_t.flatten(1).var(1)
    torch.testing.assert_close(share, expected, rtol=0.05, atol=0)
    written_out = [16 / 17, 1 / 2, 1 / 17] if kind == "flow" else [16 / 17, 1 / 2, 4 / 13]
    at = torch.tensor([0.2, 0.5, 0.8] if kind == "flow" else [0.25, 1.0, 1.5], dtype=torch.float64)
    exact = signal_share(Prediction.from_denoised(x0, noise, x_t, at, x0, kind))
    torch.testing.assert_close(exact, torch.tensor(written_out, dtype=torch.float64))


def test_pure_noise_of_a_flow_has_no_signal(predicted):
    p = replace(predicted(batch=2, kind="flow"), sigma=torch.tensor([1.0, 0.0]))
    assert signal_share(p).tolist() == [0, 1]
