"""The models that clips are inverted through: the shipped sprites, and tiny random ones of every kind of network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stand_in_nodes
import tiny_animatediff
import torch
from safetensors.torch import save_file
from tiny_diffusers import SCHEDULER, UNET, random_weights
from tiny_models import write_hunyuan, write_ltx, write_wan

# Family -> size of a latent clip.
FAMILIES = {
    "sprites": (1, 12, 8, 8, 8),
    "unet3d": (1, 4, 4, 8, 8),
    "unet3d_v": (1, 4, 4, 8, 8),
    "animatediff": (1, 4, tiny_animatediff.FRAMES, 8, 8),
    "wan": (1, 16, 3, 4, 4),
    "ltx": (1, 128, 3, 2, 2),
    "hunyuan": (1, 16, 3, 4, 4),
}
FLOW = ("wan", "ltx", "hunyuan")
UNETS = ("unet3d", "unet3d_v", "animatediff")


@dataclass
class Case:
    """A loaded model, a clip for it and conditioning, and the two nodes on them."""

    host: Any
    family: str
    model: Any
    clip: torch.Tensor
    positive: list

    @property
    def scheduler(self) -> str:
        """The host's scheduler whose levels the inversion climbs."""
        return "simple" if self.family in FLOW else "ddim_uniform"

    def invert(self, *, model: Any = None, **changes: Any) -> torch.Tensor:
        """Samples of Invert Clip; changes replace its inputs."""
        inputs = {"latent": {"samples": self.clip}, "positive": self.positive, "steps": 10, "refinements": 0} | changes
        (inverted,) = self.host.call("SMA_InvertClip", model=model or self.model, **inputs)
        return inverted["samples"]

    def noise(self, inverted: torch.Tensor, *, seed: int = 1, renormalise: bool = False, **method: Any) -> Any:
        """What Motion Noise gives for ``method="name"`` and its widgets."""
        inputs = {"inverted": {"samples": inverted}, "seed": seed, "method": method, "renormalise": renormalise}
        (noise,) = self.host.call("SMA_MotionNoise", **inputs)
        return noise

    def sample(self, noise: Any, steps: int, *, like: torch.Tensor | None = None) -> torch.Tensor:
        """SamplerCustomAdvanced over an empty latent: Euler without guidance, over the levels of ``steps``."""
        levels = {"scheduler": self.scheduler, "steps": steps, "denoise": 1.0}
        (sigmas,) = self.host.call("BasicScheduler", model=self.model, **levels)
        (guider,) = self.host.call("BasicGuider", model=self.model, conditioning=self.positive)
        (sampler,) = self.host.call("KSamplerSelect", sampler_name="euler")
        graph = {"guider": guider, "sampler": sampler, "sigmas": sigmas}
        empty = {"samples": torch.zeros_like(self.clip if like is None else like)}
        latent, _ = self.host.call("SamplerCustomAdvanced", noise=noise, latent_image=empty, **graph)
        return latent["samples"]


@pytest.fixture(scope="session")
def load(host, tmp_path_factory) -> Callable[[str], Case]:
    models = Path(host.base) / "models"
    generator = torch.Generator().manual_seed(3)

    def native(name: str) -> Any:
        (model,) = host.call("UNETLoader", unet_name=name, weight_dtype="default")
        return model

    def unet3d(prediction: str) -> Any:
        config, path = UNET | {"cross_attention_dim": 32}, tmp_path_factory.mktemp("unet3d") / "random.safetensors"
        save_file(random_weights(host.module("sma.networks.unet3d").build_unet3d(config)), path)
        load_model = host.module("nodes.host.text_to_video").load_model
        with torch.inference_mode():
            return load_model(path, config, SCHEDULER | {"prediction_type": prediction})

    def animatediff() -> Any:
        tiny_animatediff.write_folder(models, "tiny-sd15")
        name, _, _ = tiny_animatediff.write_motion_module(models, "v2", tiny_animatediff.WIDTHS)
        module = host.module("nodes.host.animatediff")
        with torch.inference_mode():
            return module.load_model(module.Folder("tiny-sd15"), name)

    def sprites() -> Any:
        with torch.inference_mode():
            return host.module("nodes.host.sprites").load_model()

    loaders = {
        "sprites": sprites,
        "unet3d": lambda: unet3d("epsilon"),
        "unet3d_v": lambda: unet3d("v_prediction"),
        "animatediff": animatediff,
        "wan": lambda: native(write_wan(models)[0]),
        "ltx": lambda: native(write_ltx(models)),
        "hunyuan": lambda: native(write_hunyuan(models)),
    }

    @functools.cache
    def load(family: str) -> Case:
        model = _tamed(loaders[family]()) if family in UNETS else loaders[family]()
        clip = torch.randn(FAMILIES[family], generator=generator)
        if family in FLOW:
            positive = stand_in_nodes.conditioning("", family)
        elif family == "animatediff":
            positive = tiny_animatediff.conditioning(5)
        elif family == "sprites":
            with torch.inference_mode():
                module = host.module("nodes.host.sprites")
                clip = module.SpritesVAE().encode(_drifting_square())
                (positive,) = host.call("CLIPTextEncode", clip=module.load_clip(), text="")
        else:
            positive = [[torch.randn(1, 5, 32, generator=generator), {}]]
        return Case(host, family, model, clip, positive)

    return load


def _tamed(model: Any) -> Any:
    """With a hundredth of its output. Random networks of this size bend so much that no number of steps leads back through them."""
    tamed = model.clone()
    weights = model.model_state_dict("diffusion_model.conv_out")
    tamed.add_patches({name: (torch.zeros_like(weight),) for name, weight in weights.items()}, 0.0, 0.01)
    return tamed


def _drifting_square() -> torch.Tensor:
    frames = torch.zeros(8, 16, 16, 3)
    for index in range(8):
        frames[index, 4:9, index + 1 : index + 6, 0] = 1.0
    return frames


@pytest.fixture(params=FAMILIES)
def case(request, load) -> Case:
    return load(request.param)
