"""Motion LoRAs in the key formats that other programs write and read.

Inside, a LoRA is a :class:`LowRank` update per module of the network: ``W + scale * up down``. Exports are here, imports in
:mod:`sma.lora_reading`, and the names of layers in :mod:`sma.layer_names`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .layer_names import TABLES, parts_of, theirs_of
from .roles import FAMILIES, Family, family_of_layers

# What hosts put before the network's module names.
PREFIX = "diffusion_model."
FORMATS = ("comfyui", "diffusers", "kohya", "animatediff")

_OURS = re.compile(re.escape(PREFIX) + r"(?P<module>.+)\.(?P<part>lora_[AB]\.weight|alpha|diff)")
# Where hosts know HunyuanVideo's layers by their first names as well as by their own.
_NAMED_TWICE = ("double_blocks.", "single_blocks.", "txt_in.individual_token_refiner.blocks.")

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
    """Reads the updates in a LoRA of ours, by module name: keys ``diffusion_model.<module>.lora_A.weight``, ``.lora_B.weight``, ``.alpha``.

    Without an alpha the scale is 1.

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
    """Writes a LoRA of ours under the keys of another program.

    Only kohya's format has an ``.alpha``. In the others the scale is in ``up``, as some of their readers refuse a file with one.

    Args:
        lora: as :meth:`sma.lora.Adapter.export` gives it with the prefix ``diffusion_model.``.
        format:
            ``"comfyui"``: as it is, but HunyuanVideo's layers have their first names, which diffusion-pipe and diffusers read as well.
                Keys that are not ours stay as they are. diffusers' Wan and LTX-Video pipelines read this format too.
            ``"diffusers"``: ``unet.<module>.lora_A.weight`` and ``.lora_B.weight`` for UNet3D and AnimateDiff networks, whose names are
                diffusers' own, and ``transformer.<diffusers' name>...`` for Wan, LTX-Video and HunyuanVideo. HunyuanVideo's fused
                layers are several there. diffusers' UNet3DConditionModel has no LoRA loader (0.42), but PEFT reads the file.
            ``"kohya"``: ``lora_unet_<module>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``; HunyuanVideo's layers under their first
                names, as musubi-tuner has them. Differences of whole weights are ``.diff``, as LyCORIS has them.
            ``"animatediff"``: what AnimateDiff-MotionDirector writes and AnimateDiff-Evolved reads, original AnimateDiff's names.
                Layers outside the motion modules and convolutions are left out and counted.

    Raises:
        ValueError: an unknown format, a LoRA that is not ours, or one whose network or whose kind of update the format cannot hold.
    """
    if format not in FORMATS:
        raise ValueError(f"Unknown format {format!r}; use one of {', '.join(FORMATS)}.")
    if format == "comfyui":
        return _comfyui(lora)
    differences = {
        match["module"]: value
        for key, value in lora.items()
        if (match := _OURS.fullmatch(key)) is not None and match["part"] == "diff"
    }
    whole = {f"{PREFIX}{module}.diff" for module in differences}
    rest = {key: value for key, value in lora.items() if key not in whole}
    updates = updates_of(rest) if rest or not differences else {}
    if format == "kohya":
        tensors = _kohya(updates)
        tensors |= {f"{_kohya_key(module)}.diff": value.contiguous() for module, value in differences.items()}
        return Export(tensors, len(updates) + len(differences))
    if differences:
        name = {"diffusers": "diffusers", "animatediff": "AnimateDiff-Evolved"}[format]
        layers = f"{len(differences)} layer{'' if len(differences) == 1 else 's'}"
        raise ValueError(
            f"This LoRA holds differences of the whole weights of {layers}, as VMC trains them, and the {name} format holds low-rank "
            "updates alone. Save it in the ComfyUI or kohya format."
        )
    family = family_of_layers(updates)
    if format == "diffusers":
        return Export(_diffusers(updates, family), len(updates))
    return _animatediff(updates, family)


