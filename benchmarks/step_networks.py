"""Backbones of the step benchmark: their sizes, and networks of those sizes with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """How large a network and its clip are.

    Attributes:
        pixels: what the latent stands for, frames x height x width.
        latent: channels, frames, height, width.
        context: tokens and width of the text embedding.
        network: arguments of the network's class; what is not named has the class's default, which is the real size.
        rank: of the LoRA.
        note: how it differs from the real size, "" where it does not.
    """

    pixels: str
    latent: tuple[int, int, int, int]
    context: tuple[int, int]
    network: dict[str, Any]
    rank: int = 32
    note: str = ""


SIZES: dict[str, dict[str, Size]] = {
    "zeroscope": {
        "real": Size("16x320x576", (4, 16, 40, 72), (77, 1024), {}),
        "reduced": Size(
            "16x128x192",
            (4, 16, 16, 24),
            (77, 1024),
            {"block_out_channels": [80, 160, 320, 320], "attention_head_dim": 16, "norm_num_groups": 16},
            8,
            "a quarter of the channels and of the rank, 13 % of the pixels",
        ),
        "toy": Size(
            "4x64x64",
            (4, 4, 8, 8),
            (8, 32),
            {
                "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
                "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
                "block_out_channels": [32, 64],
                "layers_per_block": 1,
                "cross_attention_dim": 32,
                "attention_head_dim": 16,
                "norm_num_groups": 8,
            },
            4,
            "for tests only",
        ),
    },
    "animatediff": {
        # The v3 motion module on SD 1.5.
        "real": Size(
            "16x320x576", (4, 16, 40, 72), (77, 768), {"cross_attention_dim": 768, "use_motion_mid_block": False}
        ),
        "reduced": Size(
            "16x128x192",
            (4, 16, 16, 24),
            (77, 768),
            {
                "cross_attention_dim": 768,
                "use_motion_mid_block": False,
                "block_out_channels": [80, 160, 320, 320],
                "norm_num_groups": 16,
            },
            8,
            "a quarter of the channels and of the rank, 13 % of the pixels",
        ),
        "toy": Size(
            "4x64x64",
            (4, 4, 8, 8),
            (8, 32),
            {
                "down_block_types": ["CrossAttnDownBlockMotion", "DownBlockMotion"],
                "up_block_types": ["UpBlockMotion", "CrossAttnUpBlockMotion"],
                "block_out_channels": [32, 64],
                "layers_per_block": 1,
                "cross_attention_dim": 32,
                "use_motion_mid_block": False,
                "norm_num_groups": 8,
            },
            4,
            "for tests only",
        ),
    },
    "wan1.3b": {
        "real": Size(
            "33x480x832",
            (16, 9, 60, 104),
            (512, 4096),
            {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30},
        ),
        "reduced": Size(
            "9x160x288",
            (16, 3, 20, 36),
            (128, 4096),
            {"dim": 384, "ffn_dim": 2240, "num_heads": 3, "num_layers": 30},
            8,
            "a quarter of the channels and of the rank, 4 % of the tokens",
        ),
        "toy": Size(
            "5x64x64",
            (16, 2, 8, 8),
            (8, 32),
            {"dim": 128, "ffn_dim": 64, "num_heads": 1, "num_layers": 2, "text_dim": 32},
            4,
            "for tests only",
        ),
    },
}

_DIFFUSERS = {"zeroscope": diffusers.UNet3DConditionModel, "animatediff": diffusers.UNetMotionModel}


def diffusers_network(backbone: str, size: Size, device: torch.device | str) -> nn.Module:
    """diffusers' own network of this size, as its class initialises it."""
    with torch.device(device):
        return _DIFFUSERS[backbone].from_config(size.network)


def random_weights(
    network: nn.Module, dtype: torch.dtype, device: torch.device | str, *, seed: int = 0
) -> dict[str, Tensor]:
    """Random values for every parameter of a network, drawn on a device, that keep activations of order 1."""
    generator = torch.Generator(device).manual_seed(seed)
    weights = {}
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2 and "modulation" not in name:
            values = torch.empty(parameter.shape, dtype=dtype, device=device)
            weights[name] = values.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        elif name.endswith("weight"):
            weights[name] = torch.ones(parameter.shape, dtype=dtype, device=device)
        else:
            values = torch.empty(parameter.shape, dtype=dtype, device=device)
            weights[name] = values.normal_(std=0.02, generator=generator)
    return weights


def clip_and_context(size: Size) -> tuple[Tensor, Tensor]:
    """A random clean latent [1, C, F, H, W] and text embedding [1, L, D], float32 on the CPU."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, *size.latent, generator=generator), torch.randn(1, *size.context, generator=generator)
