"""The levels of a UNet3D: residual blocks, convolutions over time and transformers.

Module names are those of the published weights. Nothing overwrites its input, so that a host may run any part again in backward.
Videos pass as [B*F, C, H, W], frames of one video in a row; ``frames`` is F. Where training had dropout, an identity keeps its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .unet3d_transformers import SpatialTransformer, TemporalTransformer

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}


@dataclass(frozen=True)
class Shared:
    """What all levels of a network have in common.

    Attributes:
        embedding: width of the timestep's embedding.
        context: width of the text's tokens.
        head: width of every attention head.
        groups, eps: of the group norms.
        activation: its name in ACTIVATIONS.
    """

    embedding: int
    context: int
    head: int
    groups: int
    eps: float
    activation: str


class TimestepEmbedding(nn.Module):
    """Two layers over a number's sinusoids [B, width] -> [B, out]; a guidance embedding [B, condition] may be added to them."""

    def __init__(self, width: int, out: int, activation: str, condition: int | None = None) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, out)
        if condition is not None:
            self.cond_proj = nn.Linear(condition, width, bias=False)
        self.act = ACTIVATIONS[activation]()
        self.linear_2 = nn.Linear(out, out)

    def forward(self, sinusoids: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is not None:
            sinusoids = sinusoids + self.cond_proj(condition)
        return self.linear_2(self.act(self.linear_1(sinusoids)))


class ResnetBlock(nn.Module):
    """Two convolutions over space that see the timestep, and a shortcut around them."""

    def __init__(self, channels: int, out: int, shared: Shared, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.norm1 = nn.GroupNorm(shared.groups, channels, eps=shared.eps)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(shared.embedding, out)
        self.norm2 = nn.GroupNorm(shared.groups, out, eps=shared.eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.nonlinearity = ACTIVATIONS[shared.activation]()
        self.conv_shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(self.nonlinearity(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(self.nonlinearity(embedding))[:, :, None, None]
        hidden = self.conv2(self.nonlinearity(self.norm2(hidden)))
        return (self.conv_shortcut(x) + hidden) / self.scale


class TemporalConvolution(nn.Module):
    """Four convolutions over three frames each, added to what came in; a new one changes nothing."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        for number in range(1, 5):
            parts: list[nn.Module] = [nn.GroupNorm(groups, channels), nn.SiLU()]
            if number > 1:
                parts.append(nn.Identity())
            parts.append(nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0)))
            self.add_module(f"conv{number}", nn.Sequential(*parts))
        nn.init.zeros_(self.conv4[-1].weight)
        nn.init.zeros_(self.conv4[-1].bias)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        video = x.unflatten(0, (-1, frames)).transpose(1, 2)  # [B, C, F, H, W]
        hidden = self.conv4(self.conv3(self.conv2(self.conv1(video))))
        return (video + hidden).transpose(1, 2).flatten(0, 1)


class Downsample(nn.Module):
    """Halves height and width, rounded up (down without padding)."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Repeats pixels up to a height and width, then convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))


class _Level(nn.Module):
    """Residual blocks of one resolution, each followed by a convolution over time and, where the level attends, by transformers."""

    def __init__(self, inputs: Sequence[int], width: int, shared: Shared, attends: bool) -> None:
        super().__init__()
        self.attends = attends
        self.resnets, self.temp_convs = nn.ModuleList(), nn.ModuleList()
        if attends:
            self.attentions, self.temp_attentions = nn.ModuleList(), nn.ModuleList()
        for channels in inputs:
            self.resnets.append(ResnetBlock(channels, width, shared))
            self.temp_convs.append(TemporalConvolution(width, shared.groups))
            if attends:
                self.attentions.append(SpatialTransformer(width, shared.head, shared.groups, shared.context))
                heads = width // shared.head
                self.temp_attentions.append(TemporalTransformer(width, heads, shared.head, shared.groups))

    def layer(self, index: int, x: Tensor, embedding: Tensor, context: Tensor, frames: int) -> Tensor:
        x = self.temp_convs[index](self.resnets[index](x, embedding), frames)
        if self.attends:
            x = self.temp_attentions[index](self.attentions[index](x, context), frames)
        return x


class DownBlock(_Level):
    """A level on the way down; padding: of the convolution that halves it, None for the last level, which is not halved."""

    def __init__(
        self, inputs: Sequence[int], width: int, shared: Shared, attends: bool, padding: int | None = None
    ) -> None:
        super().__init__(inputs, width, shared, attends)
        self.downsamplers = nn.ModuleList([] if padding is None else [Downsample(width, padding)])

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, frames: int) -> tuple[Tensor, list[Tensor]]:
        """What leaves the level, and all it hands over to the way up."""
        skips = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, embedding, context, frames)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Module):
    """The lowest resolution: a transformer of either kind between two residual blocks."""

    def __init__(self, width: int, shared: Shared, scale: float) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(width, width, shared, scale)])
        self.temp_convs = nn.ModuleList([TemporalConvolution(width, shared.groups)])
        self.attentions = nn.ModuleList([SpatialTransformer(width, shared.head, shared.groups, shared.context)])
        heads = width // shared.head
        self.temp_attentions = nn.ModuleList([TemporalTransformer(width, heads, shared.head, shared.groups)])
        self.resnets.append(ResnetBlock(width, width, shared, scale))
        self.temp_convs.append(TemporalConvolution(width, shared.groups))

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, frames: int) -> Tensor:
        x = self.temp_convs[0](self.resnets[0](x, embedding), frames)
        x = self.temp_attentions[0](self.attentions[0](x, context), frames)
        return self.temp_convs[1](self.resnets[1](x, embedding), frames)


class UpBlock(_Level):
    """A level on the way up; doubles: it ends in a doubled resolution."""

    def __init__(self, inputs: Sequence[int], width: int, shared: Shared, attends: bool, doubles: bool) -> None:
        super().__init__(inputs, width, shared, attends)
        self.upsamplers = nn.ModuleList([Upsample(width)] if doubles else [])

    def forward(
        self,
        x: Tensor,
        skips: Sequence[Tensor],
        embedding: Tensor,
        context: Tensor,
        frames: int,
        size: Sequence[int] | None,
    ) -> Tensor:
        """skips: what the way down handed over, the last first; size: height and width it ends in, None where it does not double."""
        for index, skip in enumerate(skips):
            x = self.layer(index, torch.cat([x, skip], dim=1), embedding, context, frames)
        for upsampler in self.upsamplers:
            x = upsampler(x, size)
        return x
