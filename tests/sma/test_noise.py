from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sma.noise import (
    blend,
    blend_frequencies,
    frequency_mask,
    mix_fft,
    mix_temporal_bands,
    offset_noise,
    resize_frames,
    swap_low_frequencies,
    unit_variance,
)

KINDS = ["gaussian", "butterworth", "ideal", "box"]


def pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    inverted, noise = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return inverted, noise


@pytest.mark.golden_cases("noise_init/mix_*", 2)
def test_mixtures_are_those_of_motion_inversion(golden, case):
    case = golden(case)
    tensors, p, factor = case.tensors, case.params["noise_prior"], case.params["downsample_factor"]
    inverted, noise = tensors["inversion_noise"], tensors["noise"]
    mask = frequency_mask(noise.shape, "gaussian", 0.25, 0.25)
    mixtures = {
        "BlendInit": blend(inverted, noise, p),
        "FreqInit": swap_low_frequencies(inverted, noise, factor=factor),
        "BlendFreqInit": blend_frequencies(inverted, noise, p, factor=factor),
        "FFTInit": mix_fft(inverted, noise, mask),
    }
    for name, ours in mixtures.items():
        torch.testing.assert_close(ours, tensors[name], **case.close)


@pytest.mark.golden_cases("noise_init/filter_*", 8)
def test_masks_are_those_of_motion_inversion(golden, case):
    case = golden(case)
    params = case.params
    assert params["n"] == 4
    mask = frequency_mask((params["T"], params["H"], params["W"]), params["type"], params["d_s"], params["d_t"])
    torch.testing.assert_close(mask, case.tensors["mask"], **case.close)


@pytest.mark.golden_cases("motiondirector/noise_prior_*", 2)
def test_blend_is_motiondirectors_noise_prior(golden, case):
    case = golden(case)
    tensors = case.tensors
    latents = blend(tensors["inversion_noise"], tensors["noise"], case.params["noise_prior"])
    torch.testing.assert_close(latents, tensors["latents"], **case.close)


@pytest.mark.golden_cases("motiondirector/offset_noise_*", 1)
def test_offset_noise_is_motiondirectors(golden, case):
    case = golden(case)
    generator = torch.Generator().manual_seed(case.params["torch_seed"])
    base = torch.randn(case.params["shape"], generator=generator)
    torch.testing.assert_close(base, case.tensors["base_noise"], **case.close)
    noise = offset_noise(base, case.params["strength"], generator)
    torch.testing.assert_close(noise, case.tensors["noise"], **case.close)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_blend_at_its_ends_and_between(p):
    inverted, noise = pair(2, 3, 5, 6, 7)
    ours = blend(inverted, noise, p)
    torch.testing.assert_close(ours, p**0.5 * inverted + (1 - p) ** 0.5 * noise)
    if p in (0.0, 1.0):
        assert torch.equal(ours, inverted if p else noise)


def test_ends_of_the_frequency_mixtures():
    inverted, noise = pair(1, 2, 4, 9, 12)
    torch.testing.assert_close(swap_low_frequencies(inverted, noise, factor=1), inverted)
    torch.testing.assert_close(blend_frequencies(inverted, noise, 1.0), inverted)
    torch.testing.assert_close(blend_frequencies(inverted, noise, 0.0), swap_low_frequencies(inverted, noise))
    # What varies slower than the factor comes from the inverted latent, what varies faster from the noise.
    constant = torch.full_like(noise, 2.0)
    stripes = constant * (-1.0) ** torch.arange(12)
    torch.testing.assert_close(swap_low_frequencies(constant, torch.zeros_like(noise)), constant)
    kept = swap_low_frequencies(torch.zeros_like(noise), stripes)
    assert (kept - stripes).abs().max() < 0.2 * stripes.abs().max()


@pytest.mark.parametrize("size", [(5, 7, 9), (6, 8, 10), (1, 1, 4)])
def test_fft_mix_equals_numpys(size):
    inverted, noise = pair(2, 3, *size)
    mask = frequency_mask(size, "gaussian", 0.4, 0.3).double()
    unshifted, axes = np.fft.ifftshift(mask.numpy(), (2, 3, 4)), (2, 3, 4)
    spectra = (np.fft.fftn(x.numpy(), axes=axes) for x in (inverted, noise))
    mixed = unshifted * next(spectra) + (1 - unshifted) * next(spectra)
    expected = torch.from_numpy(np.fft.ifftn(mixed, axes=axes).real)
    torch.testing.assert_close(mix_fft(inverted, noise, mask), expected)
    torch.testing.assert_close(mix_fft(inverted, noise, torch.ones_like(mask)), inverted)
    torch.testing.assert_close(mix_fft(inverted, noise, torch.zeros_like(mask)), noise)


@pytest.mark.parametrize("kind", KINDS)
def test_masks(kind):
    shape = (2, 4, 6, 8, 10)
    mask = frequency_mask(shape, kind, 0.25, 0.25)
    assert mask.shape == (1, 1, 6, 8, 10) and mask.dtype == torch.float32
    assert mask[0, 0, 3, 4, 5] == 1 and 0 <= mask.min() and mask.max() == 1
    assert torch.equal(mask, frequency_mask(shape[2:], kind, 0.25, 0.25))
    for nothing in ((0.0, 0.25), (0.25, 0.0)):
        assert not frequency_mask(shape, kind, *nothing).any()


def test_a_wide_box_passes_everything_on_a_tall_frame():
    assert frequency_mask((4, 16, 10), "box", 0.75, 1.0)[0, 0, 2, 8].all()
    assert frequency_mask((4, 16, 10), "box", 1.0, 1.0).all()


