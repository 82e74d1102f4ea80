"""What training predicts is what core's own sampler predicts from the same noised latent, with and without a noise mask."""

from __future__ import annotations

from types import SimpleNamespace

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


@pytest.mark.parametrize("family", (*FAMILIES, "wan_vace", "unet3d"))
def test_samples_of_a_batch_are_answered_as_each_alone(load, family):
    """Also under a prompt with padding and the mask that hides it, of which HunyuanVideo in the host takes one sample only."""
    case = load(family)
    latent, positive = case.inputs()
    if "attention_mask" in positive[0][1]:
        positive[0][1]["attention_mask"] = torch.tensor([[1, 1, 1, 0, 0]])
    run = case.host.module("nodes.host.training").run_in_training

    def job(denoiser):
        x = torch.randn(3, *denoiser.clip.shape[1:], generator=torch.Generator().manual_seed(7))
        sigma = torch.tensor([denoiser.sigma_at(level) for level in (0.3, 0.6, 0.9)])
        adapter = case.adapter(denoiser)

        def gradients(parts):
            torch.cat(parts).square().sum().backward()
            found = [value.grad for value in adapter.parameters()]
            for value in adapter.parameters():
                value.grad = None
            return torch.cat(parts).detach(), torch.cat([gradient.flatten() for gradient in found])

        together = gradients([denoiser.denoise(x, sigma)])
        alone = gradients([denoiser.denoise(x[i : i + 1], sigma[i : i + 1]) for i in range(3)])
        adapter.detach()
        return together, alone

    with torch.inference_mode():
        together, alone = run(case.model, latent, positive, job, seed=0)
    for ours, reference in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-4 * float(reference.abs().max()))


def test_several_videos_under_one_padded_prompt_of_hunyuan_are_inverted(load):
    case = load("hunyuan")
    latent, positive = case.inputs()
    positive[0][1]["attention_mask"] = torch.tensor([[1, 1, 1, 0, 0]])
    invert = case.host.module("nodes.host.inversion").invert
    with torch.inference_mode():
        clips = torch.cat([latent, latent.flip(2)])
        together = invert(case.model, clips, positive, steps=2)
        alone = torch.cat([invert(case.model, clip, positive, steps=2) for clip in clips.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=0.1)


def test_padded_prompts_of_hunyuan_with_something_for_each_video_are_refused(load):
    """As a start image of each clip would be."""
    from comfy.conds import CONDRegular

    case = load("hunyuan")
    conds = {"attention_mask": CONDRegular(torch.ones(1, 5)), "c_concat": CONDRegular(torch.zeros(2, 1, 1))}
    guider = SimpleNamespace(inner_model=case.model.model, conds={"positive": [{"model_conds": conds}]})
    ask = case.host.module("nodes.host.inputs").ask
    with pytest.raises(ValueError, match="for one video at a time, and its c_concat holds 2. Set batch_size to 1"):
        ask(guider, torch.zeros(2, 16, 3, 4, 4), torch.tensor([0.5, 0.6]), {})
