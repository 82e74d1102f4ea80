"""The UNet3D of ModelScope, ZeroScope, VideoCrafter2 and the sprites model, as a module a host can load and place.

It is the network that diffusers calls UNet3DConditionModel: the same config, state-dict keys and numbers, without diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import shown
from .unet3d_blocks import ACTIVATIONS, DownBlock, MidBlock, Shared, TimestepEmbedding, UpBlock
from .unet3d_transformers import TemporalTransformer

SWAPPABLE: tuple[str, ...] = ("Linear", "Conv1d", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Embedding")
DEFAULT_FPS = 24.0  # of the pipeline that VideoCrafter2's diffusers weights are published with
# What a config that is silent means, as in diffusers.
_DEFAULTS: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
    "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1024,
    "attention_head_dim": 64,
    "num_attention_heads": None,
    "time_cond_proj_dim": None,
    "fps_cond": False,
    "fps": DEFAULT_FPS,
}
_INPUT_HEADS = 8  # of the transformer over time before the first level, in every published model


def build_unet3d(
    config: Mapping[str, Any],
    *,
    operations: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> UNet3DConditionModel:
    """Build a UNet3D from its config; its state-dict keys are diffusers'.

    config: diffusers' config.json as a mapping; keys that the network does not take (`_class_name`, `sample_size`, ...) are ignored.
        With `fps_cond` it is VideoCrafter2's, which is given the clip's frame rate, `fps` (24 where it is missing).
    operations: an object with the classes named in SWAPPABLE, such as torch.nn or one of a host's operation sets.
        With it the weights are left uninitialised, as hosts' own networks are: a state dict is expected to follow.
        Without it they get diffusers' default initialisation, drawn from torch's global generator.
    There is no dropout: in training mode it would depend on torch's global generator.

    Raises:
        ValueError: the config names a block, an activation or a size that this network does not know.
    """
    with torch.device((device or "cpu") if operations is None else "meta"):
        network = UNet3DConditionModel(config)
    if dtype is not None:
        network.to(dtype=dtype)
    if operations is not None:
        network.to_empty(device=device or "cpu")
        swap_operations(network, operations)
    return network


class UNet3DConditionModel(nn.Module):
    """Predicts a video from a noisy one, its timestep and a text; see :func:`build_unet3d`.

    config: the mapping it was made from.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        given = _checked(config)
        widths = list(given["block_out_channels"])
        first, last, act = widths[0], len(widths) - 1, given["act_fn"]
        shared = Shared(
            embedding=4 * first,
            context=given["cross_attention_dim"],
            head=given["attention_head_dim"],
            groups=given["norm_num_groups"],
            eps=given["norm_eps"],
            activation=act,
        )
        self.conv_in = nn.Conv2d(given["in_channels"], first, 3, padding=1)
        self.time_embedding = TimestepEmbedding(first, 4 * first, act, given["time_cond_proj_dim"])
        self.transformer_in = TemporalTransformer(first, _INPUT_HEADS, shared.head, shared.groups)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [first]  # channels of all that the way down hands over
        for level, (kind, width) in enumerate(zip(given["down_block_types"], widths, strict=True)):
            inputs = [skips[-1]] + [width] * (given["layers_per_block"] - 1)
            padding = given["downsample_padding"] if level < last else None
            self.down_blocks.append(DownBlock(inputs, width, shared, _attends(kind), padding))
            skips += [width] * (len(inputs) + (level < last))
        self.mid_block = MidBlock(widths[-1], shared, given["mid_block_scale_factor"])
        before = widths[-1]
        for level, (kind, width) in enumerate(zip(given["up_block_types"], reversed(widths), strict=True)):
            inputs = [before if n == 0 else width for n in range(given["layers_per_block"] + 1)]
            inputs = [channels + skips.pop() for channels in inputs]
            self.up_blocks.append(UpBlock(inputs, width, shared, _attends(kind), level < last))
            before = width
        self.conv_norm_out = nn.GroupNorm(shared.groups, first, eps=shared.eps)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(first, given["out_channels"], 3, padding=1)
        self.fps = float(given["fps"]) if given["fps_cond"] else None
        if self.fps is not None:
            self.fps_embedding = TimestepEmbedding(first, 4 * first, act)

    def forward(self, sample: Tensor, timestep: Tensor, context: Tensor, timestep_cond: Tensor | None = None) -> Tensor:
        """Predict [B, C_out, F, H, W], of any height and width.

        sample: [B, C, F, H, W], in the type that is computed in. timestep: [B], or one for all. context: the text's tokens
        [B, L, D]. timestep_cond: a guidance embedding [B, `time_cond_proj_dim`] for networks made to take one.
        """
        frames = sample.shape[2]
        embedding = self._embedding(timestep.expand(len(sample)), timestep_cond, sample.dtype)
        embedding, context = (tensor.repeat_interleave(frames, dim=0) for tensor in (embedding, context))
        x = self.conv_in(sample.transpose(1, 2).flatten(0, 1))
        x = self.transformer_in(x, frames)
        skips = [x]
        for block in self.down_blocks:
            x, more = block(x, embedding, context, frames)
            skips += more
        x = self.mid_block(x, embedding, context, frames)
        for block in self.up_blocks:
            own = [skips.pop() for _ in block.resnets]
            x = block(x, own, embedding, context, frames, skips[-1].shape[-2:] if skips else None)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        return x.unflatten(0, (-1, frames)).transpose(1, 2)

    def _embedding(self, timestep: Tensor, condition: Tensor | None, dtype: torch.dtype) -> Tensor:
        width = self.conv_in.out_channels
        embedding = self.time_embedding(sinusoids(timestep, width).to(dtype), condition)
        if self.fps is None:
            return embedding
        # VideoCrafter2 embeds the clip's rate as it does the timestep, and adds it.
        rate = sinusoids(torch.full((1,), self.fps, device=timestep.device), width)
        return embedding + self.fps_embedding(rate.to(embedding.dtype))


