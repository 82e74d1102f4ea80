from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from sma.losses import (
    Debiased,
    Denoising,
    MotionLoss,
    ResidualCosine,
    SpectralGlobal,
    SpectralLocal,
    WeightedTerm,
    anchor_debiased,
    denoising,
    residual_cosine,
    spectral_terms,
)
from sma.prediction import Prediction, add_noise
from sma.spectral import OFFICIAL, PAPER, REPAIRED, SpectralSettings, global_loss, local_loss


def answered(output: torch.Tensor, target: torch.Tensor) -> Prediction:
    """A prediction whose network was asked for the noise and said `output`."""
    nothing = torch.zeros_like(target)
    sigma = torch.ones(len(target))
    return Prediction(nothing, target, target, sigma, nothing, output, target, output, "eps")


def predicted(batch: int = 2, frames: int = 8, kind: str = "v", dtype: torch.dtype = torch.float64) -> Prediction:
    """Noised copies of one clip and a wrong estimate that wants a gradient."""
    generator = torch.Generator().manual_seed(7)
    shape = (batch, 3, frames, 4, 5)
    x0 = torch.randn(1, *shape[1:], generator=generator, dtype=dtype).expand(shape)
    noise, error = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    sigma = torch.linspace(0.3, 0.9, batch, dtype=dtype)
    x0_hat = (x0 + 0.5 * error).requires_grad_()
    return Prediction.from_denoised(x0, noise, add_noise(x0, noise, sigma, kind), sigma, x0_hat, kind)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


EVERY_TERM = MotionLoss(
    (
        WeightedTerm("denoising", 1.0, Denoising()),
        WeightedTerm("cosine", 0.5, ResidualCosine()),
        WeightedTerm("debiased", 2.0, Debiased()),
        *spectral_terms(REPAIRED),
    )
)


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


def test_denoising_is_the_mean_squared_error_of_each_sample():
    p = predicted(batch=3)
    expected = torch.stack([((p.output[i] - p.target[i]) ** 2).mean() for i in range(3)])
    torch.testing.assert_close(denoising(p), expected)


def test_masked_denoising_is_the_error_inside_the_mask():
    p = predicted()
    mask = torch.zeros(2, 1, 8, 4, 5)
    mask[0, :, 2:4, 1:, 3] = 1
    mask[1, :, 5] = 1
    loss = denoising(replace(p, mask=mask))
    error = (p.output - p.target) ** 2
    torch.testing.assert_close(loss, torch.stack([error[0, :, 2:4, 1:, 3].mean(), error[1, :, 5].mean()]))


def test_mask_broadcasts_and_soft_values_weigh():
    p = predicted()
    torch.testing.assert_close(denoising(replace(p, mask=torch.full((1, 1, 1, 1, 1), 0.25))), denoising(p))
    assert denoising(replace(p, mask=torch.zeros(1, 1, 1, 4, 5))).tolist() == [0, 0]


def test_debiased_error_equals_the_written_out_form_with_one_anchor_per_sample():
    p = predicted(batch=3)
    anchor, beta = torch.tensor([0, 7, 3]), 0.7

    def phi(e: torch.Tensor, a: int) -> torch.Tensor:
        return math.sqrt(beta**2 + 1) * e - beta * e[:, a : a + 1]

    expected = [((phi(p.output[i], a) - phi(p.target[i], a)) ** 2).mean() for i, a in enumerate(anchor.tolist())]
    torch.testing.assert_close(anchor_debiased(p, anchor=anchor, beta=beta), torch.stack(expected))


@pytest.mark.parametrize("anchor", [[0, 8], [-1, 3]])
def test_anchor_outside_the_clip_is_refused(anchor):
    with pytest.raises(ValueError, match=r"The anchors are \[.*\]; with 8 frames each must be 0 to 7"):
        anchor_debiased(predicted(), anchor=torch.tensor(anchor))


@pytest.mark.parametrize("beta", [-0.5, math.nan, math.inf])
def test_bad_beta_is_refused(beta):
    with pytest.raises(ValueError, match="beta is .*; it must be 0 or above and finite"):
        Debiased(beta)
    with pytest.raises(ValueError, match="beta is .*; it must be 0 or above and finite"):
        anchor_debiased(predicted(), anchor=torch.zeros(2, dtype=torch.long), beta=beta)


def test_debiased_term_draws_its_anchors_from_the_generator():
    p = predicted(batch=3)
    anchor = torch.randint(8, (3,), generator=generator(5))
    assert torch.equal(Debiased()(p, generator(5)), anchor_debiased(p, anchor=anchor))


