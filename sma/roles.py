"""Which layers of a network carry motion: per family, a role's name and the modules that play it.

A family is recognised by the names of its modules, so the same table serves a network in any host. Adding one is adding an entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from .lora import is_adaptable


@dataclass(frozen=True, eq=False)
class Family:
    """One kind of video network.

    Attributes:
        name: as users know it.
        signature: a pattern; a network with a module name that matches fully is of this family.
        roles: role -> pattern over module names (full match) of the linear and convolution layers that play it.
        motion: the roles adapted by default, because motion lives there.
    """

    name: str
    signature: str
    roles: dict[str, str]
    motion: tuple[str, ...]


FAMILIES = (
    Family(
        name="UNet3D",
        signature=r"(down_blocks|up_blocks)\.\d+\.temp_convs\.\d+\.conv1\.\d+",
        roles={
            # MotionDirector's temporal sites are attn1, attn2 and ff; proj_in and proj_out belong to the same transformer.
            "temporal attention": r".*temp_attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0))",
            "temporal feed-forward": r".*temp_attentions\.\d+\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
            # Without a frame-position embedding temporal attention cannot tell frame order; only these convolutions can.
            "temporal convolution": r".*temp_convs\.\d+\.conv\d\.\d+",
            "temporal input": r"transformer_in\.(proj_in|proj_out|transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)))",
            "spatial attention": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn1\.to_(q|k|v|out\.0)",
            "cross-attention": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn2\.to_(q|k|v|out\.0)",
            "feed-forward": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
        },
        motion=("temporal attention", "temporal feed-forward", "temporal convolution", "temporal input"),
    ),
    Family(
        name="AnimateDiff",
        signature=r".*motion_modules\.\d+\.transformer_blocks\.\d+\.attn1",
        roles={
            # The sites that MotionDirector's AnimateDiff port trains; files for AnimateDiff-Evolved hold no others.
            "temporal attention": r".*motion_modules\.\d+\.transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)",
            "temporal feed-forward": r".*motion_modules\.\d+\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
            "temporal projection": r".*motion_modules\.\d+\.proj_(in|out)",
            "spatial attention": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn1\.to_(q|k|v|out\.0)",
            "cross-attention": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn2\.to_(q|k|v|out\.0)",
            "feed-forward": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
            "spatial projection": r".*\.attentions\.\d+\.proj_(in|out)",
        },
        motion=("temporal attention", "temporal feed-forward"),
    ),
    Family(
        name="Wan",
        signature=r"blocks\.\d+\.self_attn\.norm_q",
        roles={
            "self-attention": r"blocks\.\d+\.self_attn\.(q|k|v|o)",
            "cross-attention": r"blocks\.\d+\.cross_attn\.(q|k|v|o)",
            "feed-forward": r"blocks\.\d+\.ffn\.(0|2)",
        },
        # Its attention runs over space and time together: no layer is about motion alone.
        motion=("self-attention",),
    ),
    Family(
        name="LTX-Video",
        signature=r"transformer_blocks\.\d+\.attn1\.q_norm",
        roles={
            "self-attention": r"transformer_blocks\.\d+\.attn1\.to_(q|k|v|out\.0)",
            "cross-attention": r"transformer_blocks\.\d+\.attn2\.to_(q|k|v|out\.0)",
            "feed-forward": r"transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
        },
        motion=("self-attention",),
    ),
    Family(
        name="HunyuanVideo",
        signature=r"double_blocks\.\d+\.img_attn\.qkv",
        roles={
            # Video and text attend to each other in one attention; the single blocks fuse it with their feed-forward.
            "self-attention": r"double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)",
            "feed-forward": r"double_blocks\.\d+\.(img|txt)_mlp\.(0|2)",
            "fused attention": r"single_blocks\.\d+\.linear[12]",
        },
        motion=("self-attention", "fused attention"),
    ),
)

ROLES = ("motion", *dict.fromkeys(role for family in FAMILIES for role in family.roles), "everything")


def family_of(network: nn.Module) -> Family:
    """The family a network belongs to.

    Raises:
        ValueError: no known family; layers can then still be chosen by a regular expression, see :func:`matching`.
    """
    names = [name for name, _ in network.named_modules()]
    for family in FAMILIES:
        if any(re.fullmatch(family.signature, name) for name in names):
            return family
    raise ValueError(
        f"{type(network).__name__} is no video network of a known family ({', '.join(f.name for f in FAMILIES)}). "
        "Choose its layers by a regular expression."
    )


def family_of_layers(names: Iterable[str]) -> Family | None:
    """The family whose roles know most of these layer names, as of a LoRA file that adapts some; None where none knows any."""
    names = list(names)
    known = {family: sum(_plays_any(family, name) for name in names) for family in FAMILIES}
    best = max(FAMILIES, key=known.__getitem__)
    return best if known[best] else None


def _plays_any(family: Family, name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in family.roles.values())


def layers_of(network: nn.Module, role: str) -> list[str]:
    """Names of the layers that play a role: one of the family's own, ``"motion"`` (its default) or ``"everything"``.

    Raises:
        ValueError: the family is unknown, lacks the role, or no module of the network matches.
    """
    family = family_of(network)
    if role == "motion":
        patterns: Iterable[str] = [family.roles[name] for name in family.motion]
    elif role == "everything":
        patterns = family.roles.values()
    elif role in family.roles:
        patterns = [family.roles[role]]
    else:
        raise ValueError(
            f"{family.name} has no {role!r} layers; it has {', '.join(family.roles)}. Choose one of these."
        )
    return _select(network, re.compile("|".join(patterns)), f"the role {role!r} of {family.name}")


def matching(network: nn.Module, pattern: str) -> list[str]:
    """Names of the linear and convolution layers whose full name matches a regular expression, in module order.

    Raises:
        ValueError: the pattern is no regular expression, or nothing matches.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}.") from error
    return _select(network, expression, repr(pattern))


def _select(network: nn.Module, expression: re.Pattern[str], wanted: str) -> list[str]:
    adaptable = [name for name, module in network.named_modules() if is_adaptable(module)]
    chosen = [name for name in adaptable if expression.fullmatch(name)]
    if not chosen:
        example = f", which are named like {adaptable[len(adaptable) // 2]!r}" if adaptable else ""
        raise ValueError(f"0 of {len(adaptable)} modules match {wanted}{example}. Choose other layers.")
    return chosen


def describe(network: nn.Module, names: Iterable[str], latent_frames: int, frames: int) -> str:
    """One line on what is adapted, e.g. "Wan, 4 latent frames (13 frames), 8 of 27 modules adapted"."""
    names = list(names)
    try:
        family = family_of(network).name
    except ValueError:
        family = type(network).__name__
    total = sum(is_adaptable(module) for module in network.modules())
    stands_for = f" ({frames} frames)" if frames != latent_frames else ""
    return f"{family}, {latent_frames} latent frames{stands_for}, {len(names)} of {total} modules adapted"
