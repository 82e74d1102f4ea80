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
    denoising,
    residual_cosine,
    spectral_terms,
)
from sma.prediction import Prediction
from sma.spectral import OFFICIAL, PAPER, REPAIRED, SpectralSettings, global_loss, local_loss


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


def test_every_term_reports_one_value_per_sample_and_the_total_is_their_weighted_sum(predicted):
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
def test_bound_loss_equals_unbound_for_any_batch(settings, predicted):
    loss = MotionLoss(spectral_terms(settings))
    for batch in (1, 3):
        p = predicted(batch)
        bound = loss.bind(p.x0[:1])
        torch.testing.assert_close(bound.total(p, generator()), loss.total(p, generator()))
        (ours,) = torch.autograd.grad(bound.total(p, generator()).sum(), p.x0_hat, retain_graph=True)
        (reference,) = torch.autograd.grad(loss.total(p, generator()).sum(), p.x0_hat)
        torch.testing.assert_close(ours, reference)


def test_bound_loss_does_not_look_at_x0_again(predicted):
    p = predicted()
    bound = MotionLoss(spectral_terms(REPAIRED)).bind(p.x0[:1])
    other = replace(p, x0=torch.full_like(p.x0, math.nan))
    assert torch.equal(bound.total(other, generator()), bound.total(p, generator()))


@pytest.mark.parametrize("settings", [REPAIRED, SpectralSettings(wave="db2", relative=True)])
def test_loss_used_and_bound_under_inference_mode_still_trains(settings, predicted):
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


def test_gradient_of_the_total_equals_finite_differences(predicted):
    p = predicted(batch=1, frames=4)

    def total(x0_hat: torch.Tensor) -> torch.Tensor:
        again = Prediction.from_denoised(p.x0, p.noise, p.x_t, p.sigma, x0_hat, p.kind)
        return EVERY_TERM.total(again, generator())

    assert torch.autograd.gradcheck(total, p.x0_hat)


@pytest.mark.parametrize("form", [REPAIRED, PAPER])
@pytest.mark.parametrize("kind", ["eps", "v", "flow", "x0"])
def test_spectral_terms_in_output_space_compare_output_with_target(kind, form, predicted):
    p = predicted(batch=3, frames=5, kind=kind)
    s, difference = p.sigma.view(-1, 1, 1, 1, 1), p.x_t - p.x0_hat
    output, target = {
        "eps": (difference / s, p.noise),
        "flow": (difference / s, p.noise - p.x0),
        "v": ((p.x_t - (1 + s**2) * p.x0_hat) / (s * (1 + s**2).sqrt()), (p.noise - s * p.x0) / (1 + s**2).sqrt()),
        "x0": (p.x0_hat, p.x0),
    }[kind]
    loss = MotionLoss(spectral_terms(replace(form, space="output")))
    knobs = {"phase": form.phase, "norm": form.norm, "zero_border": form.zero_border, "relative": form.relative}
    expected = {
        "spectral_global": global_loss(target, output, levels=form.levels_for(5)),
        "spectral_local": sum(local_loss(target, output, **knobs)),
    }
    for given in (loss, loss.bind(p.x0[:1])):
        values = given(p, generator())
        assert list(values) == list(expected)
        for name, value in values.items():
            torch.testing.assert_close(value, expected[name])
    same = MotionLoss(spectral_terms(form)).total(p, generator())
    assert torch.allclose(loss.total(p, generator()), same) == (kind == "x0")


def test_a_sigma_weight_counts_each_sample_by_its_share_of_signal(predicted):
    for kind, share in (("v", lambda s: 1 / (1 + s**2)), ("flow", lambda s: (1 - s) ** 2 / ((1 - s) ** 2 + s**2))):
        p = predicted(batch=3, kind=kind)
        for space in ("x0_hat", "output"):
            plain, weighted = (
                MotionLoss(spectral_terms(replace(REPAIRED, space=space, sigma_weight=weight)))(p, generator())
                for weight in ("none", "signal")
            )
            for name, value in weighted.items():
                torch.testing.assert_close(value, plain[name] * share(p.sigma))