@pytest.mark.parametrize("over", ["frames", "pixels"])
def test_cosine_in_output_space_compares_output_with_target(over):
    p = predicted(kind="flow")
    swapped = replace(p, noise_hat=p.output, noise=p.target)
    expected = residual_cosine(swapped, over=over)
    assert torch.equal(residual_cosine(p, over=over, space="output"), expected)
    assert not torch.allclose(residual_cosine(p, over=over), expected)


@pytest.mark.parametrize("option", [{"over": "time"}, {"space": "latent"}])
def test_unknown_cosine_options_are_refused(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"Unknown {name}"):
        ResidualCosine(**option)
    with pytest.raises(ValueError, match=f"Unknown {name}"):
        residual_cosine(predicted(), **option)


def test_every_term_reports_one_value_per_sample_and_the_total_is_their_weighted_sum():
    p = predicted(batch=3)
    values = EVERY_TERM(p, generator())
    assert list(values) == ["denoising", "cosine", "debiased", "spectral_global", "spectral_local"]
    assert all(value.shape == (3,) for value in values.values())
    weights = [1.0, 0.5, 2.0, 0.4, 0.2]
    expected = sum(weight * value for weight, value in zip(weights, values.values(), strict=True))
    torch.testing.assert_close(EVERY_TERM.total(p, generator()), expected)
    torch.testing.assert_close(values["spectral_global"], global_loss(p.x0, p.x0_hat))
    torch.testing.assert_close(values["spectral_local"], sum(local_loss(p.x0, p.x0_hat, relative=True)))


@pytest.mark.parametrize("settings", [PAPER, OFFICIAL, REPAIRED, SpectralSettings()])
def test_bound_loss_equals_unbound_for_any_batch(settings):
    loss = MotionLoss(spectral_terms(settings))
    for batch in (1, 3):
        p = predicted(batch)
        bound = loss.bind(p.x0[:1])
        torch.testing.assert_close(bound.total(p, generator()), loss.total(p, generator()))
        (ours,) = torch.autograd.grad(bound.total(p, generator()).sum(), p.x0_hat, retain_graph=True)
        (reference,) = torch.autograd.grad(loss.total(p, generator()).sum(), p.x0_hat)
        torch.testing.assert_close(ours, reference)


def test_bound_loss_does_not_look_at_x0_again():
    p = predicted()
    bound = MotionLoss(spectral_terms(REPAIRED)).bind(p.x0[:1])
    other = replace(p, x0=torch.full_like(p.x0, math.nan))
    assert torch.equal(bound.total(other, generator()), bound.total(p, generator()))


@pytest.mark.parametrize("settings", [REPAIRED, SpectralSettings(wave="db2", relative=True)])
def test_loss_used_and_bound_under_inference_mode_still_trains(settings):
    loss = MotionLoss((*EVERY_TERM.terms[:3], *spectral_terms(settings)))
    p = predicted()
    with torch.inference_mode():
        latent = p.x0[:1].clone()
        bound = loss.bind(latent)
        loss.total(predicted(), generator())
        bound.total(predicted(), generator())
    held_globally, held_locally = (term.term.reference for term in bound.terms[3:])
    assert not any(tensor.is_inference() for tensor in (*held_globally.bands, held_locally.weight))
    bound.total(p, generator()).sum().backward(inputs=[p.x0_hat])
    assert p.x0_hat.grad.isfinite().all()
    assert p.x0_hat.grad.abs().sum() > 0


def test_gradient_of_the_total_equals_finite_differences():
    p = predicted(batch=1, frames=4)

    def total(x0_hat: torch.Tensor) -> torch.Tensor:
        again = Prediction.from_denoised(p.x0, p.noise, p.x_t, p.sigma, x0_hat, p.kind)
        return EVERY_TERM.total(again, generator())

    assert torch.autograd.gradcheck(total, p.x0_hat)


def test_term_of_weight_zero_is_watched_without_a_gradient():
    p = predicted()
    plain = MotionLoss((WeightedTerm("denoising", 1.0, Denoising()),))
    watching = plain.with_terms(WeightedTerm("motion", 0.0, SpectralLocal(REPAIRED)))
    values = watching(p, generator())
    assert not values["motion"].requires_grad
    torch.testing.assert_close(values["motion"], sum(local_loss(p.x0, p.x0_hat, relative=True)))
    assert torch.equal(watching.total_of(values), plain.total(p, generator()))
    failed = values | {"motion": values["motion"] * math.nan}
    assert torch.equal(watching.total_of(failed), plain.total(p, generator()))


