"""Training a motion LoRA through the host's own MODEL, and what it leaves: a LoRA core loads, and an untouched MODEL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def test_five_steps_then_core_loads_the_lora_and_samples(host, case):
    lora, loss_map = case.train()
    assert len(loss_map["loss"]) == 5
    (worn,) = host.call("LoraModelLoader", model=case.model, lora=lora, strength_model=1.0)
    (prompt,) = host.call("CLIPTextEncode", clip=case.clip, text="blue circle")
    (nothing,) = host.call("CLIPTextEncode", clip=case.clip, text="")
    videos = []
    for model in (case.model, worn):
        (samples,) = host.call(
            "KSampler",
            model=model,
            seed=3,
            steps=4,
            cfg=3.0,
            sampler_name="euler",
            scheduler="simple",
            positive=prompt,
            negative=nothing,
            latent_image=case.learning["latent"],
            denoise=1.0,
        )
        (images,) = host.call("VAEDecode", vae=case.vae, samples=samples)
        videos.append(images)
    assert videos[0].shape == (case.frames, 16, 16, 3)
    assert (videos[0] - videos[1]).abs().max() > 1e-3


def test_training_lowers_the_loss(host, case):
    _, loss_map = case.train(steps=40)
    losses = torch.tensor(loss_map["loss"])
    assert losses[-10:].mean() < 0.9 * losses[:10].mean()


def test_core_applies_every_key(host, case):
    import comfy.lora

    lora, _ = case.train(steps=1)
    patches = comfy.lora.load_lora(dict(lora), comfy.lora.model_lora_keys_unet(case.model.model, {}))
    assert len(lora) == 2 * len(patches) > 0
    assert set(case.model.clone().add_patches(patches)) == set(patches)


def test_sampling_with_the_lora_is_the_training_time_forward(host, case, fixed_denoise):
    """Patched weights round once more than the hooks do; core's bypass computes what the hooks compute."""
    lora_module, roles = host.module("sma.lora"), host.module("sma.roles")

    def job(denoiser):
        names = roles.layers_of(denoiser.network, "motion")
        generator = torch.Generator().manual_seed(5)
        adapter = lora_module.attach(denoiser.network, names, rank=4, alpha=4, generator=generator)
        with torch.no_grad():
            for name, value in adapter.named_parameters():
                if name.endswith(".up"):
                    value.normal_(std=0.05, generator=generator)
        trained = fixed_denoise(denoiser).clone()
        adapter.detach()
        return trained, adapter.export("diffusion_model.")

    trained, lora = case.inside(case.model, job)
    base = case.forward(case.model)
    (patched,) = host.call("LoraModelLoader", model=case.model, lora=lora, strength_model=1.0)
    (bypassed,) = host.call("LoraModelLoader", model=case.model, lora=lora, strength_model=1.0, bypass=True)
    assert (trained - base).abs().max() > 1e-2
    assert (case.forward(patched) - trained).abs().max() <= 1e-4
    assert torch.equal(case.forward(bypassed), trained)


def test_the_model_is_untouched_by_training(case, untouched):
    before = untouched(case)
    case.train()
    before.check()


def test_the_model_is_untouched_by_cancel_and_the_run_resumes_bit_for_bit(case, untouched, stop_at):
    before = untouched(case)
    settings = {"steps": 6, "dropout": 0.1, "schedule": "cosine"}
    whole, whole_losses = case.train(**settings)
    name = stop_at(4, lambda: case.train(**settings))
    before.check()
    resumed, resumed_losses = case.train(**settings, resume_from=name)
    assert resumed_losses == whole_losses
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_the_model_is_untouched_by_an_exception_inside_backward(host, case, untouched):
    losses = host.module("sma.losses")

    class Explode(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise ArithmeticError("inside backward")

    class Bomb(losses.Denoising):
        def __call__(self, p, generator):
            return Explode.apply(super().__call__(p, generator))

    before = untouched(case)
    bomb = losses.MotionLoss((losses.WeightedTerm("bomb", 1.0, Bomb()),))
    with pytest.raises(RuntimeError, match="unexpected error .ArithmeticError: inside backward"):
        case.train(motion_loss=bomb)
    before.check()


def test_save_every_leaves_loras_and_a_state(host, case):
    paths = host.module("nodes.host.paths")
    case.train(steps=4, save_every=2, save_prefix="every")
    saved = {path.name.split("_0000")[0] for path in (Path(host.base) / "output" / "loras").glob("every_step*")}
    assert saved == {"every_step00002", "every_step00004"}
    assert any(name.startswith("every") for name in paths.saved_states())


def test_save_motion_lora_keeps_the_metadata(host, case):
    import json

    from safetensors import safe_open

    lora, _ = case.train(steps=2)
    host.call("SMA_SaveMotionLoRA", lora=lora, filename_prefix="kept", prompt="red square", fps=8.0)
    path = max((Path(host.base) / "output" / "loras").glob("kept_*"), key=lambda p: p.stat().st_mtime)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(lora)
    assert metadata["frames"] == str(case.frames)
    assert metadata["base_model"] == type(case.model.model).__name__
    assert (metadata["prompt"], metadata["steps"], metadata["rank"], metadata["fps"]) == ("red square", "2", "4", "8.0")
    assert [term["weight"] for term in json.loads(metadata["losses"])] == [1.0, 0.4, 0.2]
