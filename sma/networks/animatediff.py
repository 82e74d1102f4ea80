"""AnimateDiff: an SD 1.5 UNet with a motion module, as diffusers' UNetMotionModel, from any of the files that hold one."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .animatediff_norms import ORIGINAL, normalise, norms_over_frames
from .requirement import require
from .unet3d import swap_operations

# No file says how many heads its temporal attention has; every published motion module has 8.
HEADS = 8
# Of the published modules only v1 (24) differs. Positions are a formula, so a file without its table can still be read.
DEFAULT_FRAMES = 32

_ORIGINAL_NAMES = (
    (".temporal_transformer.", "."),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
    # Both attentions of a block have the same table; diffusers keeps one for the two.
    (".attn1.pos_encoder.", ".pos_embed."),
    (".attn2.pos_encoder.", ".pos_embed."),
)
_BLOCK = re.compile(
    r"(?P<side>down|mid|up)_blocks?\.(?:(?P<level>\d+)\.)?motion_modules\.(?P<module>\d+)"
    r"\.transformer_blocks\.(?P<block>\d+)\.norm1\.weight"
)


def build_unet_motion(
    config: Mapping[str, Any],
    *,
    operations: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Build a UNetMotionModel from its config, see :func:`unet_motion_config`; its state-dict keys stay diffusers' own.

    config: ``group_norm``, one of animatediff_norms.FORMS, says whose group norms it computes; the original's where it is silent.
    operations, device, dtype: as in :func:`sma.networks.unet3d.build_unet3d`.
    The module maps (sample [B,C,F,H,W], timestep [B], encoder_hidden_states [B*F,L,D], frames of one video in a row) to an
    object whose `.sample` is [B,C,F,H,W]; it raises ValueError for more frames than `motion_max_seq_length`. Dropout is off for
    good. The tables of frame positions are float32 whatever the dtype. ImportError says what to install where diffusers is missing.

    One frame passes through the motion modules like any other number: attention over a single token still adds its value and
    feed-forward paths. The original AnimateDiff skips them there, so that one frame is a pass of the image model alone.
    """
    config = dict(config)
    form = config.pop("group_norm", ORIGINAL)
    with torch.device((device or "cpu") if operations is None else "meta"):
        network = _diffusers("unets.unet_motion_model").UNetMotionModel.from_config(config)
    if dtype is not None:
        # nn.Module's own: diffusers' `to` warns about layers to keep in float32, of which this network has none.
        nn.Module.to(network, dtype=dtype)
    if operations is not None:
        network.to_empty(device=device or "cpu")
        swap_operations(network, operations)
    normalise(network, norms_over_frames(network.config, form))
    _renew_positions(network)
    _call_projections_by_position(network)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def require_diffusers() -> None:
    """Return where AnimateDiff can run; ImportError says what to install where it cannot."""
    _diffusers("unets.unet_motion_model")


def _diffusers(module: str) -> ModuleType:
    return require(f"diffusers.models.{module}", "AnimateDiff")


def _renew_positions(network: nn.Module) -> None:
    """Fills the position tables, which a build without weights leaves empty, and guards their length."""
    table = _diffusers("embeddings").SinusoidalPositionalEmbedding

    class FramePositions(table):
        def forward(self, x: Tensor) -> Tensor:
            frames, most = x.shape[1], self.pe.shape[1]
            if frames > most:
                raise ValueError(
                    f"The video has {frames} frames and this motion module was made for at most {most}. "
                    f"Take {most} frames or fewer."
                )
            # A host that keeps part of a network off the device places layers with weights, and no lone table.
            return x + self.pe[:, :frames].to(x)

    for module in network.modules():
        if type(module) is table:
            _, frames, channels = module.pe.shape
            module.pe = frame_positions(frames, channels).to(module.pe.device)
            module.__class__ = FramePositions


def _call_projections_by_position(network: nn.Module) -> None:
    """diffusers calls these layers as ``proj_in(input=x)``; adapters of any kind look for what a layer is given among its arguments."""
    transformer = _diffusers("unets.unet_motion_model").AnimateDiffTransformer3D

    def call(layer: nn.Module, input: Tensor) -> Tensor:
        return nn.Module.__call__(layer, input)

    for module in network.modules():
        if isinstance(module, transformer):
            for layer in (module.proj_in, module.proj_out):
                kind = type(layer)
                layer.__class__ = type(kind.__name__, (kind,), {"__call__": call})


def frame_positions(frames: int, channels: int) -> Tensor:
    """The sinusoidal table [1, frames, channels] that motion modules add to their tokens, in float32 (Vaswani et al. 2017, 3.5)."""
    angles = torch.arange(frames)[:, None] * torch.exp(torch.arange(0, channels, 2) * (-math.log(10000.0) / channels))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None]  # [1, frames, channels]


def diffusers_name(name: str) -> str:
    """What diffusers calls a tensor or layer that is named as in the original AnimateDiff repository; other names stay."""
    name = name.removeprefix("module.")
    for original, ours in _ORIGINAL_NAMES:
        name = name.replace(original, ours)
    return name


