"""Two models to train through the real host, both with small random weights: the sprites UNet and a native Wan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import write_wan

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
    "checkpointing": True,
}


@dataclass
class Case:
    """A loaded model and what Train Motion LoRA needs to learn a drifting square with it."""

    host: Any
    model: Any
    clip: Any
    vae: Any
    frames: int
    learning: dict[str, Any]

    def train(self, **changes: Any) -> tuple:
        """Outputs of Train Motion LoRA; changes replace its inputs."""
        inputs = {"model": self.model, "layers": {"layers": "motion"}, **self.learning, **SETTINGS} | changes
        return self.host.call("SMA_TrainMotionLoRA", **inputs)

    def forward(self, model: Any) -> torch.Tensor:
        """x0_hat of a fixed noised latent, through the same door that training uses."""
        return self.inside(model, lambda denoiser: fixed_denoise(denoiser).clone())

    def inside(self, model: Any, job: Any) -> Any:
        run = self.host.module("nodes.host.training").run_in_training
        with torch.inference_mode():
            return run(model, self.learning["latent"]["samples"], self.learning["positive"], job, seed=0)


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
def wan(host, sprites):
    """(MODEL, CLIP, VAE): a tiny random Wan through core's loaders, conditioned by the sprites CLIP."""
    unet, vae = write_wan(Path(host.base) / "models")
    (model,) = host.call("UNETLoader", unet_name=unet, weight_dtype="default")
    (wan_vae,) = host.call("VAELoader", vae_name=vae)
    return model, sprites[1], wan_vae


@pytest.fixture(scope="module", params=["sprites", "wan"])
def case(request) -> Case:
    return request.getfixturevalue(f"{request.param}_case")


@pytest.fixture(scope="module")
def sprites_case(host, sprites) -> Case:
    return _case(host, sprites, 8)


@pytest.fixture(scope="module")
def wan_case(host, wan) -> Case:
    return _case(host, wan, 13)


def _case(host: Any, loaded: tuple, count: int) -> Case:
    model, clip, vae = loaded
    frames = torch.zeros(count, 16, 16, 3)
    for index in range(count):
        frames[index, 4:9, index % 10 + 1 : index % 10 + 6, 0] = 1.0
    (latent,) = host.call("VAEEncode", pixels=frames, vae=vae)
    (positive,) = host.call("CLIPTextEncode", clip=clip, text="red square")
    (loss,) = host.call("SMA_AlignmentLoss", method={"method": "denoising"})
    (loss,) = host.call(
        "SMA_SpectralLoss", motion_loss=loss, global_weight=0.4, local_weight=0.2, form={"form": "repaired"}
    )
    return Case(host, model, clip, vae, count, {"latent": latent, "positive": positive, "motion_loss": loss})


def fixed_denoise(denoiser: Any) -> torch.Tensor:
    x = torch.randn(denoiser.clip.shape, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return denoiser.denoise(x, torch.full((1,), denoiser.sigma_at(0.6)))


@pytest.fixture(name="fixed_denoise")
def fixed_denoise_fixture():
    return fixed_denoise


@pytest.fixture(scope="session")
def make_case():
    return Case


class Untouched:
    """A snapshot of everything a training could leave behind on a MODEL."""

    def __init__(self, case) -> None:
        self.case = case
        self.before = self.take()
        self.output = case.forward(case.model)

    def take(self):
        module = self.case.model.model
        tensors = {name: id(t) for name, t in (*module.named_parameters(), *module.named_buffers())}
        modules = dict(module.named_modules())
        hooks = [n for n, m in modules.items() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
        gradients = [name for name, p in module.named_parameters() if p.requires_grad or p.grad is not None]
        # The host's own bypass LoRA leaves a `forward` on modules; none may be added.
        replaced = [name for name, m in modules.items() if "forward" in vars(m)]
        return tensors, hooks, gradients, replaced, list(module.state_dict())

    def check(self) -> None:
        import comfy.model_management

        assert self.take() == self.before
        assert self.before[1] == [] and self.before[2] == []
        assert comfy.model_management.in_training is False
        assert torch.equal(self.case.forward(self.case.model), self.output)


@pytest.fixture
def untouched():
    """Untouched(case) before what may touch its MODEL, ``check()`` after it."""
    return Untouched


@pytest.fixture
def stop_at(host, monkeypatch):
    """(step, a call that trains) -> the state that a cancel after that step leaves."""
    import comfy.model_management as management

    paths, progress = host.module("nodes.host.paths"), host.module("nodes.host.progress")
    update = progress.Progress.update

    def run(last, training):
        def cancel(self, step, text, x0_hat):
            update(self, step, text, x0_hat)
            if step == last:
                management.interrupt_current_processing(True)

        before = set(paths.saved_states())
        with monkeypatch.context() as patch, pytest.raises(management.InterruptProcessingException):
            patch.setattr(progress.Progress, "update", cancel)
            training()
        (name,) = set(paths.saved_states()) - before
        return name

    return run


@pytest.fixture
def cancel_at_2(host, monkeypatch):
    import comfy.model_management as management

    progress = host.module("nodes.host.progress")
    update = progress.Progress.update

    def cancelling(self, step, text, x0_hat):
        update(self, step, text, x0_hat)
        if step == 2:
            management.interrupt_current_processing(True)

    monkeypatch.setattr(progress.Progress, "update", cancelling)
