"""Image-to-video Wan, conditioned by core's own node: the start image reaches every sample of every step, and sampling agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import write_wan_i2v, write_wan_vace


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def i2v(request, host, wan, make_case):
    """A square that drifts, and the conditioning that core makes of its first frame."""
    name = write_wan_i2v(Path(host.base) / "models", request.param)
    (model,) = host.call("UNETLoader", unet_name=name, weight_dtype="default")
    _, clip, vae = wan
    frames = torch.zeros(13, 16, 16, 3)
    for index in range(13):
        frames[index, 4:9, index % 10 + 1 : index % 10 + 6, 0] = 1.0
    (latent,) = host.call("VAEEncode", pixels=frames, vae=vae)
    pictures = torch.randn(1, 7, 1280, generator=torch.Generator().manual_seed(4))
    (loss,) = host.call("SMA_AlignmentLoss", method={"method": "denoising"})
    learning = {"latent": latent, "motion_loss": loss}
    case = make_case(host, model, clip, vae, 13, learning)
    learning["positive"] = conditioning(case, frames[:1], pictures if request.param == "2.1" else None)
    return case


def conditioning(case, start, pictures=None, length=13):
    (prompt,) = case.host.call("CLIPTextEncode", clip=case.clip, text="red square")
    extra = {} if pictures is None else {"clip_vision_output": SimpleNamespace(penultimate_hidden_states=pictures)}
    size = {"width": 16, "height": 16, "length": length, "batch_size": 1}
    return case.host.call(
        "WanImageToVideo", positive=prompt, negative=prompt, vae=case.vae, start_image=start, **size, **extra
    )[0]


def test_the_variant_is_told(i2v, said):
    i2v.train(steps=1)
    version = "2.1" if i2v.learning["positive"][0][1].get("clip_vision_output") else "2.2"
    assert any(line.startswith(f"Wan {version} i2v, 2 blocks, 4 latent frames (13 frames), 8 of ") for line in said)


def test_experts_hand_over_where_image_to_video_does(i2v):
    lora, _ = i2v.train(steps=1, expert="high noise")
    assert "high noise expert, sigma 0.900 to 0.99" in lora.metadata["adapted"]


def test_single_frames_of_a_clip_with_a_start_image_are_not_shown(i2v):
    with pytest.raises(ValueError, match="told about every frame of the clip .* or train one adapter"):
        i2v.train(steps=8, method="dual path (MotionDirector)")


def test_nor_are_single_frames_of_a_model_that_reads_a_control_video(host, wan_case):
    (vace,) = host.call("UNETLoader", unet_name=write_wan_vace(Path(host.base) / "models"), weight_dtype="default")
    assert len(wan_case.train(model=vace, steps=2)[1]["loss"]) == 2
    with pytest.raises(ValueError, match="told about every frame of the clip .* VACE models are always told"):
        wan_case.train(model=vace, steps=8, method="dual path (MotionDirector)")


def test_start_image_and_its_embedding_reach_the_network(i2v):
    black = conditioning(i2v, torch.zeros(1, 16, 16, 3))
    other = replace(i2v, learning=i2v.learning | {"positive": black})
    assert (i2v.forward(i2v.model) - other.forward(i2v.model)).abs().max() > 1e-3
    (prompt,) = i2v.host.call("CLIPTextEncode", clip=i2v.clip, text="red square")
    bare = replace(i2v, learning=i2v.learning | {"positive": prompt})
    assert (i2v.forward(i2v.model) - bare.forward(i2v.model)).abs().max() > 1e-3


def test_every_sample_of_a_batch_is_conditioned(i2v):
    def job(denoiser):
        x = torch.randn(denoiser.clip.shape, generator=torch.Generator().manual_seed(7))
        sigma = torch.tensor([0.6, 0.3])
        with torch.no_grad():
            together = denoiser.denoise(torch.cat([x, x]), sigma)
            alone = [denoiser.denoise(x, sigma[index : index + 1]) for index in range(2)]
        return together, torch.cat(alone)

    together, alone = i2v.inside(i2v.model, job)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_core_samples_with_the_trained_lora_as_it_was_trained(i2v):
    """One Euler step to sigma 0 answers the clean estimate itself."""
    host, roles, attach = i2v.host, i2v.host.module("sma.roles"), i2v.host.module("sma.lora").attach
    (noise,) = host.call("RandomNoise", noise_seed=5)
    samples = noise.generate_noise(i2v.learning["latent"])

    def job(denoiser):
        names = roles.layers_of(denoiser.network, "motion")
        generator = torch.Generator().manual_seed(5)
        adapter = attach(denoiser.network, names, rank=4, alpha=4, generator=generator)
        for name, value in adapter.named_parameters():
            if name.endswith(".up"):
                value.data.normal_(std=0.05, generator=generator)
        sigma = denoiser.sigma_at(0.6)
        with torch.no_grad():
            x0_hat = denoiser.denoise((1 - sigma) * denoiser.clip + sigma * samples, torch.full((1,), sigma))
        adapter.detach()
        return x0_hat, sigma, adapter.export("diffusion_model.")

    trained, sigma, lora = i2v.inside(i2v.model, job)
    trained = i2v.model.model.process_latent_out(trained)

    def sampled(model):
        (guider,) = host.call("BasicGuider", model=model, conditioning=i2v.learning["positive"])
        (sampler,) = host.call("KSamplerSelect", sampler_name="euler")
        return host.call(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=torch.tensor([sigma, 0.0]),
            latent_image=i2v.learning["latent"],
        )[1]["samples"]

    (patched,) = host.call("LoraModelLoader", model=i2v.model, lora=lora, strength_model=1.0)
    (bypassed,) = host.call("LoraModelLoader", model=i2v.model, lora=lora, strength_model=1.0, bypass=True)
    assert (sampled(i2v.model) - trained).abs().max() > 1e-2
    assert (sampled(patched) - trained).abs().max() <= 1e-4
    assert (sampled(bypassed) - trained).abs().max() <= 1e-5


def test_training_lowers_the_loss_and_leaves_the_conditioning_alone(i2v):
    image = i2v.learning["positive"][0][1]["concat_latent_image"]
    before = image.clone()
    _, loss_map = i2v.train(steps=30, learning_rate=1e-2)
    losses = torch.tensor(loss_map["loss"])
    assert losses[-10:].mean() < 0.9 * losses[:10].mean()
    assert torch.equal(image, before)


def test_pictures_of_another_clip_are_refused(i2v):
    samples = i2v.learning["latent"]["samples"]
    with pytest.raises(ValueError, match="pictures of one clip .*concat_latent_image.* and the latent 2 clips"):
        i2v.train(latent={"samples": samples.repeat(2, 1, 1, 1, 1)})
    with pytest.raises(
        ValueError, match="conditioned for 5 latent frames of 2x2 and the clip is 4 latent frames of 2x2"
    ):
        i2v.train(positive=conditioning(i2v, torch.zeros(1, 16, 16, 3), length=17))


def test_the_empty_latent_of_the_conditioning_node_is_refused(i2v):
    samples = i2v.learning["latent"]["samples"]
    with pytest.raises(ValueError, match="The latent is empty: all its values are 0. Connect the VAE Encode"):
        i2v.train(latent={"samples": torch.zeros_like(samples)})
