"""Losses that look inside a mask, against the same numbers reckoned with numpy and PyWavelets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import pywt
import torch

from sma.loss_functions import anchor_debiased, denoising, draw_anchors, residual_cosine
from sma.losses import Debiased, Denoising, MotionLoss, ResidualCosine, SpectralGlobal, SpectralLocal, WeightedTerm
from sma.prediction import Prediction, add_noise
from sma.spectral import OFFICIAL, OUTPUT, PAPER, REPAIRED, LocalTransform, SpectralSettings, global_loss, local_loss

SIZES = [(6, 4, 6), (5, 5, 7), (8, 6, 5), (2, 3, 4)]
TERMS = {
    "denoising": Denoising(),
    "debiased": Debiased(),
    "cosine over frames": ResidualCosine(),
    "cosine over pixels": ResidualCosine(absolute=False, over="pixels", space="output"),
    "global": SpectralGlobal(PAPER),
    "global of db2": SpectralGlobal(SpectralSettings(wave="db2", level_weights=(1, 0.5, 2), levels=2)),
    "local": SpectralLocal(PAPER),
    "local as coded": SpectralLocal(OFFICIAL),
    "local repaired": SpectralLocal(REPAIRED),
    "global on the output": SpectralGlobal(OUTPUT),
    "local on the output": SpectralLocal(OUTPUT),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def soft_mask(shape, seed=3):
    """[B, 1, F, H, W] in 0..1, with a third of it exactly 0."""
    values = torch.rand(shape, generator=generator(seed), dtype=torch.float64)
    return (values - 1 / 3).clamp_min(0) * 1.5


def clips(size, batch=2):
    shape = (batch, 3, *size)
    x0, x0_hat = (torch.randn(shape, generator=generator(seed), dtype=torch.float64) for seed in (1, 2))
    return x0, x0_hat, soft_mask((batch, 1, *size))


def noised(size=(6, 3, 5), mask=None, batch=2, kind="v", **parts):
    x0, error, noise = (
        torch.randn(batch, 3, *size, generator=generator(seed), dtype=torch.float64) for seed in range(3)
    )
    x0_hat = x0 + 0.5 * error
    sigma = torch.linspace(0.3, 0.9, batch, dtype=torch.float64)
    made = {"x0": x0, "noise": noise, "x0_hat": x0_hat} | parts
    x_t = add_noise(made["x0"], made["noise"], sigma, kind)
    return Prediction.from_denoised(made["x0"], made["noise"], x_t, sigma, made["x0_hat"], kind, mask)


def between(mask):
    return np.minimum(mask[..., 1:, :, :], mask[..., :-1, :, :])


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("wave", "levels"), [("haar", 1), ("haar", 2), ("db2", 2)])
@pytest.mark.parametrize("residual", ["signed", "absolute"])
def test_the_global_loss_transforms_masked_residuals(size, wave, levels, residual):
    x0, x0_hat, mask = clips(size)
    expected = []
    for a, b, m in zip(x0.numpy(), x0_hat.numpy(), between(mask.numpy()), strict=True):
        a, b = np.diff(a, axis=1), np.diff(b, axis=1)
        if residual == "absolute":
            a, b = np.abs(a), np.abs(b)
        bands = [pywt.wavedec(x * m, wave, mode="zero", level=levels, axis=1) for x in (a, b)]
        expected.append(sum(np.abs(p - q).mean() for p, q in zip(*bands, strict=True)) / m.mean())
    value = global_loss(x0, x0_hat, wave=wave, levels=levels, residual=residual, mask=mask)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-10)


# Wrapped: a real bin's angle is 0 or pi but for rounding, so that raw differences may be off by a whole turn there.
WRAPPED = [replace(PAPER, phase="wrapped"), replace(OFFICIAL, phase="wrapped"), REPAIRED]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("settings", WRAPPED)
def test_the_local_loss_transforms_masked_residuals(size, settings):
    x0, x0_hat, mask = clips(size)
    height, width = size[1:]
    row, column = np.indices((height, width))
    far = (height / 2) ** 2 + (width / 2) ** 2
    weight = far**0.05 - ((row - height / 2) ** 2 + (column - width / 2) ** 2) ** 0.05 + 1
    if settings.zero_border:
        weight[0] = weight[:, 0] = 0
    amplitudes, phases = [], []
    for a, b, m in zip(x0.numpy(), x0_hat.numpy(), between(mask.numpy())[:, 0], strict=True):
        counts = m.mean((1, 2))
        found = []
        for pair, mean in enumerate(counts):
            r = [x[:, pair + 1] - x[:, pair] for x in (a, b)]
            if settings.residual == "absolute":
                r = [np.abs(x) for x in r]
            window = m[pair] / np.sqrt((m[pair] ** 2).mean())
            s, t = (np.fft.fftshift(np.fft.fft2(x * window, norm=settings.norm), (1, 2)) for x in r)
            angle = np.angle(np.exp(1j * (np.angle(s) - np.angle(t))))
            angle = np.abs(angle) * (np.abs(s) if settings.relative else 1)
            found.append([mean * (weight * x).mean() for x in (np.abs(np.abs(s) - np.abs(t)), angle, np.abs(s))])
        amplitude, phase, scale = np.sum(found, axis=0) / counts.sum()
        amplitudes.append(amplitude / (scale if settings.relative else 1))
        phases.append(phase / (scale if settings.relative else 1))
    value = LocalTransform.of(x0, settings, mask=mask).compare(x0_hat)
    np.testing.assert_allclose(value[0].numpy(), amplitudes, rtol=1e-9)
    np.testing.assert_allclose(value[1].numpy(), phases, rtol=1e-9)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("over", ["frames", "pixels"])
@pytest.mark.parametrize("size", SIZES)
def test_the_cosine_compares_masked_residuals(size, over, absolute):
    p = noised(size, soft_mask((2, 1, *size)))
    expected = []
    for a, b, m in zip(p.noise_hat.numpy(), p.noise.numpy(), between(p.mask.numpy())[:, 0], strict=True):
        a, b = np.diff(a, axis=1), np.diff(b, axis=1)
        if absolute:
            a, b = np.abs(a), np.abs(b)
        a, b, total, weights = a * m, b * m, 0.0, 0.0
        places = [np.s_[:, f] for f in range(size[0] - 1)]
        if over == "frames":
            places = [np.s_[c, :, y, x] for c in range(3) for y in range(size[1]) for x in range(size[2])]
        for place in places:
            weight = m[place[1:] if over == "frames" else place[1]].mean()
            if weight > 0:
                u, v = a[place].ravel(), b[place].ravel()
                total, weights = total + weight * u @ v / np.sqrt(u @ u * (v @ v)), weights + weight
        expected.append(1 - total / weights)
    value = residual_cosine(p, absolute=absolute, over=over)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_the_debiased_loss_counts_what_its_own_and_the_anchors_frame_show(size):
    p, anchor, beta = noised(size, soft_mask((2, 1, *size))), torch.tensor([1, 0]), 0.7
    expected = []
    for e, m, a in zip((p.output - p.target).numpy(), p.mask.numpy()[:, 0], anchor.tolist(), strict=True):
        squares = (np.sqrt(beta**2 + 1) * e - beta * e[:, a : a + 1]) ** 2
        weight = np.minimum(m, m[a])
        expected.append((squares * weight).sum() / (3 * weight.sum()))
    np.testing.assert_allclose(anchor_debiased(p, anchor=anchor, beta=beta).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_a_mask_of_ones_gives_exactly_and_a_constant_one_nearly_the_unmasked_value(term):
    for dtype in (torch.float32, torch.float64):
        p = noised()
        p = replace(
            p,
            **{name: getattr(p, name).to(dtype) for name in ("x0", "noise", "x0_hat", "noise_hat", "target", "output")},
        )
        plain = term(p, generator())
        for shape in ((2, 1, 6, 3, 5), (1, 1, 6, 3, 5), (6, 3, 5), (1, 1, 1, 1, 1)):
            assert torch.equal(term(replace(p, mask=torch.ones(shape)), generator()), plain)
        constant = term(replace(p, mask=torch.full((1, 1, 6, 3, 5), 0.3, dtype=dtype)), generator())
        torch.testing.assert_close(constant, plain)


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("size", [(6, 4, 6), (5, 5, 7)])
def test_what_lies_outside_has_no_influence(term, size):
    """Also where the clip rests inside, so that spectra are exactly 0 and their angles hang on the sign of that 0."""
    mask = torch.zeros(2, 1, *size, dtype=torch.float64)
    mask[..., 1:3, 2:4], mask[:, :, 0] = torch.rand(2, generator=generator(8)) + 0.1, 0
    for still in (False, True):
        clean = noised(size)
        parts = {name: getattr(clean, name).clone() for name in ("x0", "noise", "x0_hat")}
        if still:
            parts = {name: torch.where(mask > 0, part[:, :, -1:], part) for name, part in parts.items()}
        outside = {
            name: torch.where(
                mask > 0, part, 50 * torch.randn(part.shape, generator=generator(9 + seed), dtype=part.dtype)
            )
            for seed, (name, part) in enumerate(parts.items())
        }
        value, other = (term(noised(size, mask, **made), generator()) for made in (parts, outside))
        assert torch.equal(value, other)
        changed = parts | {
            "x0_hat": torch.where(mask > 0, parts["x0_hat"] * torch.linspace(0.5, 2, size[0]).view(-1, 1, 1), 0)
        }
        if not still:
            assert (term(noised(size, mask, **changed), generator()) != value).all()


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("size", [(4, 4, 4), (5, 3, 5)])
def test_gradients_agree_with_finite_differences_and_are_0_outside(term, size):
    if term is TERMS["local as coded"] and size[1] % 2 == 0:
        term = SpectralLocal(replace(OFFICIAL, phase="wrapped"))  # raw, a real bin may turn between two evaluations
    mask = soft_mask((2, 1, *size))
    mask[:, :, 0] = 0
    p = noised(size, mask)

    def value(x0_hat):
        return term(noised(size, mask, x0_hat=x0_hat), generator())

    x0_hat = p.x0_hat.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x0_hat).sum(), x0_hat)
    assert gradient.isfinite().all() and gradient.any()
    assert not gradient[(mask == 0).expand_as(gradient)].any()
    for seed in range(3):
        direction = torch.randn(x0_hat.shape, generator=generator(20 + seed), dtype=torch.float64)
        with torch.no_grad():
            step = 1e-6
            slope = (value(x0_hat + step * direction) - value(x0_hat - step * direction)).sum() / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("settings", [PAPER, REPAIRED])
def test_bound_references_are_those_of_the_mask(settings):
    loss = MotionLoss(
        (WeightedTerm("a", 1.0, SpectralGlobal(settings)), WeightedTerm("b", 1.0, SpectralLocal(settings)))
    )
    mask = soft_mask((1, 1, 6, 3, 5))
    one = noised(batch=1)
    p = noised(batch=2, mask=mask, x0=one.x0.expand(2, -1, -1, -1, -1))
    expected = loss.total(p, generator())
    bound = loss.bind(one.x0, mask=mask)
    assert all(term.term.reference.mask is mask for term in bound.terms)
    torch.testing.assert_close(bound.total(p, generator()), expected)
    # Bound without the mask, or with another one: never the wrong reference.
    for other in (loss.bind(one.x0), loss.bind(one.x0, mask=torch.ones_like(mask))):
        torch.testing.assert_close(other.total(p, generator()), expected)
    bare = replace(p, mask=None)
    torch.testing.assert_close(bound.total(bare, generator()), loss.total(bare, generator()))


def test_a_mask_that_shows_no_motion_is_refused_by_the_terms_names():
    mask = torch.zeros(1, 1, 6, 3, 5)
    mask[:, :, ::2] = 1
    loss = MotionLoss((WeightedTerm("denoising", 1.0, Denoising()), WeightedTerm("vmc", 1.0, ResidualCosine())))
    with pytest.raises(ValueError, match="no place in two frames that follow each other, which vmc compares. Widen"):
        loss.bind(noised(batch=1).x0, mask=mask)
    MotionLoss(loss.terms[:1]).bind(noised(batch=1).x0, mask=mask)


def test_an_empty_mask_gives_0():
    p = noised(mask=torch.zeros(1, 1, 6, 3, 5))
    for term in TERMS.values():
        assert not term(p, generator()).any()


def test_masks_that_do_not_fit_are_refused():
    x0, x0_hat, _ = clips((6, 4, 5))
    for mask in (torch.ones(3, 1, 6, 4, 5), torch.ones(1, 3, 6, 4, 5), torch.ones(1, 1, 6, 4, 4)):
        for call in (global_loss, local_loss):
            with pytest.raises(ValueError, match=r"A mask is \[.*it must fit \[B, 1, F, H, W\] of \[2, 3, 6, 4, 5\]"):
                call(x0, x0_hat, mask=mask)
        with pytest.raises(ValueError, match="A mask is"):
            denoising(noised(mask=mask))


def test_anchors_are_drawn_from_what_the_mask_shows():
    mask = torch.zeros(2, 1, 6, 3, 5)
    mask[0, :, 1:4], mask[1, :, 5] = 0.2, 1
    p, source = noised(mask=mask), generator()
    drawn = torch.stack([draw_anchors(p, source) for _ in range(600)])
    counts = Counter(drawn[:, 0].tolist())
    assert set(counts) == {1, 2, 3} and all(150 < count < 250 for count in counts.values())
    assert set(drawn[:, 1].tolist()) == {5}
