"""What training predicts is what core's own sampler predicts from the same noised latent, with and without a noise mask."""

from __future__ import annotations

import pytest
import torch

FAMILIES = ("wan", "wan_i2v", "wan_5b", "ltx", "hunyuan", "sprites")
# Families that are given the clip itself where the mask is 0; the others see it noised there.
GIVEN = ("wan_5b", "ltx", "hunyuan")


def half_masked(latent: torch.Tensor) -> torch.Tensor:
    """A mask that leaves the first latent frame out."""
    mask = torch.ones(1, 1, *latent.shape[2:])
    mask[:, :, :1] = 0
    return mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_of_core_answers_the_clean_estimate_of_training(host, load, family, masked):
    case = load(family)
    latent, positive = case.inputs()
    mask = half_masked(latent) if masked else None
    (noise,) = host.call("RandomNoise", noise_seed=5)
    noised = {"samples": latent} | ({"noise_mask": mask} if masked else {})

    def job(denoiser):
        sigma = denoiser.sigma_at(0.6)
        schedule = case.model.get_model_object("model_sampling")
        x_t = schedule.noise_scaling(torch.tensor(sigma), noise.generate_noise(noised), denoiser.clip)
        with torch.no_grad():
            return denoiser.denoise(x_t, torch.full((1,), sigma)), sigma, denoiser.clip

    trained, sigma, clip = case.inside(job, noise_mask=mask)
    (guider,) = host.call("BasicGuider", model=case.model, conditioning=positive)
    (sampler,) = host.call("KSamplerSelect", sampler_name="euler")
    sampled = host.call(
        "SamplerCustomAdvanced",
        noise=noise,
        guider=guider,
        sampler=sampler,
        sigmas=torch.tensor([sigma, 0.0]),
        latent_image=noised,
    )[1]["samples"]
    sampled = case.model.model.process_latent_in(sampled)
    if masked and family not in GIVEN:
        # Core then puts the clip itself where the mask is 0; training keeps the estimate, and the loss does not look there.
        sampled, trained = sampled * mask, trained * mask
    torch.testing.assert_close(trained, sampled, rtol=1e-5, atol=1e-5 * float(sampled.abs().max()))
    if masked and family in GIVEN:
        assert torch.equal(trained[:, :, :1], clip[:, :, :1])


@pytest.mark.parametrize("family", GIVEN)
def test_each_of_several_masked_clips_is_given_its_own_rest(load, family):
    case = load(family)
    latent, positive = case.inputs()
    run = case.host.module("nodes.host.training").run_in_training

    def answer(clips, index):
        def job(denoiser):
            x = torch.randn(latent.shape, generator=torch.Generator().manual_seed(7))
            with torch.no_grad():
                return denoiser.denoisers[index](x, torch.full((1,), denoiser.sigma_at(0.6)))

        mask = half_masked(latent).repeat(len(clips), 1, 1, 1, 1)
        with torch.inference_mode():
            return run(case.model, torch.cat(clips), positive, job, seed=0, noise_mask=mask)

    other = latent.flip(2)
    assert torch.equal(answer([latent, other], 1), answer([other], 0))
    assert not torch.equal(answer([latent, other], 0), answer([latent, other], 1))