@pytest.mark.parametrize("kind", ["v", "flow"])
def test_gradient_of_every_form_equals_finite_differences(kind, predicted):
    p = predicted(batch=2, frames=5, kind=kind)
    form = replace(REPAIRED, space="output", sigma_weight="signal", bands="low")
    loss = MotionLoss(spectral_terms(form)).bind(p.x0[:1])

    def total(x0_hat: torch.Tensor) -> torch.Tensor:
        again = Prediction.from_denoised(p.x0, p.noise, p.x_t, p.sigma, x0_hat, p.kind)
        return loss.total(again, generator())

    assert torch.autograd.gradcheck(total, p.x0_hat)


def test_a_share_takes_the_spectral_terms_apart_and_survives_binding_and_more_terms(predicted):
    p = predicted(batch=3)
    whole = MotionLoss(EVERY_TERM.terms, spectral_share=0.5)
    for loss in (
        whole,
        whole.bind(p.x0[:1]),
        MotionLoss(EVERY_TERM.terms[:-1], spectral_share=0.5).with_terms(EVERY_TERM.terms[-1]),
    ):
        values = loss(p, generator())
        others, spectral = loss.parts_of(values)
        torch.testing.assert_close(others, values["denoising"] + 0.5 * values["cosine"] + 2 * values["debiased"])
        torch.testing.assert_close(spectral, 0.4 * values["spectral_global"] + 0.2 * values["spectral_local"])
        torch.testing.assert_close(loss.total_of(values), others + spectral)
    (total,) = EVERY_TERM.parts_of(values)
    assert torch.equal(total, EVERY_TERM.total_of(values))


def test_a_share_is_described_with_the_spectral_terms_alone():
    shares = [term.get("spectral_share") for term in MotionLoss(EVERY_TERM.terms, 0.5).describe()]
    assert shares == [None, None, None, 0.5, 0.5]
    assert not any("spectral_share" in term for term in EVERY_TERM.describe())


@pytest.mark.parametrize("share", [0.0, -0.1, 10.5, math.nan, math.inf])
def test_share_out_of_its_range_is_refused(share):
    with pytest.raises(ValueError, match="spectral_share is .*; it must be above 0 and at most 10"):
        MotionLoss(EVERY_TERM.terms, share)


@pytest.mark.parametrize(
    "terms",
    [
        EVERY_TERM.terms[:3],
        EVERY_TERM.terms[3:],
        (*EVERY_TERM.terms[:3], WeightedTerm("watched", 0.0, SpectralGlobal(PAPER))),
        (*EVERY_TERM.terms[3:], WeightedTerm("watched", 0.0, Denoising())),
    ],
)
def test_share_without_both_sorts_of_terms_is_refused(terms):
    with pytest.raises(ValueError, match="balances spectral terms against others, and both need a weight above 0"):
        MotionLoss(terms, 1.0)


def test_term_of_weight_zero_is_watched_without_a_gradient(predicted):
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
def test_half_precision_predictions_give_float32_losses(dtype, predicted):
    p = predicted(dtype=torch.float32)
    half = {name: getattr(p, name).detach().to(dtype) for name in ("x0", "noise", "x_t", "x0_hat")}
    values = EVERY_TERM(Prediction.from_denoised(**half, sigma=p.sigma, kind="v"), generator())
    assert {value.dtype for value in values.values()} == {torch.float32}
    as_it_is = replace(p, **half, output=half["x0_hat"], target=half["x0"], noise_hat=half["x0_hat"])
    assert {value.dtype for value in EVERY_TERM(as_it_is, generator()).values()} == {torch.float32}


def test_description_is_json_and_names_every_setting(predicted):
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


def test_plain_function_serves_as_a_term_by_name_weight_and_function(predicted):
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


def test_function_that_averages_over_the_batch_is_refused(predicted):
    loss = MotionLoss([("mean", 1.0, lambda p: denoising(p).mean())])
    with pytest.raises(ValueError, match=r"gave a value of shape \[\]; a loss term gives one per sample, \[2\]"):
        loss(predicted(), generator())