@pytest.mark.parametrize(("frames", "levels"), [(8, 1), (8, 2), (8, 3), (7, 2), (13, 2), (5, 9), (1, 1)])
def test_haar_bands_are_means_of_runs_of_frames(frames, levels):
    inverted, noise = pair(2, 3, frames, 2, 3)
    ours = mix_temporal_bands(inverted, noise, levels=levels)

    def means(x: torch.Tensor) -> torch.Tensor:
        runs = [run.mean(2, keepdim=True).expand_as(run) for run in x.split(2**levels, dim=2)]
        return torch.cat(runs, dim=2)

    torch.testing.assert_close(ours, noise + means(inverted) - means(noise))
    torch.testing.assert_close(mix_temporal_bands(inverted, ours, levels=levels), ours)
    torch.testing.assert_close(mix_temporal_bands(ours, noise, levels=levels), ours)


@pytest.mark.parametrize("wave", ["haar", "db2", "sym4"])
def test_temporal_bands_keep_unit_variance(wave):
    inverted, noise = pair(1, 4, 11, 64, 64)
    variance = mix_temporal_bands(inverted, noise, levels=2, wave=wave).var(dim=(0, 1, 3, 4))
    torch.testing.assert_close(variance, torch.ones(11, dtype=torch.float64), atol=0.05, rtol=0)


def test_variance_of_each_mixture_and_its_repair():
    inverted, noise = pair(2, 4, 8, 32, 32)
    mask = frequency_mask(noise.shape, "gaussian", 0.25, 0.25)
    found = {
        "blend": blend(inverted, noise, 0.5),
        "swap": swap_low_frequencies(inverted, noise),
        "resized": blend(resize_frames(inverted, 20, 20), noise, 1.0),
        "fft": mix_fft(inverted, noise, mask),
    }
    deviations = {name: x.std().item() for name, x in found.items()}
    assert deviations["blend"] == pytest.approx(1, abs=0.02)
    assert max(deviations[name] for name in ("swap", "resized", "fft")) < 0.99
    for x in found.values():
        repaired = unit_variance(x * torch.tensor([3.0, 0.2]).view(2, 1, 1, 1, 1))
        torch.testing.assert_close(
            repaired.var(dim=(1, 2, 3, 4), correction=0), torch.ones(2, dtype=torch.float64), atol=1e-9, rtol=0
        )


def test_offset_noise_moves_whole_frames():
    _, noise = pair(2, 3, 4, 64, 64)
    moved = offset_noise(noise, 0.5, torch.Generator().manual_seed(1)) - noise
    assert moved.var(dim=(3, 4)).max() < 1e-25
    assert moved[..., 0, 0].unique().numel() == 2 * 3 * 4
    assert torch.equal(offset_noise(noise, 0.0, torch.Generator()), noise)


MIXTURES = {
    "blend": lambda i, n: blend(i, n, 0.5),
    "swap": swap_low_frequencies,
    "blend_frequencies": lambda i, n: blend_frequencies(i, n, 0.5),
    "fft": lambda i, n: mix_fft(i, n, frequency_mask(n.shape, "butterworth", 0.25, 0.25)),
    "bands": lambda i, n: mix_temporal_bands(i, n, levels=1),
}


@pytest.mark.parametrize("mix", MIXTURES.values(), ids=MIXTURES)
def test_one_clip_serves_several_videos_of_another_size(mix):
    inverted, _ = pair(1, 2, 5, 6, 8)
    _, noise = pair(3, 2, 5, 9, 7)
    ours = mix(inverted, noise)
    assert ours.shape == noise.shape
    torch.testing.assert_close(ours[1:2], mix(resize_frames(inverted, 9, 7), noise[1:2]))


@pytest.mark.parametrize("mix", MIXTURES.values(), ids=MIXTURES)
def test_half_precision_is_raised(mix):
    inverted, noise = pair(1, 2, 4, 8, 8, dtype=torch.float32)
    raised = mix(inverted.half(), noise.bfloat16())
    assert raised.dtype == torch.float32
    torch.testing.assert_close(raised, mix(inverted, noise), atol=3e-2, rtol=0)


@pytest.mark.parametrize("mix", MIXTURES.values(), ids=MIXTURES)
def test_latents_that_do_not_fit_are_refused(mix):
    inverted, noise = pair(2, 4, 5, 8, 8)
    with pytest.raises(ValueError, match="5 latent frames and the new video 6"):
        mix(inverted, torch.zeros(2, 4, 6, 8, 8))
    with pytest.raises(ValueError, match="4 channels and the new video 16"):
        mix(inverted, torch.zeros(2, 16, 5, 8, 8))
    with pytest.raises(ValueError, match="2 clips and 3 videos"):
        mix(inverted, torch.zeros(3, 4, 5, 8, 8))


def test_wrong_choices_are_refused():
    inverted, noise = pair(1, 1, 2, 4, 6)
    with pytest.raises(ValueError, match="p is 1.5; it must be between 0 and 1"):
        blend(inverted, noise, 1.5)
    with pytest.raises(ValueError, match="p is nan"):
        blend_frequencies(inverted, noise, math.nan)
    with pytest.raises(ValueError, match="A factor of 5 leaves nothing of 6x4 latent pixels"):
        swap_low_frequencies(inverted, noise, factor=5)
    with pytest.raises(ValueError, match="factor is 0"):
        swap_low_frequencies(inverted, noise, factor=0)
    with pytest.raises(ValueError, match="Unknown mask 'round'"):
        frequency_mask(noise.shape, "round", 0.25, 0.25)
    with pytest.raises(ValueError, match="dt is -1"):
        frequency_mask(noise.shape, "box", 0.25, -1)
    with pytest.raises(ValueError, match="levels is 0"):
        mix_temporal_bands(inverted, noise, levels=0)
