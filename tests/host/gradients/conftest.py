"""Tiny random models of six kinds in several weight formats, and one fixed loss of an adapter on them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from descent import slopes
from safetensors.torch import save_file
from tiny_diffusers import SCHEDULER, UNET, random_weights
from tiny_models import (
    write_hunyuan,
    write_ltx,
    write_quantised,
    write_wan,
    write_wan_5b,
    write_wan_i2v,
    write_wan_vace,
)

# Family -> layers that are adapted, latent size.
FAMILIES = {
    "wan": (r"blocks\.\d+\.(self|cross)_attn\.[qkvo]", (1, 16, 3, 4, 4)),
    "wan_5b": (r"blocks\.\d+\.(self|cross)_attn\.[qkvo]", (1, 48, 3, 4, 4)),
    "wan_i2v": (r"blocks\.\d+\.(self|cross)_attn\.(q|k|v|o|k_img|v_img)", (1, 16, 3, 4, 4)),
    "wan_vace": (r"(vace_)?blocks\.\d+\.self_attn\.[qkvo]", (1, 16, 3, 4, 4)),
    "ltx": (r"transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)", (1, 128, 3, 2, 2)),
    "hunyuan": (r"double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)|single_blocks\.\d+\.linear[12]", (1, 16, 3, 4, 4)),
    "sprites": (r".*temp_(attentions|convs)\..*(to_[qkv]|conv1\.\d+)", (1, 12, 8, 8, 8)),
    "unet3d": (r"(.*temp_(attentions|convs)|transformer_in)\..*(to_[qkv]|conv1\.\d+)", (1, 4, 4, 8, 8)),
}

UNETS = ("sprites", "unet3d")


@dataclass
class Case:
    """A loaded model and a way to compute a loss with an adapter on it."""

    host: Any
    family: str
    model: Any
    checkpoint: bool = True

    def without_checkpoints(self) -> Case:
        return replace(self, checkpoint=False)

    def inside(self, job: Callable[[Any], Any], *, model: Any = None, noise_mask: torch.Tensor | None = None) -> Any:
        """What ``job(denoiser)`` returns when it is run as training is."""
        with torch.inference_mode():
            run, (latent, positive) = self.host.module("nodes.host.training").run_in_training, self.inputs()
            how = {"seed": 0, "noise_mask": noise_mask, "checkpoint": self.checkpoint}
            return run(model or self.model, latent, positive, job, **how)

    def inputs(self) -> tuple[torch.Tensor, list]:
        """A latent, and conditioning with what the family needs."""
        generator = torch.Generator().manual_seed(3)
        with torch.inference_mode():
            latent = torch.randn(FAMILIES[self.family][1], generator=generator)
            text, pooled = torch.randn(1, 5, 32, generator=generator), torch.randn(1, 768, generator=generator)
            extra = {"pooled_output": pooled, "attention_mask": torch.ones(1, 5, dtype=torch.long)}
            if self.family == "wan_i2v":
                extra["concat_latent_image"] = torch.randn(latent.shape, generator=generator)
                extra["concat_mask"] = torch.ones(1, 1, *latent.shape[2:])
                extra["concat_mask"][:, :, :1] = 0
                pictures = torch.randn(1, 7, 1280, generator=generator)
                extra["clip_vision_output"] = SimpleNamespace(penultimate_hidden_states=pictures)
            return latent, [[text, {} if self.family in UNETS else extra]]

    def adapter(self, denoiser: Any, *, layers: str | None = None, dropout: float = 0.0) -> Any:
        """An adapter at a point where every value has a gradient."""
        names = self.host.module("sma.roles").matching(denoiser.network, layers or FAMILIES[self.family][0])
        generator = torch.Generator().manual_seed(5)
        attach = self.host.module("sma.lora").attach
        adapter = attach(denoiser.network, names, rank=2, alpha=2, dropout=dropout, generator=generator)
        with torch.no_grad():
            for name, value in adapter.named_parameters():
                if name.endswith(".up"):
                    value.normal_(std=0.1, generator=generator)
        return adapter

    def x0_hat(self, denoiser: Any) -> torch.Tensor:
        x = torch.randn(denoiser.clip.shape, generator=torch.Generator().manual_seed(7))
        return denoiser.denoise(x, torch.full((1,), denoiser.sigma_at(0.6)))

    def loss(self, denoiser: Any) -> torch.Tensor:
        target = torch.randn(denoiser.clip.shape, generator=torch.Generator().manual_seed(8))
        return (self.x0_hat(denoiser).double() - target).square().mean()

    def loss_and_gradient(self, *, model: Any = None, **adapter: Any) -> tuple[float, torch.Tensor]:
        """The loss, and its gradient to all values of the adapter in one row."""

        def job(denoiser):
            worn = self.adapter(denoiser, **adapter).train()
            loss = self.loss(denoiser)
            loss.backward()
            worn.detach()
            return loss.item(), torch.cat([value.grad.flatten() for value in worn.parameters()])

        return self.inside(job, model=model)

    def slopes(self, *, model: Any = None) -> tuple[float, float]:
        """The loss's slope along its gradient: by backward, and by central finite differences."""

        def job(denoiser):
            adapter = self.adapter(denoiser)
            self.loss(denoiser).backward()
            found = slopes(adapter.parameters(), lambda: self.loss(denoiser))
            adapter.detach()
            return found

        return self.inside(job, model=model)


@pytest.fixture(scope="session")
def load(host, tmp_path_factory) -> Callable[..., Case]:
    """load(family, storage) -> Case; storage is float32, bfloat16, float8 (raw) or a format of the host's quantised weights."""
    folder = Path(host.base) / "models" / "diffusion_models"

    @functools.cache
    def load(family: str, storage: str = "float32") -> Case:
        import comfy.quant_ops
        import comfy.sd

        if storage in ("float8_e4m3fn", "int8_tensorwise") and storage not in comfy.quant_ops.QUANT_ALGOS:
            pytest.skip(f"this host has no {storage} weights")
        if family == "sprites":
            module = host.module("sma.sprites.model")
            torch.manual_seed(0)
            path = tmp_path_factory.mktemp("weights") / "random.safetensors"
            module.save(module.SpritesModel(), path)
            with torch.inference_mode():
                return Case(host, family, host.module("nodes.host.sprites").load_model(path))
        if family == "unet3d":
            config, path = UNET | {"cross_attention_dim": 32}, tmp_path_factory.mktemp("unet3d") / "random.safetensors"
            build = host.module("sma.networks.unet3d").build_unet3d
            save_file(random_weights(build(config)), path)
            with torch.inference_mode():
                return Case(host, family, host.module("nodes.host.text_to_video").load_model(path, config, SCHEDULER))
        write = {
            "wan": lambda models: write_wan(models)[0],
            "wan_i2v": write_wan_i2v,
            "wan_5b": write_wan_5b,
            "wan_vace": write_wan_vace,
            "ltx": write_ltx,
            "hunyuan": write_hunyuan,
        }
        name, dtype = write[family](folder.parent), "default"
        if storage == "bfloat16":
            with torch.inference_mode():
                options = {"dtype": torch.bfloat16}
                return Case(host, family, comfy.sd.load_diffusion_model(str(folder / name), model_options=options))
        if storage == "float8":
            dtype = "fp8_e4m3fn"
        elif storage != "float32":
            name = write_quantised(folder / name, storage)
        (model,) = host.call("UNETLoader", unet_name=name, weight_dtype=dtype)
        return Case(host, family, model)

    return load
