"""Invert Clip: the way up is that of diffusers, the way down leads back, the MODEL stays as it was."""

from __future__ import annotations

import pytest
import torch
from tiny_diffusers import SCHEDULER

ALONE = {"method": "inverted alone (VMC)"}


def rmse(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def test_sampling_leads_back_to_the_clip(case):
    """Measured: with 12 refinements 2e-7 (tiny UNets) to 4e-3 (sprites) of the clip's standard deviation, without 0.02 to 12."""
    errors = []
    for refinements in (0, 12):
        inverted = case.invert(refinements=refinements)
        errors.append(rmse(case.sample(case.noise(inverted, **ALONE), 10), case.clip))
    assert errors[1] < 0.01 * float(case.clip.std()) and errors[1] < 0.05 * errors[0], errors


def test_on_a_trained_model_it_is_noise_and_leads_back(load):
    """Measured: 0.096, 0.052 and 0.0135; the clip's standard deviation is 0.355. A blend with p = 1 is the inverted noise alone."""
    case = load("sprites")
    bounds = {(50, 0): 0.12, (25, 1): 0.065, (50, 1): 0.02}
    for (steps, refinements), bound in bounds.items():
        inverted = case.invert(steps=steps, refinements=refinements)
        assert 0.85 < inverted.std() < 1.1
        whole = case.noise(inverted, method="blend (MotionDirector)", p=1.0)
        assert rmse(case.sample(whole, 50), case.clip) < bound


def test_more_steps_come_closer(load):
    case = load("unet3d")
    few, many = (case.sample(case.noise(case.invert(steps=n), **ALONE), n) for n in (10, 100))
    assert rmse(many, case.clip) < 0.4 * rmse(few, case.clip)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_inversion_is_that_of_diffusers(load, prediction):
    """Against DDIMInverseScheduler for eps. For v it takes the noise out of v by the level below, we by the level that the network was
    asked at, so there the same loop with that."""
    from diffusers import DDIMInverseScheduler

    case = load("unet3d" if prediction == "epsilon" else "unet3d_v")
    network = case.model.model.diffusion_model._network
    config = SCHEDULER | {"prediction_type": "epsilon", "set_alpha_to_one": True}
    scheduler = DDIMInverseScheduler.from_config(config)
    scheduler.set_timesteps(10)
    ours = case.invert()
    with torch.inference_mode():
        x = case.model.model.process_latent_in(case.clip)
        for t in scheduler.timesteps:
            answer = network(x, t, case.positive[0][0])
            if prediction == "v_prediction":
                alpha = scheduler.alphas_cumprod[t]
                answer = alpha.sqrt() * answer + (1 - alpha).sqrt() * x
            x = scheduler.step(answer, t, x).prev_sample
    torch.testing.assert_close(ours, x, atol=5e-6 * float(x.abs().max()), rtol=0)


@pytest.mark.parametrize("family", ["wan", "ltx", "hunyuan"])
def test_flow_inversion_is_eulers_steps_through_the_network(load, family):
    """Our own loop over the host's bare forward; at sigma 1 the state is the noise itself."""
    import comfy.samplers

    case = load(family)
    ours = case.invert(steps=4)
    inner = case.model.model
    extra = case.positive[0][1]
    extra = {
        name: extra[key] for name, key in (("attention_mask", "attention_mask"), ("y", "pooled_output")) if key in extra
    }
    if family == "hunyuan":
        extra["guidance"] = torch.tensor([6.0])
    with torch.inference_mode():
        x = inner.process_latent_in(case.clip)
        levels = comfy.samplers.calculate_sigmas(inner.model_sampling, "simple", 4).flip(0)
        assert levels[0] == 0 and abs(levels[-1] - 1) < 1e-6
        for s_from, s_to in zip(levels[:-1], levels[1:], strict=True):
            x0_hat = inner.apply_model(x, s_to[None], c_crossattn=case.positive[0][0], **extra)
            x = x + (s_to - s_from) * (x - x0_hat) / s_to
    torch.testing.assert_close(ours, x, atol=5e-6 * float(x.abs().max()), rtol=0)


def snapshot(model) -> tuple:
    module = model.model
    tensors = {name: id(tensor) for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    hooks = [name for name, part in module.named_modules() if part._forward_hooks or part._forward_pre_hooks]
    return tensors, hooks, model.patches_uuid, dict(model.object_patches), repr(model.model_options)


@pytest.mark.parametrize("family", ["sprites", "wan"])
def test_cancel_stops_within_a_step_and_leaves_the_model(host, load, family, monkeypatch, said):
    import comfy.model_management as management

    case, progress = load(family), host.module("nodes.host.progress")
    before, reference = snapshot(case.model), case.invert(steps=7)
    assert snapshot(case.model) == before
    seen, update = [], progress.Progress.update

    def cancel_at_3(self, step, text, x0_hat):
        seen.append(step)
        assert x0_hat.shape == case.clip.shape
        update(self, step, text, x0_hat)
        if step == 3:
            management.interrupt_current_processing(True)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "update", cancel_at_3)
        with pytest.raises(management.InterruptProcessingException):
            case.invert(steps=8)
    assert seen == [1, 2, 3]
    assert snapshot(case.model) == before
    assert torch.equal(case.invert(steps=7), reference)
    case.invert(steps=8)
    assert said[-1].startswith("8 steps in"), "what was cancelled must not be cached"


def test_the_cache_knows_clip_prompt_settings_and_patches(host, load, said):
    case = load("wan")
    model, (text, extra) = case.model.clone(), case.positive[0]

    def invert(**changes) -> tuple[torch.Tensor, bool]:
        inverted = case.invert(**{"model": model, "steps": 4} | changes)
        return inverted, said[-1].startswith("from cache; standard deviation")

    first, cached = invert()
    assert not cached
    for same in ({}, {"latent": {"samples": case.clip.clone()}}, {"positive": [[text.clone(), dict(extra)]]}):
        again, cached = invert(**same)
        assert cached and torch.equal(again, first), same
    lora = {
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.randn(2, 128),
        "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.randn(128, 2),
    }
    (worn,) = host.call("LoraModelLoader", model=model, lora=lora, strength_model=1.0)
    (shifted,) = host.call("ModelSamplingSD3", model=model, shift=3.0)
    others = {
        "clip": {"latent": {"samples": case.clip + 1e-3}},
        "prompt": {"positive": [[text + 1e-3, extra]]},
        "extra": {"positive": [[text, extra | {"guidance": 3.0}]]},
        "steps": {"steps": 3},
        "refinements": {"refinements": 1},
        "lora": {"model": worn},
        "shift": {"model": shifted},
    }
    for name, change in others.items():
        other, cached = invert(**change)
        assert not cached, name
        # Wan has no embedded guidance to tell.
        assert name == "extra" or not torch.equal(other, first), name
        again, cached = invert(**change)
        assert cached and torch.equal(again, other), name


def test_a_patch_added_to_the_same_model_object_is_noticed(host, load, said):
    case = load("wan")
    model = case.model.clone()
    case.invert(model=model, steps=3)
    key = "diffusion_model.blocks.0.self_attn.q.weight"
    model.add_patches({key: (torch.ones_like(model.model_state_dict()[key]),)}, 0.01)
    case.invert(model=model, steps=3)
    assert said[-1].startswith("3 steps in")


def test_a_full_disk_costs_the_copy_only(host, load, said, monkeypatch, caplog):
    from safetensors import SafetensorError

    case, cache = load("wan"), host.module("nodes.host.inversion_cache")

    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "save_file", full)
        inverted = case.invert(steps=2)
    assert "the disk is full" in caplog.text
    assert torch.equal(case.invert(steps=2), inverted) and said[-1].startswith("2 steps in")


def test_clips_that_cannot_be_inverted_are_refused(load):
    case = load("wan")
    with pytest.raises(ValueError, match=r"\[5, 16, 4, 4\]; a video latent"):
        case.invert(latent={"samples": torch.ones(5, 16, 4, 4)})
    with pytest.raises(ValueError, match="4 channels and the model takes 16"):
        case.invert(latent={"samples": torch.ones(1, 4, 3, 4, 4)})
    with pytest.raises(ValueError, match="empty"):
        case.invert(latent={"samples": torch.zeros(1, 16, 3, 4, 4)})
    with pytest.raises(ValueError, match="steps is 1000"):
        load("sprites").invert(steps=1000)
