"""A random SD 1.5 in both file formats and motion modules for it, small where the host's detection allows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_diffusers import SCHEDULER, VAE, random_weights
from torch import Tensor, nn

# What makes an SD 1.5 is that its text has 768 channels and its attention 8 heads; widths are free in a diffusers folder.
UNET2D = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
WIDTHS = UNET2D["block_out_channels"]
# The host recognises a single file by its 320 channels; the number of levels is free.
LDM = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 8,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "legacy": False,
}
FRAMES = 5  # of a video in the tests
# Position tables and mid block of the published modules.
LAYOUTS = {"v1": (24, False), "v2": (32, True), "v3": (32, False)}


def adapter_config(layout: str, widths: list[int]) -> dict[str, Any]:
    frames, mid = LAYOUTS[layout]
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": widths,
        "motion_layers_per_block": 1,
        "motion_max_seq_length": frames,
        "use_motion_mid_block": mid,
    }


def motion_weights(network: nn.Module, *, still: bool = False) -> dict[str, Tensor]:
    """Random weights of a motion module, position tables as they are. ``still``: one that adds nothing."""
    weights = random_weights(network, 2)
    for name, tensor in network.state_dict().items():
        if name.endswith("pe"):
            weights[name] = tensor
        elif still and "proj_out" in name:
            weights[name] = torch.zeros_like(tensor)
    return weights


def in_original_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A MotionAdapter's weights as the original repository names them."""
    original = {}
    for name, tensor in weights.items():
        *outer, module, rest = name.partition("motion_modules.")[0], *name.partition("motion_modules.")[2].split(".", 1)
        for ours, theirs in (
            ("attn1.", "attention_blocks.0."),
            ("attn2.", "attention_blocks.1."),
            ("norm1.", "norms.0."),
            ("norm2.", "norms.1."),
            ("norm3.", "ff_norm."),
            ("pos_embed.", "attention_blocks.0.pos_encoder."),
        ):
            rest = rest.replace(ours, theirs)
        path = f"{outer[0]}motion_modules.{module}.temporal_transformer.{rest}"
        original[path] = tensor
        if "pos_encoder" in path:
            original[path.replace("attention_blocks.0", "attention_blocks.1")] = tensor.clone()
    return original


def write_motion_module(
    models: Path, layout: str, widths: list[int], *, still: bool = False, pickled: bool = False
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Writes a motion module as the original repository does; returns its name in the list, its config and diffusers weights."""
    from diffusers import MotionAdapter

    config = adapter_config(layout, widths)
    weights = motion_weights(MotionAdapter.from_config(dict(config)), still=still)
    kind = "still" if still else "random"
    path = models / "animatediff_models" / f"tiny_{layout}_{widths[-1]}_{kind}{'.ckpt' if pickled else '.safetensors'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if pickled:
        torch.save({"state_dict": {f"module.{k}": v for k, v in in_original_names(weights).items()}, "epoch": 1}, path)
    else:
        save_file(in_original_names(weights), path)
    return path.name, config, weights


def write_adapter(models: Path, layout: str, widths: list[int]) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Writes the same motion module as a MotionAdapter folder; returns the same."""
    from diffusers import MotionAdapter

    config = adapter_config(layout, widths)
    weights = motion_weights(MotionAdapter.from_config(dict(config)))
    folder = models / "diffusers" / f"motion-adapter-{layout}"
    _component(folder, config, weights)
    return f"diffusers/{folder.name}", config, weights


def write_folder(
    models: Path, name: str, config: Mapping[str, Any] = UNET2D, weights: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Writes the UNet and the scheduler of an SD 1.5 folder, enough for a MODEL; returns config and weights."""
    from diffusers import UNet2DConditionModel

    folder = models / "diffusers" / name
    weights = weights or random_weights(UNet2DConditionModel.from_config(dict(config)), 1)
    _component(folder / "unet", config, weights)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    _json(folder / "model_index.json", index)
    _json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    return dict(config), dict(weights)


def write_text_encoder_and_vae(models: Path, name: str) -> None:
    """Completes a folder: a CLIP-L as large as it is, in half precision, and a narrow VAE."""
    from diffusers import AutoencoderKL

    folder = models / "diffusers" / name
    _component(folder / "text_encoder", {}, _clip_l("text_model."), stem="model")
    _component(folder / "vae", VAE, random_weights(AutoencoderKL.from_config(VAE), 4))


def write_checkpoint(models: Path, name: str = "tiny_sd15.safetensors", *, whole: bool = True, **layout: Any) -> dict:
    """Writes an SD 1.5 as one file in latent diffusion's naming, half precision; returns its UNet's weights.

    whole: with text encoder and VAE, which have one size only. layout: what differs from ``LDM``.
    """
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    arguments = {k: list(v) if isinstance(v, list) else v for k, v in (LDM | layout).items()}
    network = UNetModel(
        image_size=32, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init, **arguments
    )
    unet = {name: tensor.half() for name, tensor in random_weights(network, 1).items()}
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.items()}
    if whole:
        ddconfig = {
            "z_channels": 4,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 128,
            "ch_mult": [1, 2, 4, 4],
        }
        ddconfig |= {"double_z": True, "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
        with torch.device("meta"):
            vae = AutoencoderKL(ddconfig=ddconfig, embed_dim=4)
        tensors |= {f"first_stage_model.{name}": tensor for name, tensor in _tiled(vae.state_dict()).items()}
        tensors |= _clip_l("cond_stage_model.transformer.text_model.")
    path = models / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return unet


def _clip_l(prefix: str) -> dict[str, Tensor]:
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
    weights = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    return {f"{prefix}{name}": tensor for name, tensor in _tiled(weights).items()}


def _tiled(like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half-precision weights of the given shapes, made of one short random row: large networks in no time."""
    row = torch.randn(100_003, generator=torch.Generator().manual_seed(3))
    weights = {}
    for name, tensor in like.items():
        if tensor.ndim < 2:
            weights[name] = torch.full(tensor.shape, float(name.endswith("weight")), dtype=torch.float16)
            continue
        scaled = (row / tensor[0].numel() ** 0.5).half()
        weights[name] = scaled.repeat(tensor.numel() // len(row) + 1)[: tensor.numel()].view(tensor.shape)
    return weights


def _component(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], stem: str = "") -> None:
    _json(folder / "config.json", config)
    save_file(dict(weights), folder / f"{stem or 'diffusion_pytorch_model'}.safetensors")


def _json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(content)), encoding="utf-8")


def video(seed: int, frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(1, 4, frames, 8, 8, generator=torch.Generator().manual_seed(seed))


def text(seed: int) -> torch.Tensor:
    return torch.randn(1, 7, 768, generator=torch.Generator().manual_seed(seed))


def conditioning(seed: int) -> list:
    return [[text(seed), {}]]


def ksampler(host: Any, model: Any, latent: torch.Tensor, **changes: Any) -> torch.Tensor:
    inputs = {"seed": 3, "steps": 10, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1.0}
    inputs |= {"positive": conditioning(1), "negative": conditioning(2), "latent_image": {"samples": latent}}
    return host.call("KSampler", model=model, **inputs | changes)[0]["samples"]
