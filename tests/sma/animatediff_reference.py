"""AnimateDiff in plain torch, written from the original's description: frames folded into the batch, weights by diffusers' names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Part:
    """The weights below a name."""

    def __init__(self, weights: Mapping[str, Tensor], name: str = "") -> None:
        self.weights, self.name = weights, name

    def __getitem__(self, child: str | int) -> Part:
        return Part(self.weights, f"{self.name}{child}.")

    def __contains__(self, child: str) -> bool:
        return any(key.startswith(f"{self.name}{child}.") for key in self.weights)

    def __len__(self) -> int:
        return len({key[len(self.name) :].split(".")[0] for key in self.weights if key.startswith(self.name)})

    @property
    def pair(self) -> tuple[Tensor, Tensor | None]:
        return self.weights[f"{self.name}weight"], self.weights.get(f"{self.name}bias")

    def linear(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.pair)

    def conv(self, x: Tensor, **how: Any) -> Tensor:
        return F.conv2d(x, *self.pair, **how)

    def layer_norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self.pair)


class Reference:
    """groups: of the norms. heads, motion_heads: of the attention in space and over frames.

    together: the lists of modules whose norms take all frames of a video together.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], *, groups: int, heads: int, motion_heads: int, together=()
    ) -> None:
        self.weights, self.groups, self.together = weights, groups, together
        self.heads, self.motion_heads = heads, motion_heads

    def __call__(self, video: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """video [B, 4, F, H, W], t [B], text [B*F, L, D] -> [B, 4, F, H, W]."""
        net, self.frames = Part(self.weights), video.shape[2]
        x = net["conv_in"].conv(video.transpose(1, 2).flatten(0, 1), padding=1)
        half = x.shape[1] // 2
        angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        time = net["time_embedding"]
        time = time["linear_2"].linear(F.silu(time["linear_1"].linear(torch.cat([angles.cos(), angles.sin()], 1))))
        time = time.repeat_interleave(self.frames, 0)
        skips = [x]
        for level in range(len(net["down_blocks"])):
            block = net["down_blocks"][level]
            for layer in range(len(block["resnets"])):
                x = self.layer(block, layer, x, time, text)
                skips.append(x)
            if "downsamplers" in block:
                x = block["downsamplers"][0]["conv"].conv(x, stride=2, padding=1)
                skips.append(x)
        x = self.layer(net["mid_block"], 0, x, time, text)
        x = self.resnet(net["mid_block"]["resnets"][1], x, time)
        for level in range(len(net["up_blocks"])):
            block = net["up_blocks"][level]
            for layer in range(len(block["resnets"])):
                x = self.layer(block, layer, torch.cat([x, skips.pop()], 1), time, text)
            if "upsamplers" in block:
                x = block["upsamplers"][0]["conv"].conv(F.interpolate(x, scale_factor=2.0), padding=1)
        x = F.silu(self.norm("resnets", net["conv_norm_out"], x, 1e-5))
        return net["conv_out"].conv(x, padding=1).unflatten(0, (-1, self.frames)).transpose(1, 2)

    def layer(self, block: Part, layer: int, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        x = self.resnet(block["resnets"][layer], x, time)
        if "attentions" in block:
            x = self.image_transformer(block["attentions"][layer], x, text)
        if "motion_modules" in block:
            x = self.motion_module(block["motion_modules"][layer], x)
        return x

    def norm(self, kind: str, part: Part, x: Tensor, eps: float) -> Tensor:
        """Mean and variance of every group of channels, of one frame or of all."""
        over = self.frames if kind in self.together else 1
        grouped = x.unflatten(1, (self.groups, -1)).unflatten(0, (-1, over))
        variance, mean = torch.var_mean(grouped, (1, 3, 4, 5), correction=0, keepdim=True)
        weight, bias = part.pair
        return ((grouped - mean) / (variance + eps).sqrt()).flatten(0, 1).flatten(1, 2) * weight[:, None, None] + bias[
            :, None, None
        ]

    def resnet(self, part: Part, x: Tensor, time: Tensor) -> Tensor:
        y = part["conv1"].conv(F.silu(self.norm("resnets", part["norm1"], x, 1e-5)), padding=1)
        y = y + part["time_emb_proj"].linear(F.silu(time))[:, :, None, None]
        y = part["conv2"].conv(F.silu(self.norm("resnets", part["norm2"], y, 1e-5)), padding=1)
        return (part["conv_shortcut"].conv(x) if "conv_shortcut" in part else x) + y

    def image_transformer(self, part: Part, x: Tensor, text: Tensor) -> Tensor:
        y = part["proj_in"].conv(self.norm("attentions", part["norm"], x, 1e-6)).flatten(2).transpose(1, 2)
        block = part["transformer_blocks"][0]
        y = y + attention(block["attn1"], block["norm1"].layer_norm(y), self.heads)
        y = y + attention(block["attn2"], block["norm2"].layer_norm(y), self.heads, text)
        y = y + feed_forward(block["ff"], block["norm3"].layer_norm(y))
        return x + part["proj_out"].conv(y.transpose(1, 2).unflatten(2, x.shape[2:]))

    def motion_module(self, part: Part, x: Tensor) -> Tensor:
        """The original's temporal transformer: x [B*F, C, H, W], tokens of one place attend over its frames."""
        (_, channels, height, width), frames = x.shape, self.frames
        y = self.norm("motion_modules", part["norm"], x, 1e-6).permute(0, 2, 3, 1)
        y = part["proj_in"].linear(y).unflatten(0, (-1, frames)).permute(0, 2, 3, 1, 4).reshape(-1, frames, channels)
        places = torch.arange(frames)[:, None] / 10000 ** (torch.arange(0, channels, 2) / channels)
        table = torch.stack([places.sin(), places.cos()], -1).flatten(1).to(y)
        block = part["transformer_blocks"][0]
        y = y + attention(block["attn1"], block["norm1"].layer_norm(y) + table, self.motion_heads)
        y = y + attention(block["attn2"], block["norm2"].layer_norm(y) + table, self.motion_heads)
        y = y + feed_forward(block["ff"], block["norm3"].layer_norm(y))
        y = part["proj_out"].linear(y).reshape(-1, height, width, frames, channels)
        return x + y.permute(0, 3, 4, 1, 2).reshape(x.shape)


def attention(part: Part, x: Tensor, heads: int, context: Tensor | None = None) -> Tensor:
    context = x if context is None else context
    q, k, v = (
        part[name].linear(tokens).unflatten(-1, (heads, -1)).transpose(1, 2)
        for name, tokens in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return part["to_out.0"].linear((weights @ v).transpose(1, 2).flatten(2))


def feed_forward(part: Part, x: Tensor) -> Tensor:
    value, gate = part["net.0.proj"].linear(x).chunk(2, -1)
    return part["net.2"].linear(value * F.gelu(gate))
