"""Whose LoRA a file is, and which layers of a network it updates."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .lora_formats import LowRank
from .networks.animatediff import diffusers_name

Modules = Mapping[str, Sequence[int]]

# Suffixes of LoRA keys. An adapter name may stand after lora_A and lora_B (PEFT's ".default").
_SUFFIX = re.compile(
    r"(?P<site>.+?)(?:"
    r"\.lora_(?P<letter>[AB])(?:\.(?!weight$)\w+)?(?:\.weight)?"
    r"|\.lora_(?P<kohya>down|up)\.weight"
    r"|(?P<processor>_lora|\.lora|\.lora_linear_layer)\.(?P<side>down|up)\.weight"
    r"|\.(?P<alpha>alpha))"
)
# What stands beside a product and changes its meaning: DoRA, LoCon's third factor, padded weights.
_COMPANION = re.compile(r"(?P<site>.+?)\.(dora_scale|lora_magnitude_vector|lora_mid|reshape_weight)(\..+)?")
_TEXT_ENCODER = re.compile(r"(lora_te\d?_|lora_prior_te_|text_encoder|cond_stage_model\.|clip_[lgh]\.|text_model\.)")
_PREFIXES = (
    "module.",
    "pipe.",
    "dit.",
    "model.diffusion_model.",
    "diffusion_model.",
    "base_model.model.",
    "unet.",
    "transformer.",
)
_KOHYA = "lora_unet_"
# diffusers' names of Wan's layers -> the original ones, which hosts use.
_WAN = (
    (r"(blocks\.\d+)\.attn1\.", r"\1.self_attn."),
    (r"(blocks\.\d+)\.attn2\.", r"\1.cross_attn."),
    (r"_attn\.to_([qkv])", r"_attn.\1"),
    (r"_attn\.to_out\.0", r"_attn.o"),
    (r"(blocks\.\d+)\.ffn\.net\.0\.proj", r"\1.ffn.0"),
    (r"(blocks\.\d+)\.ffn\.net\.2", r"\1.ffn.2"),
)
# MotionDirector's sites (its paper's code, utils/lora.py): every Linear inside these parts of a transformer block.
SITES = {
    "temporal": r"(transformer_in|.*temp_attentions\.\d+)\.transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))",
    "spatial": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.(attn1\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))",
}


@dataclass(frozen=True, eq=False)
class MisShaped:
    """A key whose tensor does not fit the layer of its name."""

    key: str
    found: tuple[int, ...]
    needed: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.key} is {list(self.found)}, which does not fit the layer's weight {list(self.needed)}"


@dataclass(frozen=True, eq=False)
class Reading:
    """What a LoRA file holds for a network.

    Attributes:
        format: whose key format it is, as users know it.
        updates: module name -> update, for all keys that are understood and fit.
        keys: module name -> the file keys behind its update.
        unmatched: keys that name no layer of the network, or another kind of update.
        misshaped: keys that name a layer and do not fit it.
        text_encoder: keys that are not for the network at all.
        layers: names of the layers in the file, as far as they can be told; a network of the right kind has these.
    """

    format: str
    updates: dict[str, LowRank]
    keys: dict[str, tuple[str, ...]]
    unmatched: tuple[str, ...] = ()
    misshaped: tuple[MisShaped, ...] = ()
    text_encoder: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def ranks(self) -> list[int]:
        return sorted({update.rank for update in self.updates.values()})


@dataclass
class _Site:
    """The tensors of one layer in a file."""

    parts: dict[str, str] = field(default_factory=dict)  # "down", "up", "alpha" -> key
    plain: bool = True


def read_lora(tensors: Mapping[str, Tensor], modules: Modules) -> Reading:
    """Matches the keys of a LoRA file with the layers of a network.

    Understood: ours and other ``diffusion_model.`` files, diffusers and PEFT, kohya, and those of AnimateDiff, AnimateDiff-Evolved and
    AnimateDiff-MotionDirector. Updates that are no plain low-rank product (DoRA, LoHa, LoKr, differences) stay unmatched.

    Args:
        modules: name -> weight shape of the network's linear and convolution layers.
    """
    text_encoder = dict.fromkeys(key for key in tensors if _TEXT_ENCODER.match(key))
    sites: dict[str, _Site] = {}
    unmatched: list[str] = []
    for key in tensors:
        if key in text_encoder:
            continue
        match = _SUFFIX.fullmatch(key)
        if match is None:
            unmatched.append(key)
            continue
        sites.setdefault(match["site"], _Site()).parts[_side(match)] = key
    for key in unmatched:
        match = _COMPANION.fullmatch(key)
        if match is not None and match["site"] in sites:
            sites[match["site"]].plain = False
    underscored = {name.replace(".", "_"): name for name in modules}
    formats: Counter[str] = Counter()
    updates, keys, misshaped, layers = {}, {}, [], []
    for name, site in sorted(sites.items()):
        found, kind = _module(name, site, modules, underscored)
        layers.append(diffusers_name(_plain(name)) if found is None else found)
        if found is None or not site.plain or not {"down", "up"} <= site.parts.keys() or found in updates:
            unmatched.extend(site.parts.values())
            continue
        formats[kind] += 1
        update, wrong = _fitted(site, tensors, tuple(modules[found]))
        if wrong is not None:
            misshaped.append(wrong)
        else:
            updates[found], keys[found] = update, tuple(site.parts.values())
    order = {name: index for index, name in enumerate(modules)}
    updates = dict(sorted(updates.items(), key=lambda item: order[item[0]]))
    format = formats.most_common(1)[0][0] if formats else "unknown"
    return Reading(
        format, updates, keys, tuple(sorted(unmatched)), tuple(misshaped), tuple(text_encoder), tuple(layers)
    )


def read_motiondirector(tensors: Sequence[Tensor], modules: Modules, *, video: int | None = None) -> Reading:
    """Matches MotionDirector's unnamed list [up0, down0, up1, down1, ...] with a text-to-video UNet; its scale is 1.

    Temporal or spatial is told by the number of pairs, and every pair is checked against its layer.

    Args:
        modules: name -> weight shape, in the network's module order.
        video: which one of several spatial LoRAs to take, from 0; a run on several videos stores one per video.

    Raises:
        ValueError: the list is for another network, or holds several LoRAs and ``video`` does not say which.
    """
    sites = {kind: [name for name in modules if re.fullmatch(pattern, name)] for kind, pattern in SITES.items()}
    has = " and ".join(f"{len(names)} {kind}" for kind, names in sites.items())
    pairs = list(zip(tensors[0::2], tensors[1::2], strict=False))
    wrong: str | None = None
    for kind, names in sites.items():
        if not names or len(tensors) % 2 or not pairs or len(pairs) % len(names):
            continue
        copies = len(pairs) // len(names)
        updates = {}
        chosen = 0 if video is None else video
        misfit = None
        for index, (up, down) in enumerate(pairs):
            name = names[index // copies]
            update, misfit = _product(
                down, up, 1.0, tuple(modules[name]), (f"down {index} ({name})", f"up {index} ({name})")
            )
            if misfit is not None:
                break
            if index % copies == chosen:
                updates[name] = update
        if misfit is not None:
            wrong = wrong or str(misfit)
            continue
        if copies > 1 and video is None:
            raise ValueError(
                f"This MotionDirector file holds {copies} {kind} LoRAs, one per training video; exactly one can be worn. "
                f"Read one with sma.lora_reading.read_motiondirector(tensors, modules, video=0 to {copies - 1})."
            )
        if not 0 <= chosen < copies:
            raise ValueError(
                f"video is {video}; this MotionDirector file holds {copies} {kind} LoRAs. Use 0 to {copies - 1}."
            )
        keys = {name: (f"up {name}", f"down {name}") for name in updates}
        return Reading(f"MotionDirector {kind}", updates, keys, layers=tuple(updates))
    reason = f": {wrong}" if wrong else ""
    raise ValueError(
        f"This MotionDirector file holds {len(pairs)} unnamed pairs and the model has {has} layers for them{reason}. "
        "Load the text-to-video model (ZeroScope or ModelScope) it was trained on."
    )


def _side(match: re.Match[str]) -> str:
    if match["alpha"]:
        return "alpha"
    if match["letter"]:
        return "down" if match["letter"] == "A" else "up"
    return match["kohya"] or match["side"]


def _plain(site: str) -> str:
    """A layer's name without the prefixes of programs and without diffusers' old attention processors."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if site.startswith(prefix):
                site, stripped = site.removeprefix(prefix), True
    return site.replace(".processor.", ".")