def motion_module_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a motion module's file under the names they have in a UNetMotionModel, position tables included.

    weights: a diffusers MotionAdapter, or an original AnimateDiff file (mm_sd_v14, v15, v15_v2, v3_sd15_mm and what was trained from
        them). Tensors of other layers keep their names.

    Raises:
        ValueError: no tensor is of a motion module.
    """
    renamed = {diffusers_name(name): tensor for name, tensor in weights.items()}
    blocks = {name.removesuffix("norm1.weight"): tensor for name, tensor in renamed.items() if _BLOCK.fullmatch(name)}
    if not blocks:
        raise ValueError(
            f"None of the file's {len(weights)} tensors is of an AnimateDiff motion module. "
            "Choose a motion module, such as v3_sd15_mm.ckpt."
        )
    for block, norm in blocks.items():
        if f"{block}pos_embed.pe" not in renamed:
            renamed[f"{block}pos_embed.pe"] = frame_positions(DEFAULT_FRAMES, len(norm))
    return renamed


def adapter_config_from_weights(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config of the MotionAdapter these weights are of, see :func:`motion_module_weights`, read from their shapes.

    Raises:
        ValueError: weights of its later blocks alone.
    """
    widths: dict[int, int] = {}
    blocks: dict[tuple[str, int], list[int]] = {}  # side and level -> transformer blocks of each of its motion modules
    frames = DEFAULT_FRAMES
    for name, tensor in weights.items():
        if match := _BLOCK.fullmatch(name):
            side, level, module = match["side"], int(match["level"] or 0), int(match["module"])
            if side == "down":
                widths[level] = len(tensor)
            modules = blocks.setdefault((side, level), [])
            modules += [0] * (module + 1 - len(modules))
            modules[module] += 1
            frames = weights[name.replace("norm1.weight", "pos_embed.pe")].shape[1]
    if not widths:
        raise ValueError("The motion module has no down blocks, so it is not whole. Download it again.")
    levels = sorted(widths)
    mid = blocks.get(("mid", 0), [])
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": [widths[level] for level in levels],
        "motion_layers_per_block": [len(blocks["down", level]) for level in levels],
        "motion_transformer_layers_per_block": [blocks["down", level][0] for level in levels],
        "motion_mid_block_layers_per_block": len(mid) or 1,
        "motion_transformer_layers_per_mid_block": mid[0] if mid else 1,
        "motion_num_attention_heads": HEADS,
        "motion_max_seq_length": frames,
        "use_motion_mid_block": bool(mid),
    }


def unet_motion_config(
    unet2d_config: Mapping[str, Any], adapter_config: Mapping[str, Any], *, group_norm: str = ORIGINAL
) -> dict[str, Any]:
    """The config of a UNetMotionModel from those of a UNet2DConditionModel and a MotionAdapter (diffusers' config.json).

    group_norm: whose group norms the network computes, one of animatediff_norms.FORMS; it becomes part of the config.

    Raises:
        ValueError: the motion module was made for a network of other widths or another depth, or for other latents.
    """
    motion = _diffusers("unets.unet_motion_model")
    unet = _defaults(_diffusers("unets.unet_2d_condition").UNet2DConditionModel) | unet2d_config
    adapter = _defaults(motion.MotionAdapter) | adapter_config
    layers = _per_level(adapter["motion_layers_per_block"], adapter)
    for what, found, needed in (
        ("widths", adapter["block_out_channels"], unet["block_out_channels"]),
        ("layers per block", layers, _per_level(unet["layers_per_block"], unet)),
        ("input channels", [adapter["conv_in_channels"] or unet["in_channels"]], [unet["in_channels"]]),
    ):
        if list(found) != list(needed):
            raise ValueError(
                f"The motion module has {what} {_listed(found)} and the base model {_listed(needed)}. "
                "Choose a motion module that was made for this base model."
            )
    known = _defaults(motion.UNetMotionModel)
    config = {name: value for name, value in unet.items() if name in known}
    for side, kind in (("down_block_types", "DownBlockMotion"), ("up_block_types", "UpBlockMotion")):
        config[side] = [f"CrossAttn{kind}" if "CrossAttn" in name else kind for name in unet[side]]
    return config | {
        "_class_name": "UNetMotionModel",
        "group_norm": group_norm,
        "layers_per_block": layers,
        # What 2-D UNets call the width of a head has always been the number of heads.
        "num_attention_heads": unet["num_attention_heads"] or unet["attention_head_dim"],
        "motion_num_attention_heads": adapter["motion_num_attention_heads"],
        "motion_max_seq_length": adapter["motion_max_seq_length"],
        "use_motion_mid_block": adapter["use_motion_mid_block"],
        "temporal_transformer_layers_per_block": adapter["motion_transformer_layers_per_block"],
        "temporal_transformer_layers_per_mid_block": adapter["motion_transformer_layers_per_mid_block"],
    }


def _defaults(network: type) -> dict[str, Any]:
    """What a diffusers class takes where a config is silent."""
    parameters = inspect.signature(network.__init__).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name != "self"}


def _per_level(layers: int | Sequence[int], config: Mapping[str, Any]) -> list[int]:
    return [layers] * len(config["block_out_channels"]) if isinstance(layers, int) else list(layers)


def _listed(numbers: Iterable[int]) -> str:
    return "-".join(map(str, numbers))
