"""MotionDirector's dual path on AnimateDiff, whose motion modules are left out of single frames."""

from __future__ import annotations

import tiny_animatediff as tiny
import torch

SETTINGS = {
    "rank": 2,
    "steps": 5,
    "learning_rate": 5e-3,
    "seed": 1,
    "save_every": 0,
    "resume_from": "start anew",
    "batch_size": 1,
    "accumulation": 1,
    "dropout": 0.1,
    "warmup_steps": 0,
    "schedule": "constant",
    "noise_low": 0.01,
    "noise_high": 0.99,
    "noise_bias": 0.4,
    "clip_norm": 1.0,
    "weight_decay": 0.0,
    "save_prefix": "test",
    "checkpointing": True,
}


def test_a_frame_alone_is_what_the_image_model_makes_of_it(host, case):
    """Without motion modules AnimateDiff is Stable Diffusion, so what they answer must not matter."""
    image_pass = host.module("sma.image_pass").image_pass

    def job(denoiser):
        x, sigma = tiny.video(seed=7)[:, :, :1], torch.full((1,), denoiser.sigma_at(0.6))
        with torch.no_grad():
            through = denoiser.denoise(x, sigma).clone()
            with image_pass(denoiser.network):
                image = denoiser.denoise(x, sigma).clone()
                modules = [m for n, m in denoiser.network.named_modules() if n.endswith("motion_modules.0.proj_out")]
                handles = [m.register_forward_hook(lambda module, args, output: output + 5) for m in modules]
                disturbed = denoiser.denoise(x, sigma).clone()
            for handle in handles:
                handle.remove()
        return through, image, disturbed, len(modules)

    through, image, disturbed, count = case.inside(job)
    assert count > 0
    assert torch.equal(image, disturbed)
    assert (through - image).abs().max() > 1e-3


def test_the_dual_path_trains_and_exports_the_motion_modules_alone(host, case):
    roles = host.module("sma.roles")
    (loss,) = host.call("SMA_AlignmentLoss", method={"method": "denoising"})
    before = case.inside(lambda denoiser: case.x0_hat(denoiser).detach().clone())
    lora, loss_map = host.call(
        "SMA_TrainMotionLoRA",
        model=case.model,
        latent={"samples": tiny.video(seed=4)},
        positive=tiny.conditioning(5),
        motion_loss=loss,
        layers={"layers": "motion"},
        method="dual path (MotionDirector)",
        **SETTINGS,
    )
    assert len(loss_map["loss"]) == 5 and all(0 < value < 100 for value in loss_map["loss"])
    assert lora.metadata["group_norm"] == "original"
    layers = {key.removeprefix("diffusion_model.").rsplit(".lora", 1)[0] for key in lora if ".lora_" in key}
    assert layers == set(roles.layers_of(case.model.model.diffusion_model, "motion"))
    assert torch.equal(case.inside(lambda denoiser: case.x0_hat(denoiser).detach().clone()), before)