def _comfyui(lora: Mapping[str, Tensor]) -> Export:
    """What is not ours must not be lost, so layers with keys that are not understood stay as they are."""
    matches = {key: match for key in lora if (match := _OURS.fullmatch(key)) is not None}
    foreign = {stem for key in lora if key not in matches for stem in accumulate(key.split("."), "{}.{}".format)}
    tensors = {}
    for key, value in lora.items():
        match = matches.get(key)
        site = f"{PREFIX}{match['module']}" if match else ""
        is_product = {f"{site}.lora_A.weight", f"{site}.lora_B.weight"} <= lora.keys()
        if match is None or site in foreign or not (is_product or match["part"] == "diff"):
            tensors[key] = value
            continue
        if match["part"] == "alpha":
            continue
        if match["part"] == "lora_B.weight" and f"{site}.alpha" in lora:
            down = lora[f"{site}.lora_A.weight"]
            value = LowRank(down, value, float(lora[f"{site}.alpha"]) / len(down)).folded()
        name = theirs_of(match["module"], "original") if match["module"].startswith(_NAMED_TWICE) else None
        tensors[f"{PREFIX}{name or match['module']}.{match['part']}"] = value
    return Export(tensors, sum(key.endswith((".lora_A.weight", ".lora_down.weight", ".diff")) for key in tensors))


def _diffusers(updates: Mapping[str, LowRank], family: Family | None) -> dict[str, Tensor]:
    if family is not None and family.diffusers:
        parts = {module: [(f"unet.{module}", update.folded())] for module, update in updates.items()}
    elif family is not None and family.name in TABLES["diffusers"]:
        parts = {module: _transformer_parts(module, update) for module, update in updates.items()}
    else:
        known = [other.name for other in FAMILIES if other.diffusers or other.name in TABLES["diffusers"]]
        raise ValueError(
            f"This LoRA is for {_named(family)}; the diffusers format has names for {', '.join(known[:-1])} and {known[-1]} layers. "
            "Save it in the ComfyUI format."
        )
    if unnamed := [module for module, places in parts.items() if not places]:
        raise ValueError(
            f"{len(unnamed)} of {len(updates)} layers have no name in diffusers, for example {unnamed[0]}. "
            "Save it in the ComfyUI format."
        )
    tensors = {}
    for module, places in parts.items():
        for name, up in places:
            # Parts of one layer share their ``down``, and a file holds no tensor twice.
            down = updates[module].down
            tensors[f"{name}.lora_A.weight"] = down.clone() if len(places) > 1 else down.contiguous()
            tensors[f"{name}.lora_B.weight"] = up.contiguous()
    return tensors


def _transformer_parts(module: str, update: LowRank) -> list[tuple[str, Tensor]]:
    """diffusers' layers that together are one of ours, and the rows of ``up`` that each has."""
    up = update.folded()
    shape = (len(up), *update.down.shape[1:])
    return [
        (f"transformer.{part.name}", torch.cat([up[first:end] for first, end in part.rows]) if part.rows else up)
        for part in parts_of(module, "diffusers", shape)
    ]


def _kohya(updates: Mapping[str, LowRank]) -> dict[str, Tensor]:
    tensors = {}
    for module, update in updates.items():
        key = _kohya_key(module)
        tensors[f"{key}.lora_down.weight"] = update.down.contiguous()
        tensors[f"{key}.lora_up.weight"] = update.up.contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(update.scale * update.rank)
    return tensors


def _kohya_key(module: str) -> str:
    return "lora_unet_" + (theirs_of(module, "original") or module).replace(".", "_")


def _animatediff(updates: Mapping[str, LowRank], family: Family | None) -> Export:
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
            f"0 of {len(updates)} layers lie in motion modules: this LoRA is for {_named(family)}, and the AnimateDiff-Evolved format "
            "holds motion modules only. Save it in the ComfyUI format."
        )
    return Export(tensors, written, len(updates) - written)


def _named(family: Family | None) -> str:
    return family.name if family else "an unknown network"


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
