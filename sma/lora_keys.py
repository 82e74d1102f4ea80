"""What one key of a LoRA file says: which layer, which part of its update, and by whose habits it is named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .layer_names import Place, spellings
from .networks.animatediff import diffusers_name

Modules = Mapping[str, Sequence[int]]

_TEXT_ENCODER = re.compile(r"(lora_te\d?_|lora_prior_te_|text_encoder|cond_stage_model\.|clip_[lgh]\.|text_model\.)")
# Suffixes of LoRA keys. An adapter name may stand after lora_A and lora_B (PEFT's ".default").
_SUFFIX = re.compile(
    r"(?P<site>.+?)(?:"
    r"\.lora_(?P<letter>[AB])(?:(?:\.\w+)?\.weight)?"
    r"|\.lora_(?P<kohya>down|up|mid)\.weight"
    r"|(?P<processor>_lora|\.lora|\.lora_linear_layer)\.(?P<side>down|up)\.weight"
    r"|\.(?P<magnitude>lora_magnitude_vector)(?:\.\w+)*"
    r"|\.(?P<glora>[ab][12])\.weight"
    r"|(?:[._]lora|\.lora_(?:[AB]|down|up))?\.(?P<alpha>alpha)"
    r"|\.(?P<other>dora_scale|reshape_weight|diff|diff_b|set_weight|w_norm|b_norm|oft_blocks|rescale"
    r"|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))"
    r")"
)
# What a program of quantised factors puts beside them; without it they are too strong or too weak.
_FACTOR_SCALE = re.compile(r".+\.lora_(?:[AB]|down|up)\b.*scale.*")
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
# With underscores for dots: kohya and musubi, OneTrainer, SimpleTuner. Some files have a second one behind the first (Wan Fun).
_UNDERSCORED = re.compile(r"(lora_unet|lora_transformer|lycoris)__?(?P<name>.+)")
# An update is 0 where each of these products is: it holds a factor, one of its names, that is 0.
_PRODUCTS = {
    "up": (("down", "up", "mid"),),
    "hada_w1_a": (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),),
    "lokr": (("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),),
    "a1": (("a1", "a2"), ("b1", "b2")),
    "oft_blocks": (("oft_blocks",),),
}
# Parts that are added to a weight as they are.
DIFFERENCES = ("diff", "diff_b", "w_norm", "b_norm")


def is_for_text_encoder(key: str) -> bool:
    return _TEXT_ENCODER.match(key) is not None


def parse(key: str) -> tuple[str, str] | None:
    """Splits a key into the name of its layer, as the file has it, and the part of the update: ``down``, ``up``, ``alpha``,
    ``magnitude`` (PEFT's DoRA), or what LyCORIS and hosts call it; None where it ends like no known LoRA key."""
    match = _SUFFIX.fullmatch(key)
    if match is None:
        return None
    if match["letter"]:
        part = "down" if match["letter"] == "A" else "up"
    elif match["magnitude"]:
        part = "magnitude"
    else:
        part = match["kohya"] or match["side"] or match["glora"] or match["alpha"] or match["other"]
    return match["site"], part


def scales_a_factor(key: str) -> bool:
    """Whether an unknown key says that a factor has another size than its tensor."""
    return _FACTOR_SCALE.fullmatch(key) is not None


class Finder:
    """Finds the layers of a network by the names that any program gives them.

    Args:
        modules: name -> weight shape of the network's linear and convolution layers.
    """

    def __init__(self, modules: Modules) -> None:
        self._places = spellings(modules)

    def find(self, site: str, up: str = "") -> tuple[Place | None, str]:
        """Returns where a layer of a file lies in the network, or None, and the name of the file's format.

        Args:
            site: the layer as the file names it.
            up: the key of its ``up`` factor, whose spelling tells some formats apart.
        """
        name = plain_name(site)
        if _underscored(site):
            return self._places.get(name), "kohya"
        original = "temporal_transformer" in name or "attention_blocks" in name
        if original:
            name = diffusers_name(name)
        place = self._places.get(name) or (self._places.get(f"{name}.0") if name.endswith(".to_out") else None)
        return place, _format(site, up, original, place)

    def holder(self, key: str) -> tuple[str, str] | None:
        """Splits a key of whatever ending into the layer of the network that it lies in and the rest; None where it lies in none."""
        stem = key.rpartition(".")[0]
        while stem:
            place, _ = self.find(stem)
            if place is not None:
                return place.module, key.removeprefix(f"{stem}.")
            stem = stem.rpartition(".")[0]
        return None


def plain_name(site: str) -> str:
    """Takes off a layer's name the prefixes of programs, of compilation and of diffusers' old attention processors."""
    if underscored := _underscored(site):
        return underscored
    site = site.replace("_orig_mod.", "")
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if site.startswith(prefix):
                site, stripped = site.removeprefix(prefix), True
    return site.replace(".processor.", ".")


def _underscored(site: str) -> str:
    match = _UNDERSCORED.fullmatch(site.replace("_orig_mod_", ""))
    return match["name"] if match else ""


def _format(site: str, up: str, original: bool, place: Place | None) -> str:
    if place is None:
        return "unknown"
    if original:
        return "AnimateDiff-Evolved"
    if ".processor." in site or "_lora." in up:
        return "AnimateDiff-MotionDirector spatial" if ".attentions." in site else "diffusers"
    if place.program == "original":
        return "original HunyuanVideo"
    if place.program == "ours" and site.startswith(("diffusion_model.", "model.diffusion_model.")):
        return "ComfyUI"
    return "diffusers"


def number(value: Tensor, key: str) -> float:
    """Reads the one number that a tensor of any shape and type holds, such as an alpha.

    Raises:
        ValueError: it is empty, or holds several that differ.
    """
    values = value.flatten().double()
    if not len(values) or not torch.equal(values.nan_to_num(), values[:1].nan_to_num().expand_as(values)):
        raise ValueError(
            f"{key} holds {len(values)} values, and one is needed for its layer. Export the LoRA again with one alpha per layer."
        )
    return float(values[0])


def factor(value: Tensor, key: str) -> Tensor:
    """Returns a factor in a type that can be computed with: 8-bit floats as float32, others as they are.

    Raises:
        ValueError: whole numbers, which mean nothing without a scale of their own.
    """
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise ValueError(f"{key} is stored as {kind}; only floating-point LoRAs can be read. Export it as float16.")
    return value.float() if value.dtype.itemsize == 1 else value


def product_is_zero(down: Tensor, up: Tensor) -> bool:
    """Whether ``up down`` is 0 because no pair of a column of ``up`` and a row of ``down`` has a value other than 0 in both."""
    return not bool(((down != 0).flatten(1).any(1) & (up != 0).flatten(1).any(0)).any())


def zero_parts(parts: Mapping[str, Tensor]) -> set[str]:
    """Names the parts of one layer's update of another kind that change nothing: differences that are 0 throughout, and all others where
    every product among them has a factor that is.

    Args:
        parts: by the names of :func:`parse`.
    """
    empty = {part for part, value in parts.items() if not bool((value.float() != 0).any())}
    others = parts.keys() - set(DIFFERENCES)
    products = [
        product
        for kind, group in _PRODUCTS.items()
        if any(part.startswith(kind) for part in others)
        for product in group
    ]
    # OFT's alpha is a bound, and a LoKr of two whole factors has no use for one.
    scaled = "alpha" in parts and "oft_blocks" not in parts and not {"lokr_w1", "lokr_w2"} <= parts.keys()
    zero = bool(products) and all(any(part in empty for part in product) for product in products)
    zero = (zero or (scaled and "alpha" in empty)) and not {"dora_scale", "rescale", "set_weight"} & others
    return (others if zero else set()) | (empty & set(DIFFERENCES))
