"""Random-weight models of real families, small enough for a laptop, written as the files the host's own loaders read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_wan(models: Path, *, text_dim: int = 32, seed: int = 0) -> tuple[str, str]:
    """Writes a Wan 2.1 text-to-video network and its VAE under ``models``; returns the names UNETLoader and VAELoader take.

    text_dim 32 lets the sprites CLIP condition it. One attention head of 128 is the least the host's detection allows.
    """
    import comfy.ldm.wan.vae
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    network = WanModel(
        model_type="t2v",
        dim=128,
        ffn_dim=64,
        num_heads=1,
        num_layers=2,
        in_dim=16,
        out_dim=16,
        text_dim=text_dim,
        operations=comfy.ops.disable_weight_init,
        device="cpu",
        dtype=torch.float32,
    )
    vae = comfy.ldm.wan.vae.WanVAE(
        dim=4,
        z_dim=16,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        attn_scales=[],
        temperal_downsample=[False, True, True],
    )
    generator = torch.Generator().manual_seed(seed)
    config = {"config": json.dumps({"transformer": {"text_dim": text_dim}})}
    _save(network, models / "diffusion_models" / "tiny_wan.safetensors", generator, config)
    _save(vae, models / "vae" / "tiny_wan_vae.safetensors", generator, {})
    return "tiny_wan.safetensors", "tiny_wan_vae.safetensors"


def _save(network: torch.nn.Module, path: Path, generator: torch.Generator, metadata: dict[str, str]) -> None:
    """Fills a network with seeded random weights that keep activations of order 1, and saves it."""
    tensors = {}
    for name, tensor in network.state_dict().items():
        if tensor.ndim >= 2 and "modulation" not in name:
            fan_in = tensor[0].numel()
            tensors[name] = torch.randn(tensor.shape, generator=generator) / fan_in**0.5
        elif name.endswith(("gamma", "weight")):
            tensors[name] = torch.ones(tensor.shape)
        else:
            tensors[name] = torch.randn(tensor.shape, generator=generator) * 0.02
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
