"""Random-weight models of real families, small enough for a laptop, written as the files the host's own loaders read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def write_wan(models: Path, *, text_dim: int = 32, seed: int = 0) -> tuple[str, str]:
    """Writes a Wan 2.1 text-to-video network and its VAE under ``models``; returns the names UNETLoader and VAELoader take.

    text_dim 32 lets the sprites CLIP condition it. One attention head of 128 is the least the host's detection allows.
    """
    import comfy.ldm.wan.vae

    vae = comfy.ldm.wan.vae.WanVAE(
        dim=4,
        z_dim=16,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        attn_scales=[],
        temperal_downsample=[False, True, True],
    )
    generator = torch.Generator().manual_seed(seed)
    unet = _write_wan(models, "tiny_wan", "t2v", 16, text_dim, generator)
    _save(vae, models / "vae" / "tiny_wan_vae.safetensors", generator, {})
    return unet, "tiny_wan_vae.safetensors"


def write_wan_i2v(models: Path, version: str = "2.1", *, text_dim: int = 32, seed: int = 0) -> str:
    """Writes an image-to-video Wan network of version 2.1 or 2.2 under ``models``; returns the name UNETLoader takes.

    2.1 also reads the start image through CLIP: [B, L, 1280].
    """
    kind = {"2.1": "i2v", "2.2": "t2v"}[version]
    return _write_wan(models, f"tiny_wan{version}_i2v", kind, 36, text_dim, torch.Generator().manual_seed(seed))


def write_wan_5b(models: Path, *, text_dim: int = 32, seed: int = 0) -> str:
    """Writes a Wan 2.2 network for text and image to video, of 48 channels; returns the name UNETLoader takes."""
    generator = torch.Generator().manual_seed(seed)
    return _write_wan(models, "tiny_wan2.2_5b", "t2v", 48, text_dim, generator, outputs=48)


def write_wan_vace(models: Path, *, text_dim: int = 32, seed: int = 0) -> str:
    """Writes a Wan 2.1 VACE network under ``models``; returns the name UNETLoader takes."""
    from comfy.ldm.wan.model import VaceWanModel

    generator = torch.Generator().manual_seed(seed)
    branch = {"vace_layers": 2, "vace_in_dim": 96}
    return _write_wan(models, "tiny_wan_vace", "vace", 16, text_dim, generator, network=VaceWanModel, **branch)


def _write_wan(
    models: Path,
    name: str,
    kind: str,
    inputs: int,
    text_dim: int,
    generator: torch.Generator,
    outputs: int = 16,
    network: type[torch.nn.Module] | None = None,
    **parts: int,
) -> str:
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    network = (network or WanModel)(
        model_type=kind,
        dim=128,
        ffn_dim=64,
        num_heads=1,
        num_layers=2,
        in_dim=inputs,
        out_dim=outputs,
        text_dim=text_dim,
        operations=comfy.ops.disable_weight_init,
        device="cpu",
        dtype=torch.float32,
        **parts,
    )
    config = {"config": json.dumps({"transformer": {"text_dim": text_dim}})}
    path = models / "diffusion_models" / f"{name}.safetensors"
    _save(network, path, generator, config)
    return path.name


def write_ltx(models: Path, *, seed: int = 0) -> str:
    """Writes an LTX-Video network under ``models``; returns the name UNETLoader takes. Conditioned by [B, L, 32]."""
    import comfy.ops
    from comfy.ldm.lightricks.model import LTXVModel

    transformer = {
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "caption_channels": 32,
        "cross_attention_dim": 64,
    }
    network = LTXVModel(
        **transformer,
        num_layers=2,
        operations=comfy.ops.disable_weight_init,
        device="cpu",
        dtype=torch.float32,
    )
    config = {"config": json.dumps({"transformer": transformer})}
    path = models / "diffusion_models" / "tiny_ltx.safetensors"
    _save(network, path, torch.Generator().manual_seed(seed), config)
    return path.name


def write_hunyuan(models: Path, *, seed: int = 0) -> str:
    """Writes a HunyuanVideo network under ``models``; returns the name UNETLoader takes. Conditioned by [B, L, 32] and pooled [B, 768].

    Hidden size 128 is the least the host's detection allows.
    """
    import comfy.ops
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    network = HunyuanVideo(
        in_channels=16,
        out_channels=16,
        patch_size=[1, 2, 2],
        vec_in_dim=768,
        context_in_dim=32,
        hidden_size=128,
        mlp_ratio=4.0,
        num_heads=1,
        depth=1,
        depth_single_blocks=2,
        axes_dim=[16, 56, 56],
        theta=256,
        qkv_bias=True,
        guidance_embed=True,
        byt5=False,
        meanflow=False,
        use_cond_type_embedding=False,
        vision_in_dim=None,
        meanflow_sum=False,
        operations=comfy.ops.disable_weight_init,
        device="cpu",
        dtype=torch.float32,
    )
    path = models / "diffusion_models" / "tiny_hunyuan.safetensors"
    _save(network, path, torch.Generator().manual_seed(seed), {})
    return path.name


def write_ltx_vae(models: Path, *, seed: int = 0) -> str:
    """Writes an LTX-Video VAE (8n + 1 frames, sides of 32 pixels) under ``models``; returns the name VAELoader takes."""
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    config = {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "latent_channels": 128,
        "blocks": [["res_x", 1], *[["compress_all", 1]] * 3, ["res_x", 1]],
        "encoder_base_channels": 8,
        "decoder_base_channels": 8,
        "norm_layer": "pixel_norm",
        "patch_size": 4,
        "latent_log_var": "uniform",
        "causal_decoder": False,
    }
    path = models / "vae" / "tiny_ltx_vae.safetensors"
    network = VideoVAE(config=config)
    network.per_channel_statistics.get_buffer("std-of-means").fill_(1.0)
    network.per_channel_statistics.get_buffer("mean-of-means").fill_(0.0)
    kept = {name: value for name, value in network.state_dict().items() if name.startswith("per_channel_statistics")}
    _save(network, path, torch.Generator().manual_seed(seed), {"config": json.dumps({"vae": config})}, kept)
    return path.name


def write_hunyuan_vae(models: Path, *, seed: int = 0) -> str:
    """Writes a video VAE for HunyuanVideo (4n + 1 frames) under ``models``; returns the name VAELoader takes.

    The host builds HunyuanVideo's own VAE at its full 1 GB. This is the small one for previews, which it takes in that place too, and
    knows for HunyuanVideo's by the half precision of its weights.
    """
    from comfy.taesd.taehv import TAEHV

    path = models / "vae" / "tiny_hunyuan_vae.safetensors"
    _save(TAEHV(latent_channels=16).half(), path, torch.Generator().manual_seed(seed), {})
    return path.name


def write_quantised(source: Path, layout: str) -> str:
    """Writes a copy of a network file whose blocks' linear weights are ``"float8_e4m3fn"`` or ``"int8_tensorwise"`` with scales."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    with safe_open(source, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    description = torch.tensor(list(json.dumps({"format": layout}).encode()), dtype=torch.uint8)
    for name in [name for name, tensor in tensors.items() if "blocks." in name and name.endswith("weight")]:
        if tensors[name].ndim != 2:
            continue
        quantised = QuantizedTensor.from_float(tensors[name], QUANT_ALGOS[layout]["comfy_tensor_layout"])
        tensors[name] = quantised._qdata.contiguous()
        tensors[f"{name}_scale"] = quantised._params.scale.clone()
        tensors[name.removesuffix("weight") + "comfy_quant"] = description.clone()
    path = source.with_name(f"{source.stem}_{layout}.safetensors")
    save_file(tensors, path, metadata)
    return path.name


def _save(
    network: torch.nn.Module,
    path: Path,
    generator: torch.Generator,
    metadata: dict[str, str],
    kept: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> None:
    """Fills a network but for what is to be kept with seeded random weights that keep activations of order 1, and saves it."""
    tensors = {}
    for name, tensor in network.state_dict().items():
        if name in kept:
            tensors[name] = kept[name]
        elif tensor.ndim >= 2 and "modulation" not in name:
            fan_in = tensor[0].numel()
            tensors[name] = torch.randn(tensor.shape, generator=generator) / fan_in**0.5
        elif name.endswith(("gamma", "weight")):
            tensors[name] = torch.ones(tensor.shape)
        else:
            tensors[name] = torch.randn(tensor.shape, generator=generator) * 0.02
    path.parent.mkdir(parents=True, exist_ok=True)
    dtypes = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    save_file({name: tensor.to(dtypes[name]).contiguous() for name, tensor in tensors.items()}, path, metadata)
