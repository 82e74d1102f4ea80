from __future__ import annotations

import math
from dataclasses import replace

import pytest
import pywt
import torch

from sma.spectral import (
    OFFICIAL,
    PAPER,
    REPAIRED,
    GlobalTransform,
    LocalTransform,
    SpectralSettings,
    default_levels,
    frequency_weight,
    global_loss,
    local_loss,
)
from sma.wavelets import temporal_dwt


def clip_pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(shape, generator=generator, dtype=dtype)
    return x0, x0 + 0.5 * torch.randn(shape, generator=generator, dtype=dtype)


def full_plane_loss(x0, x0_hat, settings: SpectralSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """The local loss on the whole spectrum, shifted, bin by bin as the paper writes it."""
    a, b = x0.diff(dim=2), x0_hat.diff(dim=2)
    if settings.residual == "absolute":
        a, b = a.abs(), b.abs()
    a, b = (torch.fft.fftshift(torch.fft.fft2(r, norm=settings.norm), dim=(-2, -1)) for r in (a, b))
    height, width = x0.shape[-2:]
    weight = torch.empty(height, width, dtype=torch.float64)
    for r in range(height):
        for c in range(width):
            near = (r - height / 2) ** 2 + (c - width / 2) ** 2
            far = (height / 2) ** 2 + (width / 2) ** 2
            weight[r, c] = far**settings.delta - near**settings.delta + settings.base
            if settings.zero_border and 0 in (r, c):
                weight[r, c] = 0
    angle = a.angle() - b.angle()
    if settings.phase == "wrapped":
        angle = torch.atan2(angle.sin(), angle.cos())
    mean = (1, 2, 3, 4)
    amplitude, scale = (weight * (a.abs() - b.abs()).abs()).mean(mean), (weight * a.abs()).mean(mean)
    if settings.relative:
        return amplitude / scale, (weight * a.abs() * angle.abs()).mean(mean) / scale
    return amplitude, (weight * angle.abs()).mean(mean)


@pytest.mark.golden_cases("sma/global_*", 6)
def test_global_loss_matches_the_official_code(golden, case):
    case = golden(case)
    settings = {
        "wave": case.params["wave"],
        "levels": case.params["num_levels"],
        "level_weights": case.params["ld_levels"],
        "residual": "absolute",
    }
    x0_hat = case.tensors["v0hat"].requires_grad_()
    loss = global_loss(case.tensors["images"], x0_hat, **settings).mean()
    loss.backward()
    assert loss.item() == pytest.approx(case.scalars["loss"], rel=case.tolerance["rtol"], abs=case.tolerance["atol"])
    torch.testing.assert_close(x0_hat.grad, case.tensors["grad_v0hat"], **case.close)
    for name in ("images", "v0hat"):
        residual = case.tensors[name].detach().diff(dim=2).abs()
        approx, details = temporal_dwt(residual, case.params["wave"], case.params["num_levels"])
        bands = {"approx": approx} | {f"detail{j}": detail for j, detail in enumerate(details, 1)}
        for band, ours in bands.items():
            ours = ours.permute(0, 1, 3, 4, 2).flatten(1, 3)
            torch.testing.assert_close(ours, case.tensors[f"{band}_{name}"], **case.close)


@pytest.mark.golden_cases("sma/local_*", 4)
def test_local_loss_matches_the_official_code(golden, case):
    case = golden(case)
    x0_hat = case.tensors["v0hat"].requires_grad_()
    settings = replace(OFFICIAL, delta=case.params["delta"], base=case.params["base"])
    reference = LocalTransform.of(case.tensors["images"], settings)
    amplitude, phase = (value.mean() for value in reference.compare(x0_hat))
    # Spectra of even sides have real bins besides the mean, where another CPU or FFT library may turn +pi into -pi. Gradients have no such
    # turns, so they hold the formula there.
    odd = x0_hat.shape[-2] % 2 and x0_hat.shape[-1] % 2
    flips = 0 if odd else case.tolerance["phase_and_total_other_fft_backend_atol"]
    for name, loss, atol in (("mag", amplitude, 0), ("phase", phase, flips), ("total", amplitude + phase, flips)):
        atol += case.tolerance["atol"]
        assert loss.item() == pytest.approx(case.scalars[f"loss_{name}"], rel=case.tolerance["rtol"], abs=atol)
        (gradient,) = torch.autograd.grad(loss, x0_hat, retain_graph=True)
        tolerance = {"rtol": case.tolerance["grad_rtol"], "atol": case.tolerance["grad_atol"]}
        torch.testing.assert_close(gradient, case.tensors[f"grad_{name}"], **tolerance)
    if "mag_images" in case.tensors:
        half = case.tensors["images"].shape[-1] // 2 + 1
        for name, ours in (("mag_images", reference.amplitude), ("phase_images", reference.angle)):
            theirs = torch.fft.ifftshift(case.tensors[name], dim=(-2, -1))[..., :half]
            if name == "phase_images":
                turns = ((ours - theirs) / (2 * math.pi)).round()
                theirs = theirs + 2 * math.pi * turns
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.golden_cases("sma/weight_*", 3)
def test_frequency_weight_matches_the_official_code_and_the_paper(golden, case):
    case = golden(case)
    size, knobs = (case.params["height"], case.params["width"]), {k: case.params[k] for k in ("delta", "base")}
    torch.testing.assert_close(frequency_weight(*size, **knobs), case.tensors["weight"], **case.close)
    paper = frequency_weight(*size, **knobs, zero_border=True)
    torch.testing.assert_close(paper, case.tensors["weight_paper"], **case.close)


def positive_real_bins(clip: torch.Tensor) -> torch.Tensor:
    """A clip whose residuals are positive, and so are their spectra wherever they are real: that angle is 0 on every CPU, not pi or -pi."""
    residual = clip.diff(dim=2)
    height, width = clip.shape[-2:]
    rows, columns = [torch.ones(height)], [torch.ones(width)]
    if height % 2 == 0:
        rows.append((-1.0) ** torch.arange(height))
    if width % 2 == 0:
        columns.append((-1.0) ** torch.arange(width))
    for row in rows:
        for column in columns:
            pattern = (row[:, None] * column).to(clip)
            share = (residual * pattern).mean((-2, -1), keepdim=True)
            whole = pattern.min() > 0
            residual = residual + pattern * (share.abs() - share + (10 if whole else 0.1))
    assert (residual > 0).all()
    return torch.cat([clip[:, :, :1], clip[:, :, :1] + residual.cumsum(2)], dim=2)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (6, 7), (5, 8), (1, 4), (2, 2)])