def sinusoids(numbers: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of numbers [B] at falling frequencies: [B, width] in float32 (a last 0 where the width is odd)."""
    half = width // 2
    exponents = -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=numbers.device) / half
    angles = numbers[:, None].float() * exponents.exp()
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width % 2))


_BLOCK_TYPES = {
    "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
}
# Beyond any network of the kind; more would be built for ages before its weights were looked at.
_MOST_WIDE, _MOST_LAYERS = 65_536, 16
_SIZES = (
    "in_channels",
    "out_channels",
    "layers_per_block",
    "norm_num_groups",
    "cross_attention_dim",
    "attention_head_dim",
)


def _attends(block_type: str) -> bool:
    return block_type.startswith("CrossAttn")


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with every value this network takes, or ValueError with the first that it does not know."""
    given = _DEFAULTS | {name: config[name] for name in _DEFAULTS if name in config}

    def need(holds: bool, name: str, what: str) -> None:
        if not holds:
            raise ValueError(
                f"The UNet3D's config has {name} {shown(given[name])}; it must be {what}. Use another model."
            )

    widths = given["block_out_channels"]
    need(
        isinstance(widths, list | tuple) and 0 < len(widths) <= _MOST_LAYERS and all(map(_is_size, widths)),
        "block_out_channels",
        f"widths of 1 to {_MOST_WIDE}, {_MOST_LAYERS} at most",
    )
    for name, known in _BLOCK_TYPES.items():
        kinds = given[name]
        need(
            isinstance(kinds, list | tuple) and all(kind in known for kind in kinds),
            name,
            f"a list of {' and '.join(known)}",
        )
        need(len(kinds) == len(widths), name, f"{len(widths)} blocks, as many as block_out_channels")
    for name in _SIZES:
        need(_is_size(given[name]), name, f"a whole number from 1 to {_MOST_WIDE}")
    need(given["layers_per_block"] <= _MOST_LAYERS, "layers_per_block", f"at most {_MOST_LAYERS}")
    head, groups = given["attention_head_dim"], given["norm_num_groups"]
    kinds = [*given["down_block_types"], *given["up_block_types"]]
    levels = zip(kinds, [*widths, *reversed(widths)], strict=True)
    attending = min([widths[-1], *(width for kind, width in levels if _attends(kind))])
    need(head <= attending, "attention_head_dim", f"at most {attending}, the narrowest level with attention")
    need(not any(width % groups for width in widths), "norm_num_groups", f"a divisor of {', '.join(map(str, widths))}")
    need(
        isinstance(given["act_fn"], str) and given["act_fn"] in ACTIVATIONS,
        "act_fn",
        f"one of {', '.join(ACTIVATIONS)}",
    )
    need(given["downsample_padding"] in (0, 1), "downsample_padding", "0 or 1")
    need(given["num_attention_heads"] is None, "num_attention_heads", "empty")
    need(
        given["time_cond_proj_dim"] is None or _is_size(given["time_cond_proj_dim"]),
        "time_cond_proj_dim",
        "empty or above 0",
    )
    for name in ("mid_block_scale_factor", "norm_eps", "fps"):
        need(isinstance(given[name], int | float) and 0 < given[name] < 1e6, name, "a number above 0 and below 1e6")
    return given


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 < value <= _MOST_WIDE


def swap_operations(network: nn.Module, operations: Any) -> None:
    """Turn every module that is exactly nn.Linear, nn.Conv*, ... into the class of that name in `operations`, in place.

    Only the class changes: attributes, parameters and keys stay, so a state dict fits before and after alike.
    Subclasses are left alone, because their forward would be lost.
    """
    replacements = {getattr(nn, name): getattr(operations, name) for name in SWAPPABLE if hasattr(operations, name)}
    for module in network.modules():
        replacement = replacements.get(type(module))
        if replacement is not None:
            module.__class__ = replacement


def unet3d_config_from_weights(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config of the UNet3DConditionModel these weights (diffusers' names) are of, read from their shapes.

    What leaves no trace in shapes, such as the groups of its norms, has diffusers' defaults, as in all published models.

    Raises:
        ValueError: the weights are of another network.
    """
    needed = (
        "conv_in.weight",
        "conv_out.weight",
        "transformer_in.proj_in.weight",
        "down_blocks.0.resnets.0.conv1.weight",
    )
    if absent := [name for name in needed if name not in weights]:
        raise ValueError(
            f"The file's {len(weights)} tensors are not of a UNet3DConditionModel: there is no {absent[0]!r}. "
            "Choose a diffusion model of the ZeroScope family with diffusers' names."
        )
    levels = _count(weights, "down_blocks")
    width, in_channels = weights["conv_in.weight"].shape[:2]
    config = {
        "_class_name": "UNet3DConditionModel",
        "in_channels": in_channels,
        "out_channels": len(weights["conv_out.weight"]),
        "down_block_types": [_block_type(weights, "Down", level) for level in range(levels)],
        "up_block_types": [_block_type(weights, "Up", level) for level in range(levels)],
        "block_out_channels": [len(weights[f"down_blocks.{n}.resnets.0.conv1.weight"]) for n in range(levels)],
        "layers_per_block": _count(weights, "down_blocks.0.resnets"),
        # Its first transformer always has 8 heads, so that its width tells that of all heads.
        "attention_head_dim": len(weights["transformer_in.proj_in.weight"]) // 8,
    }
    if "fps_embedding.linear_1.weight" in weights:
        config["fps_cond"] = True
    for name, tensor in weights.items():
        if name.endswith("attn2.to_k.weight") and ".attentions." in name:
            config["cross_attention_dim"] = tensor.shape[1]
        if name == "time_embedding.cond_proj.weight":
            config["time_cond_proj_dim"] = tensor.shape[1]
    return config


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    place = prefix.count(".") + 1
    return len({name.split(".")[place] for name in weights if name.startswith(f"{prefix}.")})


def _block_type(weights: Mapping[str, Tensor], side: str, level: int) -> str:
    attends = f"{side.lower()}_blocks.{level}.attentions.0.norm.weight" in weights
    return f"{'CrossAttn' if attends else ''}{side}Block3D"
