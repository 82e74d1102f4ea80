"""Training a motion LoRA through the host's own MODEL, and sampling with it."""

from __future__ import annotations

import pytest
import torch

SETTINGS = {
    "rank": 4,
    "steps": 5,
    "learning_rate": 5e-3,
    "seed": 1,
    "save_every": 0,
    "resume_from": "start anew",
    "batch_size": 2,
    "accumulation": 1,
    "dropout": 0.0,
    "warmup_steps": 0,
    "schedule": "constant",
    "noise_low": 0.01,
    "noise_high": 0.99,
    "noise_bias": 0.4,
    "clip_norm": 1.0,
    "weight_decay": 0.0,
    "save_prefix": "test",
}


@pytest.fixture(scope="module")
def sprites(host, tmp_path_factory):
    """(MODEL, CLIP, VAE) of a sprites model with random weights."""
    module = host.module("sma.sprites.model")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    module.save(module.SpritesModel(), path)
    loader = host.module("nodes.host.sprites")
    with torch.inference_mode():
        return loader.load_model(path), loader.load_clip(path), loader.SpritesVAE()


@pytest.fixture(scope="module")
def learning(host, sprites):
    """Inputs of Train Motion LoRA on a drifting square, through the host's own encoders."""
    model, clip, vae = sprites
    frames = torch.zeros(8, 16, 16, 3)
    for index in range(8):
        frames[index, 4:9, index + 1 : index + 6, 0] = 1.0
    (latent,) = host.call("VAEEncode", pixels=frames, vae=vae)
    (positive,) = host.call("CLIPTextEncode", clip=clip, text="red square")
    (loss,) = host.call("SMA_AlignmentLoss", method={"method": "denoising"})
    (loss,) = host.call("SMA_SpectralLoss", motion_loss=loss, global_weight=0.4, local_weight=0.2, form={"form": "repaired"})
    return {"latent": latent, "positive": positive, "motion_loss": loss}


def train(host, model, learning, **changes):
    return host.call("SMA_TrainMotionLoRA", model=model, layers={"layers": "motion"}, **learning, **(SETTINGS | changes))


def test_five_steps_then_core_loads_the_lora_and_samples(host, sprites, learning):
    model, clip, vae = sprites
    lora, loss_map = train(host, model, learning)
    assert len(loss_map["loss"]) == 5
    (worn,) = host.call("LoraModelLoader", model=model, lora=lora, strength_model=1.0)
    (prompt,) = host.call("CLIPTextEncode", clip=clip, text="blue circle")
    (nothing,) = host.call("CLIPTextEncode", clip=clip, text="")
    videos = []
    for candidate in (model, worn):
        (samples,) = host.call(
            "KSampler", model=candidate, seed=3, steps=4, cfg=3.0, sampler_name="euler", scheduler="normal",
            positive=prompt, negative=nothing, latent_image=learning["latent"], denoise=1.0,
        )
        (images,) = host.call("VAEDecode", vae=vae, samples=samples)
        videos.append(images)
    assert videos[0].shape == (8, 16, 16, 3)
    assert (videos[0] - videos[1]).abs().max() > 1e-3
