"""A tiny ZeroScope in the graph: core's nodes, and a motion LoRA trained, loaded and sampled, in every storage format."""

from __future__ import annotations

from typing import Any

import pytest
import torch

SAMPLING = {"seed": 3, "steps": 2, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"}


@pytest.fixture(scope="module")
def clip_of_frames() -> torch.Tensor:
    frames = torch.zeros(3, 64, 64, 3)
    for index in range(3):
        frames[index, 16:40, 8 * index : 8 * index + 24, 0] = 1.0
    return frames


@pytest.fixture(scope="module", params=["as stored", "float16", "bfloat16", "float8_e4m3fn"])
def model(request, host, folders, loaded) -> Any:
    if request.param == "as stored":
        return loaded[0]
    modules = host.module("nodes.host.text_to_video"), host.module("nodes.host.diffusers_folder")
    config = modules[1].component_config(folders / "zero", "unet"), modules[1].scheduler_config(folders / "zero")
    with torch.inference_mode():
        path = folders / "zero" / "unet" / "diffusion_pytorch_model.safetensors"
        return modules[0].load_model(path, *config, getattr(torch, request.param))


@pytest.fixture(scope="module")
def learning(host, loaded, contexts, clip_of_frames) -> dict[str, Any]:
    (latent,) = host.call("VAEEncode", pixels=clip_of_frames, vae=loaded[2])
    (loss,) = host.call("SMA_AlignmentLoss", method={"method": "denoising"})
    return {"latent": latent, "positive": [[contexts[0], {}]], "motion_loss": loss}


def test_core_makes_a_video_of_a_prompt_and_another_of_a_video(host, loaded, clip_of_frames):
    model, clip, vae = loaded
    (positive,) = host.call("CLIPTextEncode", clip=clip, text="a red circle")
    conditioning = {"positive": positive, "negative": host.call("ConditioningZeroOut", conditioning=positive)[0]}
    (empty,) = host.call("SMA_EmptyVideoLatent", vae=vae, width=64, height=64, frame_count=3, batch_size=1)
    (given,) = host.call("VAEEncode", pixels=clip_of_frames, vae=vae)
    for latent, denoise in ((empty, 1.0), (given, 0.5)):
        sampling = SAMPLING | conditioning | {"denoise": denoise}
        (samples,) = host.call("KSampler", model=model, latent_image=latent, **sampling)
        (images,) = host.call("VAEDecode", vae=vae, samples=samples)
        assert images.shape == (3, 64, 64, 3) and images.isfinite().all()
        assert images.std() > 0.01 and not torch.equal(images[0], images[1])


def test_previews_are_pictures(host, loaded):
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod, args

    method, args.preview_method = args.preview_method, LatentPreviewMethod.Latent2RGB
    try:
        previewer = latent_preview.get_previewer(loaded[0].load_device, loaded[0].model.latent_format)
    finally:
        args.preview_method = method
    kind, picture, _ = previewer.decode_latent_to_preview_image("JPEG", torch.randn(1, 4, 3, 6, 8))
    assert kind == "JPEG" and picture.size == (8, 6)


def defaults(host, node_id: str) -> dict[str, Any]:
    """What a fresh node on the canvas is set to."""
    values = {}
    for item in host.node(node_id).GET_SCHEMA().inputs:
        options = getattr(item, "options", None)
        if getattr(item, "default", None) is not None:
            values[item.id] = item.default
        elif options and isinstance(options[0], str):
            values[item.id] = options[0]
    return values


def test_a_motion_lora_trains_and_core_wears_it(host, model, learning, forward):
    import comfy.lora

    inputs = defaults(host, "SMA_TrainMotionLoRA") | {"steps": 3, "learning_rate": 5e-3, "rank": 2}
    lora, loss_map = host.call("SMA_TrainMotionLoRA", model=model, layers={"layers": "motion"}, **inputs | learning)
    assert len(loss_map["loss"]) == 3 and all(0 < loss < 100 for loss in loss_map["loss"])
    patches = comfy.lora.load_lora(dict(lora), comfy.lora.model_lora_keys_unet(model.model, {}))
    assert len(lora) == 2 * len(patches) > 0
    assert set(model.clone().add_patches(patches)) == set(patches)
    bypass = model.model.get_dtype().itemsize == 1
    (worn,) = host.call("LoraModelLoader", model=model, lora=lora, strength_model=1.0, bypass=bypass)
    assert (forward(worn, 2.0) - forward(model, 2.0)).abs().max() > 1e-4
    conditioning = {"positive": learning["positive"], "negative": learning["positive"]}
    empty = {"samples": torch.zeros_like(learning["latent"]["samples"])}
    for patcher in (model, worn):
        (samples,) = host.call("KSampler", model=patcher, latent_image=empty, denoise=1.0, **SAMPLING | conditioning)
        assert samples["samples"].isfinite().all()


def test_the_dual_path_exports_the_temporal_lora_alone(host, model, learning, forward):
    roles = host.module("sma.roles")
    before = forward(model, 2.0)
    inputs = defaults(host, "SMA_TrainMotionLoRA") | {"steps": 3, "learning_rate": 5e-3, "rank": 2, "dropout": 0.1}
    inputs |= {"method": "dual path (MotionDirector)", "model": model, "layers": {"layers": "motion"}, **learning}
    lora, loss_map = host.call("SMA_TrainMotionLoRA", **inputs)
    _, kept = host.call("SMA_TrainMotionLoRA", **inputs | {"checkpointing": False})
    assert all(0 < loss < 100 for loss in loss_map["loss"])
    if model.model.get_dtype() == torch.float32:
        assert loss_map["loss"] == pytest.approx(kept["loss"], rel=1e-4)
    layers = {key.removeprefix("diffusion_model.").rsplit(".lora", 1)[0] for key in lora if ".lora_" in key}
    assert layers == set(roles.layers_of(model.model.diffusion_model, "motion"))
    assert torch.equal(forward(model, 2.0), before)


def test_sampling_with_the_lora_is_the_training_time_forward(host, model, learning):
    """Core's bypass computes what the hooks compute; patched weights are rounded to what they are stored in."""
    attach, roles = host.module("sma.lora").attach, host.module("sma.roles")
    run = host.module("nodes.host.training").run_in_training

    def predict(denoiser):
        x = torch.randn(denoiser.clip.shape, generator=torch.Generator().manual_seed(7))
        with torch.no_grad():
            return denoiser.denoise(x, torch.full((1,), denoiser.sigma_at(0.6))).clone()

    def job(denoiser):
        generator = torch.Generator().manual_seed(5)
        names = roles.layers_of(denoiser.network, "motion")
        adapter = attach(denoiser.network, names, rank=4, alpha=4, generator=generator)
        with torch.no_grad():
            for name, value in adapter.named_parameters():
                if name.endswith(".up"):
                    value.normal_(std=0.05, generator=generator)
        trained = predict(denoiser)
        adapter.detach()
        return trained, adapter.export("diffusion_model.")

    def inside(patcher, work):
        with torch.inference_mode():
            return run(patcher, learning["latent"]["samples"], learning["positive"], work, seed=0)

    trained, lora = inside(model, job)
    (bypassed,) = host.call("LoraModelLoader", model=model, lora=lora, strength_model=1.0, bypass=True)
    assert (inside(model, predict) - trained).abs().max() > 1e-2
    # Core's bypass keeps the LoRA's factors in the dtype of the weights.
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(model.model.get_dtype(), 2e-5)
    assert (inside(bypassed, predict) - trained).abs().max() <= tolerance
    if model.model.get_dtype() == torch.float32:
        (patched,) = host.call("LoraModelLoader", model=model, lora=lora, strength_model=1.0)
        assert (inside(patched, predict) - trained).abs().max() <= 1e-4


def test_a_controlnet_is_refused_and_not_passed_over(loaded, noisy, contexts):
    """These networks have no place for one."""
    with torch.inference_mode(), pytest.raises(ValueError, match="UNet3DConditionModel takes no ControlNet; remove it"):
        loaded[0].model.apply_model(noisy, torch.tensor([1.0]), c_crossattn=contexts[0], control={"output": []})
