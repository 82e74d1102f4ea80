"""MotionDirector's dual path and VMC's whole weights through Train Motion LoRA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from descent import slopes
from safetensors import safe_open

DUAL, FULL = "dual path (MotionDirector)", "full weights (VMC)"


def layers_in(tensors) -> set[str]:
    return {key.removeprefix("diffusion_model.").rsplit(".lora", 1)[0] for key in tensors if ".lora_" in key}


def layers_of(host, case, role) -> set[str]:
    roles = host.module("sma.roles")
    return set(roles.layers_of(case.model.model.diffusion_model, role))


@pytest.fixture
def two_clips(case):
    samples = case.learning["latent"]["samples"]
    case.learning["latent"] = {"samples": torch.cat([samples, samples.flip(2)])}
    yield case
    case.learning["latent"] = {"samples": samples}


def test_the_output_is_the_temporal_lora_and_the_spatial_ones_are_saved_beside_it(host, two_clips, said):
    case = two_clips
    prefix = f"dual_{type(case.model.model).__name__}"
    lora, loss_map = case.train(method=DUAL, steps=8, save_every=8, save_prefix=prefix, learning_rate=2e-2)
    assert layers_in(lora) == layers_of(host, case, "motion")
    assert all(value.any() for key, value in lora.items() if key.endswith("lora_B.weight"))
    assert lora.metadata["framework"] == DUAL
    assert "2 spatial adapters of" in lora.metadata["adapted"] and any(
        "beside the temporal one" in line for line in said
    )
    assert len(loss_map["loss"]) == 8

    folder = Path(host.base) / "output" / "loras"
    files = {path.name.split("_0000")[0]: path for path in folder.glob(f"{prefix}_*")}
    step = f"{prefix}_step00008"
    assert set(files) == {step, f"{step}_spatial_clip1", f"{step}_spatial_clip2"}
    looks = []
    for name, path in files.items():
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            part = file.metadata().get("part")
        if name == step:
            assert part is None and all(torch.equal(tensors[key], lora[key]) for key in lora)
        else:
            assert part == name.removeprefix(f"{step}_")
            assert layers_in(tensors) == layers_of(host, case, "looks")
            looks.append(tensors)
    ups = [torch.cat([value.flatten() for key, value in own.items() if key.endswith("lora_B.weight")]) for own in looks]
    assert all(up.abs().max() > 1e-3 for up in ups)
    assert (ups[0] - ups[1]).abs().max() > 1e-3


def test_the_model_is_untouched_and_a_stopped_dual_path_resumes_bit_for_bit(host, two_clips, untouched, stop_at):
    case = two_clips
    before = untouched(case)
    settings = {"method": DUAL, "steps": 6, "dropout": 0.1, "schedule": "cosine"}
    whole, whole_losses = case.train(**settings)
    name = stop_at(4, lambda: case.train(**settings))
    before.check()
    resumed, losses = case.train(**settings, resume_from=name)
    assert losses == whole_losses
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_one_frame_goes_around_the_temporal_layers_of_sprites(host, sprites_case):
    """A spatial phase that ran them would learn looks through motion layers."""
    image_pass = host.module("sma.image_pass").image_pass

    def answers(denoiser):
        def denoise():
            x = torch.randn(denoiser.clip[:1, :, :1].shape, generator=torch.Generator().manual_seed(7))
            with torch.no_grad():
                return denoiser.denoise(x, torch.full((1,), denoiser.sigma_at(0.6))).clone()

        module = denoiser.network.get_submodule("mid_block.temp_attentions.0.proj_out")
        with image_pass(denoiser.network):
            without = denoise()
            handle = module.register_forward_hook(lambda module, args, output: output + 5)
            same = denoise()
        through = denoise()
        handle.remove()
        return without, same, through

    without, same, through = sprites_case.inside(sprites_case.model, answers)
    assert torch.equal(without, same)
    assert not torch.equal(without, through)


def test_the_dual_path_needs_a_known_family(host, sprites_case, monkeypatch):
    monkeypatch.setattr(host.module("sma.roles"), "FAMILIES", ())
    layers = {"layers": "regular expression", "pattern": ".*temp_attentions.*to_q"}
    with pytest.raises(ValueError, match="of no known family|no video network of a known family.*Set method to"):
        sprites_case.train(method=DUAL, layers=layers, steps=1)


def test_whole_weights_are_trained_saved_and_worn_as_trained(host, case, fixed_denoise):
    import comfy.lora

    role = "temporal q, k, v" if case.frames == 8 else "self-attention"
    lora, _ = case.train(adapter=FULL, layers={"layers": role}, steps=5)
    names = layers_of(host, case, role)
    assert set(lora) == {f"diffusion_model.{name}.diff" for name in names}
    assert lora.metadata["adapter"] == FULL and "rank" not in lora.metadata
    patches = comfy.lora.load_lora(dict(lora), comfy.lora.model_lora_keys_unet(case.model.model, {}))
    assert set(case.model.clone().add_patches(patches)) == set(patches)
    assert len(patches) == len(lora)

    attach = host.module("sma.lora").attach

    def as_trained(denoiser):
        generator = torch.Generator().manual_seed(0)
        adapter = attach(denoiser.network, sorted(names), rank=1, alpha=1.0, kind="full", generator=generator)
        adapter.load_export(lora, "diffusion_model.")
        answer = fixed_denoise(denoiser).clone()
        adapter.detach()
        return answer

    trained, base = case.inside(case.model, as_trained), case.forward(case.model)
    assert (trained - base).abs().max() > 1e-3
    ranges = {"start_percent": 0.0, "end_percent": 1.0, "first_frame": 0, "last_frame": -1, "apply": "auto"}
    to_format = host.module("sma.lora_formats").to_format
    for tensors in (lora, to_format(lora, "comfyui").tensors, to_format(lora, "kohya").tensors):
        source = {"source": "trained", "lora": tensors}
        (core,) = host.call("LoraModelLoader", model=case.model, lora=tensors, strength_model=1.0)
        (ours,) = host.call("SMA_LoadMotionLoRA", model=case.model, source=source, strength=1.0, **ranges)
        for worn in (core, ours):
            assert (case.forward(worn) - trained).abs().max() <= 1e-4
    for format in ("ComfyUI", "kohya"):
        host.call("SMA_SaveMotionLoRA", lora=lora, filename_prefix="whole", format=format)
    with pytest.raises(
        ValueError, match=f"the whole weights of {len(lora)} layers, as VMC .* Save it in the ComfyUI or kohya format"
    ):
        host.call("SMA_SaveMotionLoRA", lora=lora, filename_prefix="whole", format="diffusers (PEFT)")


def test_gradients_of_whole_weights_agree_with_finite_differences(host, case):
    attach, roles = host.module("sma.lora").attach, host.module("sma.roles")
    role = "temporal q, k, v" if case.frames == 8 else "self-attention"

    def job(denoiser):
        generator = torch.Generator().manual_seed(4)
        names = roles.layers_of(denoiser.network, role)
        adapter = attach(denoiser.network, names, rank=1, alpha=1.0, kind="full", generator=generator)
        values = adapter.parameters()
        with torch.no_grad():
            for value in values:
                value.normal_(std=0.02, generator=generator)
        clip, sigma = denoiser.clip[:1], torch.full((1,), denoiser.sigma_at(0.6))
        x_t, target = (torch.randn(clip.shape, generator=generator) for _ in range(2))

        def loss():
            return (denoiser.denoise(x_t, sigma).double() - target).square().mean()

        loss().backward()
        found = slopes(values, loss)
        adapter.detach()
        return found

    slope, measured = case.inside(case.model, job)
    assert slope > 1e-3
    assert measured == pytest.approx(slope, rel=1e-3)


def test_metadata_is_json(case):
    lora, _ = case.train(method=DUAL, adapter=FULL, steps=1)
    assert json.dumps(lora.metadata)
    assert all(key.endswith(".diff") for key in lora)