@pytest.mark.parametrize(
    "settings",
    [PAPER, OFFICIAL, REPAIRED, SpectralSettings(), SpectralSettings(zero_border=True, delta=0.3, base=0.0)],
    ids=["paper", "official", "repaired", "plain", "zero_border"],
)
def test_half_spectrum_gives_the_loss_and_gradient_of_the_full_one(size, settings):
    x0, x0_hat = map(positive_real_bins, clip_pair(2, 3, 4, *size))
    x0_hat.requires_grad_()
    ours, reference = LocalTransform.of(x0, settings).compare(x0_hat), full_plane_loss(x0, x0_hat, settings)
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        (grad_a,) = torch.autograd.grad(a.sum(), x0_hat, retain_graph=True)
        (grad_b,) = torch.autograd.grad(b.sum(), x0_hat, retain_graph=True)
        torch.testing.assert_close(grad_a, grad_b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("wave", "frames", "levels"), [("haar", 8, None), ("db3", 13, 2), ("haar", 2, 3)])
def test_global_loss_equals_pywavelets_band_by_band(wave, frames, levels):
    x0, x0_hat = clip_pair(2, 3, frames, 4, 5)
    weights = [0.5 + 0.25 * j for j in range((levels or default_levels(frames)) + 1)]
    difference = (x0_hat - x0).diff(dim=2).numpy()  # signed residuals and the DWT are linear
    details = []
    for _ in weights[1:]:
        difference, detail = pywt.dwt(difference, wave, mode="zero", axis=2)
        details.append(detail)
    expected = sum(
        w * abs(band).reshape(2, -1).mean(1) for w, band in zip(weights, [difference, *details], strict=True)
    )
    loss = global_loss(x0, x0_hat, wave=wave, levels=levels, level_weights=weights)
    torch.testing.assert_close(loss, torch.from_numpy(expected))


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_parseval_holds_for_the_orthonormal_transform(size):
    """With a flat weight, the weighted energy of the half spectrum is the mean square of the residual."""
    x0, _ = clip_pair(2, 3, 4, *size)
    transform = LocalTransform.of(x0, SpectralSettings(delta=0.0, base=1.0))
    energy = (transform.weight * transform.amplitude**2).sum((-2, -1))
    torch.testing.assert_close(energy, x0.diff(dim=2).square().mean((-2, -1)))


