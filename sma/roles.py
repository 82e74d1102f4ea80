"""Which layers of a network carry motion, and which clips it takes: one entry per family.

A family is recognised by the names of its modules, so the same table serves a network in any host. Adding one is adding an entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from . import blocks, variants
from .checks import shown
from .lora import is_adaptable
from .patterns import NamePattern


@dataclass(frozen=True, eq=False)
class Family:
    """One kind of video network.

    Attributes:
        name: as users know it.
        signature: a pattern; a network with a module name that matches fully is of this family.
        roles: role -> pattern over module names (full match) of the linear and convolution layers that play it.
        motion: the roles adapted by default, because motion lives there.
        looks: the roles that MotionDirector's spatial path adapts, because what single frames show lives there.
        joint: attention runs over space and time together, so no layer is about motion alone.
        temporal: frames that one latent frame stands for; the first stands for itself, so clips have 1 + n * temporal frames.
        spatial: side, in pixels, of what the family's usual VAE makes one latent pixel.
        patch: side, in latent pixels, of what the network makes one token.
        blocks: names of the module lists that hold its blocks, in the order they run; they are numbered through.
        over_time: a pattern over the modules that do nothing but mix frames; of one frame each is to be the identity.
        positions: a pattern over buffers [1, F, width] of which the shortest bounds the frames, if the network has such.
        variant: which member of the family a network is.
        experts: members come as two networks, one for high noise and one for low.
        diffusers: the network is diffusers' own, and so are the names of its modules.
    """

    name: str
    signature: str
    roles: dict[str, str]
    motion: tuple[str, ...]
    looks: tuple[str, ...]
    joint: bool = False
    temporal: int = 1
    spatial: int = 8
    patch: int = 1
    blocks: tuple[str, ...] = ()
    over_time: str = ""
    positions: str = ""
    variant: Callable[[nn.Module], str] | None = None
    experts: bool = False
    diffusers: bool = False

    @property
    def size_multiple(self) -> int:
        """Sides of a clip, in pixels, that the network sees without padding or cropping are multiples of this."""
        return self.spatial * self.patch

    def nearest_frames(self, frames: int) -> int:
        """The legal frame count nearest to ``frames``, of two the longer one, and at least 2 latent frames."""
        return 1 + self.temporal * max(1, (frames - 1 + self.temporal // 2) // self.temporal)

    def nearest_side(self, pixels: int) -> int:
        """The multiple of :attr:`size_multiple` nearest to ``pixels``."""
        return max(1, round(pixels / self.size_multiple)) * self.size_multiple


FAMILIES = (
    Family(
        name="UNet3D",
        diffusers=True,
        signature=r"(down_blocks|up_blocks)\.\d+\.temp_convs\.\d+\.conv1\.\d+",
        roles={
            # MotionDirector's temporal sites are attn1, attn2 and ff; proj_in and proj_out belong to the same transformer.
            "temporal attention": r".*temp_attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0))",
            # What VMC trains.
            "temporal q, k, v": r".*temp_attentions\.\d+\.transformer_blocks\.\d+\.attn[12]\.to_[qkv]",
            "temporal feed-forward": r".*temp_attentions\.\d+\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
            # Without a frame-position embedding temporal attention cannot tell frame order; only these convolutions can.
            "temporal convolution": r".*temp_convs\.\d+\.conv\d\.\d+",
            "temporal input": r"transformer_in\.(proj_in|proj_out|transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)))",
            "spatial attention": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn1\.to_(q|k|v|out\.0)",
            "cross-attention": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn2\.to_(q|k|v|out\.0)",
            "feed-forward": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
        },
        motion=("temporal attention", "temporal feed-forward", "temporal convolution", "temporal input"),
        looks=("spatial attention", "feed-forward"),
        over_time=r"transformer_in|.*\.temp_(convs|attentions)\.\d+",
    ),
    Family(
        name="AnimateDiff",
        diffusers=True,
        signature=r".*motion_modules\.\d+\.transformer_blocks\.\d+\.attn1",
        roles={
            # The sites that MotionDirector's AnimateDiff port trains; files for AnimateDiff-Evolved hold no others.
            "temporal attention": r".*motion_modules\.\d+\.transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)",
            "temporal q, k, v": r".*motion_modules\.\d+\.transformer_blocks\.\d+\.attn[12]\.to_[qkv]",
            "temporal feed-forward": r".*motion_modules\.\d+\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
            "temporal projection": r".*motion_modules\.\d+\.proj_(in|out)",
            "spatial attention": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn1\.to_(q|k|v|out\.0)",
            "cross-attention": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn2\.to_(q|k|v|out\.0)",
            "feed-forward": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
            "spatial projection": r".*\.attentions\.\d+\.proj_(in|out)",
        },
        motion=("temporal attention", "temporal feed-forward"),
        looks=("spatial attention", "cross-attention", "feed-forward", "spatial projection"),
        over_time=r".*motion_modules\.\d+",
        positions=r".*motion_modules\.\d+\.transformer_blocks\.\d+\.pos_embed\.pe",
    ),
    Family(
        name="Wan",
        signature=r"blocks\.\d+\.self_attn\.norm_q",
        roles={
            "self-attention": r"blocks\.\d+\.self_attn\.(q|k|v|o)",
            "cross-attention": r"blocks\.\d+\.cross_attn\.(q|k|v|o|k_img|v_img)",
            "feed-forward": r"blocks\.\d+\.ffn\.(0|2)",
        },
        motion=("self-attention",),
        looks=("self-attention", "feed-forward"),
        joint=True,
        temporal=4,
        patch=2,
        blocks=("blocks",),
        variant=variants.wan,
        experts=True,
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
        looks=("self-attention", "feed-forward"),
        joint=True,
        temporal=8,
        spatial=32,
        blocks=("transformer_blocks",),
        variant=variants.ltx,
    ),
    Family(
        name="HunyuanVideo",
        # Flux has the same blocks, but not this reader of the text.
        signature=r"txt_in\.individual_token_refiner\.blocks\.\d+\.norm1",
        roles={
            # Video and text attend to each other in one attention; the single blocks fuse it with their feed-forward.
            "self-attention": r"double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)",
            "feed-forward": r"double_blocks\.\d+\.(img|txt)_mlp\.(0|2)",
            "fused attention": r"single_blocks\.\d+\.linear[12]",
        },
        motion=("self-attention", "fused attention"),
        looks=("self-attention", "feed-forward", "fused attention"),
        joint=True,
        temporal=4,
        patch=2,
        blocks=("double_blocks", "single_blocks"),
        variant=variants.hunyuan,
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
    """Names of the layers that play a role: one of the family's own, ``"motion"`` (its default), ``"looks"`` or ``"everything"``.

    Raises:
        ValueError: the family is unknown, lacks the role, or no module of the network matches.
    """
    family = family_of(network)
    if role == "motion":
        patterns: Iterable[str] = [family.roles[name] for name in family.motion]
    elif role == "looks":
        patterns = [family.roles[name] for name in family.looks]
    elif role == "everything":
        patterns = family.roles.values()
    elif role in family.roles:
        patterns = [family.roles[role]]
    else:
        raise ValueError(
            f"{family.name} has no {role!r} layers; it has {', '.join(family.roles)}. Choose one of these."
        )
    return _select(network, re.compile("|".join(patterns)).fullmatch, f"the role {role!r} of {family.name}")


def matching(network: nn.Module, pattern: str) -> list[str]:
    """Names of the linear and convolution layers whose full name matches a regular expression, in module order.

    Raises:
        ValueError: the pattern is no regular expression that can be matched in time, or nothing matches.
    """
    return _select(network, NamePattern(pattern).matches, shown(pattern))


def _select(network: nn.Module, matches: Callable[[str], object], wanted: str) -> list[str]:
    adaptable = [name for name, module in network.named_modules() if is_adaptable(module)]
    chosen = [name for name in adaptable if matches(name)]
    if not chosen:
        example = f", which are named like {adaptable[len(adaptable) // 2]!r}" if adaptable else ""
        raise ValueError(f"0 of {len(adaptable)} modules match {wanted}{example}. Choose other layers.")
    return chosen


def in_blocks(network: nn.Module, names: Iterable[str], ranges: str) -> list[str]:
    """Those of the layers that lie in blocks such as ``"0-9, 20-29"``, both ends included; all of them for ``""``.

    Raises:
        ValueError: no such ranges, blocks that the network lacks, a family without numbered blocks, or no layer left.
    """
    names = list(names)
    if not ranges.strip():
        return names
    family = family_of(network)
    if not family.blocks:
        raise ValueError(f"{family.name} has no numbered blocks; leave blocks empty or choose by a regular expression.")
    number = blocks.numbers(network, family.blocks)
    wanted = blocks.parse(ranges, len(number))
    chosen = [name for name in names if number.get(blocks.of(name)) in wanted]
    if not chosen:
        raise ValueError(
            f"None of the {len(names)} chosen layers lies in blocks {ranges!r}. Choose other blocks or layers."
        )
    return chosen


def check_frames(network: nn.Module, frames: int) -> None:
    """Nothing where the network can place so many latent frames in time; it is silent about unknown families.

    Raises:
        ValueError: there is one latent frame alone, or the network's table of frame positions is shorter.
    """
    family = known_family(network)
    if family is None:
        return
    if frames < 2 < family.nearest_frames(2):
        raise ValueError(
            f"The clip is 1 latent frame of this {family.name} model; motion needs at least 2, which stand for "
            f"{family.nearest_frames(2)} frames. Raise frame_count or pick a longer clip."
        )
    if not family.positions:
        return
    tables = (buffer for name, buffer in network.named_buffers() if re.fullmatch(family.positions, name))
    most = min((table.shape[1] for table in tables), default=frames)
    if frames > most:
        raise ValueError(
            f"The clip has {frames} frames and this {family.name} model places at most {most}. Shorten it."
        )


def variant_of(network: nn.Module) -> str:
    """Which member of its family a network is, such as ``"2.1 t2v"``; "" where the family is unknown or has but one."""
    family = known_family(network)
    return family.variant(network) if family is not None and family.variant is not None else ""


def describe(network: nn.Module, names: Iterable[str], latent_frames: int, frames: int) -> str:
    """One line on what is adapted, e.g. "Wan 2.1 t2v, 30 blocks, 21 latent frames (81 frames), 120 of 307 modules adapted, attention
    joint over space and time"."""
    names = list(names)
    family = known_family(network)
    parts = [" ".join(filter(None, [family.name if family else type(network).__name__, variant_of(network)]))]
    if family and family.blocks:
        parts.append(f"{len(blocks.numbers(network, family.blocks))} blocks")
    parts.append(f"{latent_frames} latent frames" + (f" ({frames} frames)" if frames != latent_frames else ""))
    parts.append(f"{len(names)} of {sum(is_adaptable(module) for module in network.modules())} modules adapted")
    if family and family.joint:
        parts.append("attention joint over space and time")
    return ", ".join(parts)


def known_family(network: nn.Module) -> Family | None:
    """The family a network belongs to, or None."""
    try:
        return family_of(network)
    except ValueError:
        return None