def _module(site: str, parts: _Site, modules: Modules, underscored: Mapping[str, str]) -> tuple[str | None, str]:
    """The module a site of a file means, or None, and the name of its format."""
    if site.startswith(_KOHYA):
        # Some files have a second underscore (Wan Fun).
        return underscored.get(site.removeprefix(_KOHYA).removeprefix("_")), "kohya"
    plain = _plain(site)
    candidates = [plain, f"{plain}.0"] if plain.endswith(".to_out") else [plain]
    original = "temporal_transformer" in plain or "attention_blocks" in plain
    for name in candidates:
        name = diffusers_name(name) if original else name
        if name in modules:
            return name, _format(site, parts, original)
        for pattern, replacement in _WAN:
            name = re.sub(pattern, replacement, name)
        if name in modules:
            return name, "diffusers"
    return None, "unknown"


def _format(site: str, parts: _Site, original: bool) -> str:
    if original:
        return "AnimateDiff-Evolved"
    if ".processor." in site or "_lora." in parts.parts.get("up", ""):
        return "AnimateDiff-MotionDirector spatial" if ".attentions." in site else "diffusers"
    if site.startswith(("diffusion_model.", "model.diffusion_model.")):
        return "ComfyUI"
    return "diffusers"


def _fitted(
    site: _Site, tensors: Mapping[str, Tensor], shape: tuple[int, ...]
) -> tuple[LowRank | None, MisShaped | None]:
    down, up = tensors[site.parts["down"]], tensors[site.parts["up"]]
    # Without an alpha loaders do not scale.
    scale = float(tensors[site.parts["alpha"]]) / len(down) if "alpha" in site.parts and down.numel() else 1.0
    return _product(down, up, scale, shape, (site.parts["down"], site.parts["up"]))


def _product(
    down: Tensor, up: Tensor, scale: float, shape: tuple[int, ...], keys: tuple[str, str]
) -> tuple[LowRank | None, MisShaped | None]:
    """The update of a weight [out, in, *kernel], or what does not fit. Flat and 1x1 forms of the same product are accepted."""
    if down.ndim < 2 or not len(down) or down[0].numel() != math.prod(shape[1:]):
        return None, MisShaped(keys[0], tuple(down.shape), shape)
    rank = len(down)
    if up.ndim < 2 or len(up) != shape[0] or up[0].numel() != rank:
        return None, MisShaped(keys[1], tuple(up.shape), shape)
    return LowRank(down.reshape(rank, *shape[1:]), up.reshape(shape[0], rank, *[1] * len(shape[2:])), scale), None
