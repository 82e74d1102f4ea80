"""Motion LoRAs in the key formats that other programs write and read.

Inside, a LoRA is a :class:`LowRank` update per module of the network: ``W + scale * up down``. Exports are here, imports in
:mod:`sma.lora_reading`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .roles import FAMILIES, family_of_layers

# What hosts put before the network's module names.
PREFIX = "diffusion_model."
FORMATS = ("comfyui", "diffusers", "kohya", "animatediff")

# AnimateDiff's own names of what diffusers calls motion_modules.N.transformer_blocks.M.attn1 and attn2.
_MOTION_MODULE = re.compile(r"(.*motion_modules\.\d+)\.(.+)")
_ATTENTION = re.compile(r"(transformer_blocks\.\d+)\.attn([12])\.(.+)")


@dataclass(frozen=True, eq=False)
class LowRank:
    """The update ``scale * up down`` of one layer's weight.

    Attributes:
        down: [r, in] of a linear layer, [r, in, *kernel] of a convolution.
        up: [out, r], or [out, r, 1, ...].
        scale: alpha / r, or 1 where a file has no alpha.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return len(self.down)

    def folded(self) -> Tensor:
        """``up`` with the scale in it, for formats that have none; the very same tensor where the scale is 1."""
        return self.up if self.scale == 1.0 else self.up * self.scale


@dataclass(frozen=True, eq=False)
class Export:
    """Tensors by file key; how many layers they hold and how many the format has no place for."""

    tensors: dict[str, Tensor]
    written: int
    left_out: int = 0


def updates_of(lora: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """The updates in a LoRA of ours, by module name: keys ``diffusion_model.<module>.lora_A.weight``, ``.lora_B.weight``, ``.alpha``.

    Raises:
        ValueError: other keys, as in somebody else's LoRA.
    """
    down = {key.removesuffix(".lora_A.weight"): value for key, value in lora.items() if key.endswith(".lora_A.weight")}
    expected = {f"{name}.{kind}" for name in down for kind in ("lora_A.weight", "lora_B.weight")}
    alphas = {f"{name}.alpha" for name in down}
    if not down or not expected <= lora.keys() <= expected | alphas or not all(key.startswith(PREFIX) for key in down):
        strange = sorted((lora.keys() - alphas) ^ expected) or sorted(lora)
        raise ValueError(
            f"{len(strange)} keys are not as Train Motion LoRA writes them, for example {strange[:1]}; only such LoRAs can be "
            "converted. Save it in the ComfyUI format."
        )
    updates = {}
    for key, value in down.items():
        alpha = lora.get(f"{key}.alpha")
        scale = 1.0 if alpha is None else float(alpha) / len(value)
        updates[key.removeprefix(PREFIX)] = LowRank(value, lora[f"{key}.lora_B.weight"], scale)
    return updates


def to_format(lora: Mapping[str, Tensor], format: str) -> Export:
    """A LoRA of ours under the keys of another program.

    Args:
        lora: as :meth:`sma.lora.Adapter.export` gives it with the prefix ``diffusion_model.``.
        format:
            ``"comfyui"``: as it is. diffusers' Wan pipeline reads this format too.
            ``"diffusers"``: PEFT's names, ``unet.<module>.lora_A.weight``; the scale is in B. UNet3D and AnimateDiff networks only.
                diffusers loads it into a UNetMotionModel; its UNet3DConditionModel has no LoRA loader (0.42), but PEFT reads the file.
            ``"kohya"``: ``lora_unet_<module>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``.
            ``"animatediff"``: what AnimateDiff-MotionDirector writes and AnimateDiff-Evolved reads, original AnimateDiff's names with the
            scale in ``up``. Layers outside the motion modules and convolutions are left out and counted.

    Raises:
        ValueError: an unknown format, a LoRA that is not ours, or one whose network the format cannot name.
    """
    if format not in FORMATS:
        raise ValueError(f"Unknown format {format!r}; use one of {', '.join(FORMATS)}.")
    if format == "comfyui":
        # As it is: even what is no LoRA of ours must not be lost.
        return Export(dict(lora), sum(key.endswith((".lora_A.weight", ".lora_down.weight", ".diff")) for key in lora))
    updates = updates_of(lora)
    if format == "kohya":
        return Export(_kohya(updates), len(updates))
    family = family_of_layers(updates)
    name = family.name if family else "an unknown network"
    if format == "diffusers":
        if family is None or not family.diffusers:
            theirs = " and ".join(other.name for other in FAMILIES if other.diffusers)
            raise ValueError(
                f"This LoRA is for {name}, whose layers have other names in diffusers; that format is for "
                f"{theirs}. Save it in the ComfyUI format, which diffusers' Wan pipeline reads as well."
            )
        tensors = {}
        for module, update in updates.items():
            tensors[f"unet.{module}.lora_A.weight"] = update.down.contiguous()
            tensors[f"unet.{module}.lora_B.weight"] = update.folded().contiguous()
        return Export(tensors, len(updates))
    tensors = {}
    for module, update in updates.items():
        original = to_animatediff(module)
        if original is not None and update.down.ndim == 2:
            path, _, last = original.rpartition(".")
            tensors[f"{path}.processor.{last}_lora.down.weight"] = update.down.contiguous()
            tensors[f"{path}.processor.{last}_lora.up.weight"] = update.folded().contiguous()
    written = len(tensors) // 2
    if not written:
        raise ValueError(
            f"0 of {len(updates)} layers lie in motion modules: this LoRA is for {name}, and the AnimateDiff-Evolved format holds motion "
            "modules only. Save it in the ComfyUI format."
        )
    return Export(tensors, written, len(updates) - written)


def _kohya(updates: Mapping[str, LowRank]) -> dict[str, Tensor]:
    tensors = {}
    for module, update in updates.items():
        key = "lora_unet_" + module.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = update.down.contiguous()
        tensors[f"{key}.lora_up.weight"] = update.up.contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(update.scale * update.rank)
    return tensors


def to_animatediff(module: str) -> str | None:
    """diffusers' name of a module in a motion module -> original AnimateDiff's; None outside motion modules."""
    parts = _MOTION_MODULE.fullmatch(module)
    if parts is None:
        return None
    path, inner = parts.groups()
    attention = _ATTENTION.fullmatch(inner)
    if attention is not None:
        block, index, layer = attention.groups()
        inner = f"{block}.attention_blocks.{int(index) - 1}.{layer}"
    return f"{path}.temporal_transformer.{inner}"
