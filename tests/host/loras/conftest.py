"""Two models that wear LoRAs, both with small random weights: the sprites UNet and a native Wan, sampled through the host's guider."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from listening import listen
from tiny_models import write_wan


@dataclass
class Case:
    """A loaded model and what is needed to ask it, and to wear LoRAs on it.

    Attributes:
        latent: [1, C, F, h, w].
        frames: video frames that the latent frames stand for.
        said: lines that nodes wrote under themselves, newest last.
    """

    host: Any
    model: Any
    positive: list
    negative: list
    latent: torch.Tensor
    frames: int
    said: list[str]

    def wear(self, lora: Any, model: Any = None, **changes: Any) -> Any:
        """Load Motion LoRA on the model; ``lora`` is tensors, or a file name."""
        source = {"source": "file", "file": lora} if isinstance(lora, str) else {"source": "trained", "lora": lora}
        inputs = {
            "strength": 1.0,
            "start_percent": 0.0,
            "end_percent": 1.0,
            "first_frame": 0,
            "last_frame": -1,
            "apply": "auto",
        } | changes
        (worn,) = self.host.call("SMA_LoadMotionLoRA", model=model or self.model, source=source, **inputs)
        return worn

    def core(self, lora: Any, model: Any = None, *, bypass: bool = False) -> Any:
        """The host's own Load LoRA Model."""
        (worn,) = self.host.call(
            "LoraModelLoader", model=model or self.model, lora=lora, strength_model=1.0, bypass=bypass
        )
        return worn

    def predict(
        self, model: Any, percents: tuple[float, ...] = (0.4,), cfg: float = 1.0, batch: int = 1
    ) -> torch.Tensor:
        """x0_hat [len(percents) * batch, C, F, h, w] of fixed noise at shares of the sampling, through the host's guider."""
        import comfy.samplers

        answers = []

        class Probe(comfy.samplers.Sampler):
            def sample(
                self, wrap, sigmas, extra, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
            ):
                generator = torch.Generator().manual_seed(7)
                x = torch.randn(batch, *latent_image.shape[1:], generator=generator)
                schedule = wrap.inner_model.model_sampling
                levels = [float(schedule.percent_to_sigma(percent)) for percent in percents]
                answers.append(torch.cat([wrap(x, torch.full((batch,), level), **extra) for level in levels]))
                return latent_image

        with torch.inference_mode():
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds(self.positive, self.negative)
            guider.set_cfg(cfg)
            latent = self.latent.expand(batch, *self.latent.shape[1:])
            guider.sample(latent, latent, Probe(), torch.tensor([1.0, 0.0]), seed=0)
        return answers[0]

    def lora(
        self, *, seed: int = 5, rank: int = 4, role: str = "motion", strength: float = 0.05
    ) -> dict[str, torch.Tensor]:
        """A LoRA of ours with random values."""
        return self.trained(seed=seed, rank=rank, role=role, strength=strength)[1]

    def trained(
        self, *, seed: int = 5, rank: int = 4, role: str = "motion", strength: float = 0.05, model: Any = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What the model answers in training with a random adapter on, as :meth:`predict` asks it; and that adapter's LoRA."""
        lora, roles = self.host.module("sma.lora"), self.host.module("sma.roles")

        def job(denoiser):
            generator = torch.Generator().manual_seed(seed)
            names = roles.layers_of(denoiser.network, role)
            adapter = lora.attach(denoiser.network, names, rank=rank, alpha=rank / 2, generator=generator)
            with torch.no_grad():
                for name, value in adapter.named_parameters():
                    if name.endswith(".up"):
                        value.normal_(std=strength, generator=generator)
                x = torch.randn(denoiser.clip.shape, generator=torch.Generator().manual_seed(7))
                answer = denoiser.denoise(x, torch.full((1,), denoiser.sigma_at(0.6))).clone()
            adapter.detach()
            return answer, adapter.export("diffusion_model.")

        run = self.host.module("nodes.host.training").run_in_training
        with torch.inference_mode():
            return run(model or self.model, self.latent, self.positive, job, seed=0)

    def in_training(self, model: Any) -> torch.Tensor:
        """What the model answers through the trainer's door, as :meth:`predict` asks it."""

        def job(denoiser):
            x = torch.randn(denoiser.clip.shape, generator=torch.Generator().manual_seed(7))
            with torch.no_grad():
                return denoiser.denoise(x, torch.full((1,), denoiser.sigma_at(0.6))).clone()

        run = self.host.module("nodes.host.training").run_in_training
        with torch.inference_mode():
            return run(model, self.latent, self.positive, job, seed=0)

    def hooks(self) -> list[str]:
        """Modules of the model that wear something of ours. (The host's own bypass leaves a ``forward`` on modules, which is not ours.)"""
        found = []
        for name, module in self.model.model.named_modules():
            left = any("spectral" in key for key in (*vars(module), *vars(type(module))))
            if left or module._forward_hooks or module._forward_pre_hooks:
                found.append(name)
        return found


@pytest.fixture(scope="session")
def lora_folder(host) -> Path:
    """output/loras, which the host's launcher adds to the LoRA folders."""
    import folder_paths

    folder = Path(folder_paths.get_output_directory()) / "loras"
    folder.mkdir(exist_ok=True)
    folder_paths.add_model_folder_path("loras", str(folder))
    return folder


@pytest.fixture(scope="module")
def sprites(host, tmp_path_factory):
    """(MODEL, CLIP) of a sprites model with random weights."""
    module = host.module("sma.sprites.model")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    module.save(module.SpritesModel(), path)
    loader = host.module("nodes.host.sprites")
    with torch.inference_mode():
        return loader.load_model(path), loader.load_clip(path)


@pytest.fixture(scope="module")
def wan_file(host) -> Path:
    folder = Path(host.base) / "models"
    return folder / "diffusion_models" / write_wan(folder)[0]


@pytest.fixture(scope="module")
def said(host, monkeymodule) -> list[str]:
    """Lines that Load and Save Motion LoRA write under themselves, newest last."""
    return listen(monkeymodule)


@pytest.fixture(scope="module")
def make_case(host, sprites, said):
    """Builds a case around a loaded model."""
    (positive,) = host.call("CLIPTextEncode", clip=sprites[1], text="red square")
    (negative,) = host.call("CLIPTextEncode", clip=sprites[1], text="")

    def make(model: Any, **others: Any) -> Case:
        latent_format = model.model.latent_format
        generator = torch.Generator().manual_seed(3)
        own = {
            "positive": positive,
            "negative": negative,
            "latent": torch.randn(1, latent_format.latent_channels, 4, 4, 4, generator=generator),
            "frames": 1 + 3 * getattr(latent_format, "temporal_downscale_ratio", 1),
        }
        return Case(host=host, model=model, said=said, **own | others)

    return make


@pytest.fixture(scope="module")
def monkeymodule():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def wan(host, make_case, wan_file) -> Case:
    return make_case(host.call("UNETLoader", unet_name=wan_file.name, weight_dtype="default")[0])


@pytest.fixture(scope="module", params=["sprites", "wan"])
def case(request, make_case) -> Case:
    if request.param == "wan":
        return request.getfixturevalue("wan")
    return make_case(request.getfixturevalue("sprites")[0])