def test_spectral_terms_of_weight_zero_are_left_out():
    (term,) = spectral_terms(SpectralSettings(global_weight=0.0))
    assert (term.name, term.weight) == ("spectral_local", 0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_give_float32_losses(dtype):
    p = predicted(dtype=torch.float32)
    half = {name: getattr(p, name).detach().to(dtype) for name in ("x0", "noise", "x_t", "x0_hat")}
    values = EVERY_TERM(Prediction.from_denoised(**half, sigma=p.sigma, kind="v"), generator())
    assert {value.dtype for value in values.values()} == {torch.float32}
    assert {value.dtype for value in EVERY_TERM(answered(half["x0_hat"], half["x0"]), generator()).values()} == {
        torch.float32
    }


def test_description_is_json_and_names_every_setting():
    bound = EVERY_TERM.bind(predicted().x0[:1])
    described = json.loads(json.dumps(bound.describe()))
    assert described == json.loads(json.dumps(EVERY_TERM.describe()))
    assert [(term["name"], term["weight"], term["kind"]) for term in described] == [
        ("denoising", 1.0, "denoising"),
        ("cosine", 0.5, "residual_cosine"),
        ("debiased", 2.0, "anchor_debiased"),
        ("spectral_global", 0.4, "spectral_global"),
        ("spectral_local", 0.2, "spectral_local"),
    ]
    assert described[1]["over"] == "frames"
    assert described[3]["wave"] == "haar"


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_bad_weight_is_refused(weight):
    with pytest.raises(ValueError, match="weight of denoising is .*; it must be 0 or above"):
        WeightedTerm("denoising", weight, Denoising())


@pytest.mark.parametrize("terms", [(), (WeightedTerm("denoising", 0.0, Denoising()),)])
def test_loss_without_a_weighted_term_is_refused(terms):
    with pytest.raises(ValueError, match="no term with a weight above 0"):
        MotionLoss(terms)


def test_two_terms_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two terms named spectral_global"):
        EVERY_TERM.with_terms(WeightedTerm("spectral_global", 1.0, SpectralGlobal(PAPER)))


def test_plain_function_serves_as_a_term_by_name_weight_and_function():
    p = predicted(batch=3)
    plain = MotionLoss((WeightedTerm("denoising", 1.0, Denoising()),))
    for loss in (
        MotionLoss((WeightedTerm("denoising", 1.0, denoising),)),
        MotionLoss([("denoising", 1.0, denoising)]),
        MotionLoss([["denoising", 1.0, Denoising()]]),
    ):
        assert torch.equal(loss.bind(p.x0[:1]).total(p, generator()), plain.total(p, generator()))
        assert json.dumps(loss.describe()) == json.dumps(plain.describe())
        more = loss.with_terms(("cosine", 2.0, partial(residual_cosine, over="pixels")), *spectral_terms(PAPER))
        values = more(p, generator())
        assert list(values) == ["denoising", "cosine", "spectral_global", "spectral_local"]
        assert torch.equal(values["cosine"], residual_cosine(p, over="pixels"))


@pytest.mark.parametrize("term", [3, "denoising", None, Denoising])
def test_term_that_is_neither_a_loss_term_nor_a_function_is_refused(term):
    with pytest.raises(ValueError, match="The term motion is .*; give a LossTerm or a function"):
        WeightedTerm("motion", 1.0, term)


@pytest.mark.parametrize("terms", [denoising, "denoising", WeightedTerm("denoising", 1.0, denoising)])
def test_terms_that_are_no_list_are_refused(terms):
    with pytest.raises(ValueError, match="a motion loss needs a list of"):
        MotionLoss(terms)


@pytest.mark.parametrize("term", [denoising, ("denoising", denoising), "abc"])
def test_list_of_something_else_than_weighted_terms_is_refused(term):
    with pytest.raises(ValueError, match=r"is no weighted term; give \(name, weight, term\)"):
        MotionLoss([term])
    with pytest.raises(ValueError, match="is no weighted term"):
        EVERY_TERM.with_terms(term)


def test_function_that_averages_over_the_batch_is_refused():
    loss = MotionLoss([("mean", 1.0, lambda p: denoising(p).mean())])
    with pytest.raises(ValueError, match=r"gave a value of shape \[\]; a loss term gives one per sample, \[2\]"):
        loss(predicted(), generator())