@pytest.mark.parametrize("knobs", [{}, {"phase": "raw", "norm": "backward"}, {"relative": True}, {"zero_border": True}])
def test_local_gradient_equals_finite_differences(knobs):
    x0, x0_hat = clip_pair(2, 1, 3, 3, 4, seed=3)
    assert torch.autograd.gradcheck(lambda x: local_loss(x0, x, **knobs), x0_hat.requires_grad_())


@pytest.mark.parametrize("residual", ["signed", "absolute"])
def test_global_gradient_equals_finite_differences(residual):
    x0, x0_hat = clip_pair(2, 1, 6, 2, 3, seed=4)
    assert torch.autograd.gradcheck(lambda x: global_loss(x0, x, residual=residual), x0_hat.requires_grad_())


def waves(angle: float) -> torch.Tensor:
    """Two frames whose residual has one frequency, three cycles across the width, at this angle."""
    column = torch.arange(16, dtype=torch.float64)
    frame = torch.cos(2 * math.pi * 3 * column / 16 + angle).expand(1, 1, 1, 8, 16)
    return torch.cat([torch.zeros_like(frame), frame], dim=2)


def test_wrapped_phase_takes_the_short_way_round():
    x0, x0_hat = waves(math.pi - 0.01), waves(math.pi + 0.01)
    _, wrapped = local_loss(x0, x0_hat, relative=True)  # relative: the empty bins do not count
    _, raw = local_loss(x0, x0_hat, relative=True, phase="raw")
    assert wrapped.item() == pytest.approx(0.02, rel=1e-6)
    assert raw.item() == pytest.approx(2 * math.pi - 0.02, rel=1e-6)


def test_wrapped_phase_invariants():
    x0, x0_hat = clip_pair(2, 3, 4, 6, 7)
    weight = frequency_weight(6, 7, dtype=torch.float64).mean().item()
    assert local_loss(x0, 2 * x0)[1].tolist() == pytest.approx([0, 0], abs=1e-12)
    assert local_loss(x0, -x0)[1].tolist() == pytest.approx([math.pi * weight] * 2)  # the farthest there is
    forward, backward = local_loss(x0, x0_hat)[1], local_loss(x0_hat, x0)[1]
    torch.testing.assert_close(forward, backward)
    assert (forward < local_loss(x0, x0_hat, phase="raw")[1]).all()


@pytest.mark.parametrize("settings", [PAPER, OFFICIAL, REPAIRED, SpectralSettings()])
def test_equal_clips_have_no_distance_and_a_finite_gradient(settings):
    x0, _ = clip_pair(2, 3, 8, 6, 7)
    x0_hat = x0.clone().requires_grad_()
    losses = (GlobalTransform.of(x0, settings).compare(x0_hat), *LocalTransform.of(x0, settings).compare(x0_hat))
    assert torch.stack(losses).abs().max() == 0
    torch.stack(losses).sum().backward()
    assert x0_hat.grad.isfinite().all()


def test_relative_loss_of_a_still_reference_is_finite():
    still = torch.ones(1, 2, 3, 4, 4)
    assert all(value.isfinite().all() for value in local_loss(still, still + 1e-3, relative=True))


def test_samples_do_not_mix():
    x0, x0_hat = clip_pair(3, 2, 5, 4, 5)
    for batch, single in (
        (global_loss(x0, x0_hat), [global_loss(x0[i : i + 1], x0_hat[i : i + 1]) for i in range(3)]),
        (local_loss(x0, x0_hat)[0], [local_loss(x0[i : i + 1], x0_hat[i : i + 1])[0] for i in range(3)]),
    ):
        assert batch.shape == (3,)
        torch.testing.assert_close(batch, torch.cat(single))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_clips_give_float32_losses(dtype):
    x0, x0_hat = (x.to(dtype) for x in clip_pair(2, 2, 5, 4, 5))
    ours = (global_loss(x0, x0_hat), *local_loss(x0, x0_hat))
    raised = (global_loss(x0.float(), x0_hat.float()), *local_loss(x0.float(), x0_hat.float()))
    for a, b in zip(ours, raised, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_float64_stays_float64():
    x0, x0_hat = clip_pair(1, 2, 5, 4, 5)
    assert {value.dtype for value in (global_loss(x0, x0_hat), *local_loss(x0, x0_hat))} == {torch.float64}
