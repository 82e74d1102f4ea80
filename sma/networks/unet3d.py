"""diffusers' UNet3DConditionModel (ModelScope, ZeroScope, VideoCrafter2, the sprites model) as a module a host can load and place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SWAPPABLE: tuple[str, ...] = ("Linear", "Conv1d", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Embedding")
DEFAULT_FPS = 24.0  # of the pipeline that VideoCrafter2's diffusers weights are published with
_RATE = ("fps_cond", "fps")


def build_unet3d(
    config: Mapping[str, Any],
    *,
    operations: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Build a UNet3DConditionModel from its config; its state-dict keys stay diffusers' own.

    config: diffusers' config.json as a mapping; keys that the class does not take (`_class_name`, ...) are ignored.
        With `fps_cond` it is VideoCrafter2's, which is told the clip's frame rate, `fps` (24 where it is missing).
    operations: an object with the classes named in SWAPPABLE, such as torch.nn or one of a host's operation sets.
        With it the weights are left uninitialised, as hosts' own networks are: a state dict is expected to follow.
        Without it they get diffusers' default initialisation, drawn from torch's global generator.
    The module maps (sample [B,C,F,H,W], timestep [B], encoder_hidden_states [B,L,D]) to an object whose `.sample`
    is [B,C,F,H,W]. Dropout is switched off for good: diffusers' temporal convolutions carry p=0.1, which would
    make training depend on torch's global generator.
    """
    from diffusers import UNet3DConditionModel

    with torch.device((device or "cpu") if operations is None else "meta"):
        network = UNet3DConditionModel.from_config({name: config[name] for name in config if name not in _RATE})
        if config.get("fps_cond"):
            _tell_frame_rate(network, config.get("fps", DEFAULT_FPS))
    if dtype is not None:
        # nn.Module's own: diffusers' `to` warns about layers to keep in float32, of which this network has none.
        nn.Module.to(network, dtype=dtype)
    if operations is not None:
        network.to_empty(device=device or "cpu")
        swap_operations(network, operations)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def _tell_frame_rate(network: nn.Module, fps: float) -> None:
    """Makes a UNet3D VideoCrafter2's: the clip's frame rate is embedded as the timestep is, and added to it."""
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps

    width = network.config["block_out_channels"][0]
    network.fps_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
    network.fps_embedding = TimestepEmbedding(width, 4 * width, act_fn=network.config["act_fn"])

    def add_rate(module: nn.Module, args: tuple, embedding: Tensor) -> Tensor:
        rate = network.fps_proj(torch.full((1,), float(fps), device=embedding.device))
        return embedding + network.fps_embedding(rate.to(embedding.dtype))

    # A hook, because diffusers' forward offers no other place to add to the embedding.
    network.time_embedding.register_forward_hook(add_rate)


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
