"""Whose LoRA a file is, and which layers of a network it updates."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from torch import Tensor

from .layer_names import Place, Rows, ours_of
from .lora_dora import DoRA
from .lora_formats import LowRank
from .lora_keys import Finder, Modules, factor, is_for_text_encoder, number, parse, plain_name, scales_a_factor
from .lora_pieces import Piece, is_free, joined
from .lora_scales import Scales, read_scales
from .networks.animatediff import diffusers_name

# What stands beside a product and changes its meaning: LoCon's third factor, padded weights, DoRA.
_COMPANIONS = {"mid", "reshape_weight", "dora_scale", "magnitude"}


@dataclass(frozen=True, eq=False)
class MisShaped:
    """A key whose tensor does not fit the layer of its name."""

    key: str
    found: tuple[int, ...]
    needed: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.key} is {list(self.found)}, which does not fit the layer's weight {list(self.needed)}"


@dataclass(frozen=True, eq=False)
class OtherUpdate:
    """An update of another kind than a plain product, of a layer that is known: LoHa, LoKr, a difference, ...

    Attributes:
        module: the layer.
        rows: the outputs of it that are updated, ranges (first, end); () for all.
        keys: part, by the names of :func:`sma.lora_keys.parse`, -> key.
        scale: that the file's metadata gives it, where it has no alpha; 1 else.
    """

    module: str
    rows: Rows
    keys: dict[str, str]
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Reading:
    """What a LoRA file holds for a network.

    Attributes:
        format: whose key format it is, as users know it.
        updates: module name -> update, for all plain products that are understood and fit.
        keys: module name -> the file keys behind its update, or behind its DoRA.
        doras: module name -> update with PEFT's magnitudes.
        others: updates of known layers that are of other kinds; their keys are also among the unmatched.
        unmatched: keys that name no layer of the network, or another kind of update.
        misshaped: keys that name a layer and do not fit it.
        text_encoder: keys that are not for the network at all.
        layers: names of the layers in the file, as far as they can be recognised; a network of the right kind has these.
        zero: the keys, of those in ``keys``, whose product is 0.
        ranks: that the file's products have.
        alphas: that were taken from the metadata; () where the tensors have them, or nothing has.
        scales: what the metadata says of alphas.
    """

    format: str
    updates: dict[str, LowRank]
    keys: dict[str, tuple[str, ...]]
    doras: dict[str, DoRA] = field(default_factory=dict)
    others: tuple[OtherUpdate, ...] = ()
    unmatched: tuple[str, ...] = ()
    misshaped: tuple[MisShaped, ...] = ()
    text_encoder: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    zero: frozenset[str] = frozenset()
    ranks: list[int] = field(default_factory=list)
    alphas: tuple[float, ...] = ()
    scales: Scales = field(default_factory=Scales)


def read_lora(
    tensors: Mapping[str, Tensor], modules: Modules, metadata: Mapping[str, object] = MappingProxyType({})
) -> Reading:
    """Matches the keys of a LoRA file with the layers of a network.

    Understood: ours and other ``diffusion_model.`` files, diffusers and PEFT with DoRA, kohya, diffusion-pipe, OneTrainer, and those of
    AnimateDiff, AnimateDiff-Evolved and AnimateDiff-MotionDirector; every layer under any name of :mod:`sma.layer_names`. Updates of other
    kinds (LoHa, LoKr, differences, ...) stay unmatched, and are listed apart where their layer is known.

    The scale of a product is its alpha over its rank; where it has no alpha, what the metadata says, see
    :func:`sma.lora_scales.read_scales`; and 1 where that is silent too, as in all loaders.

    Args:
        modules: name -> weight shape of the network's linear and convolution layers.
        metadata: of the file.

    Raises:
        ValueError: damaged metadata that a scale is needed from, quantised factors, or an alpha of several values.
    """
    finder, reader = Finder(modules), _Reader(tensors, modules, metadata)
    sites: dict[str, dict[str, str]] = defaultdict(dict)  # layer, as the file names it -> part -> key
    for key in tensors:
        site, part = parse(key) or ("", key)
        if is_for_text_encoder(key):
            reader.text_encoder.append(key)
        # A second spelling of the same part is an update of its own that nothing can tell from the first.
        elif site and part not in sites[site]:
            sites[site][part] = key
        else:
            reader.add_unknown(key, finder.holder(key))
    for site, keys in sorted(sites.items()):
        reader.add(site, keys, *finder.find(site, keys.get("up", "")))
    return reader.result()


class _Reader:
    """What has been read of a file so far."""

    def __init__(self, tensors: Mapping[str, Tensor], modules: Modules, metadata: Mapping[str, object]) -> None:
        self.tensors, self.modules, self.metadata = tensors, modules, metadata
        self.pieces: dict[str, list[Piece]] = defaultdict(list)
        self.text_encoder: list[str] = []
        self.unmatched: list[str] = []
        self.others: list[OtherUpdate] = []
        self.misshaped: list[MisShaped] = []
        self.layers: list[str] = []
        self.alphas: set[float] = set()

    @cached_property
    def scales(self) -> Scales:
        """Read when a layer needs them: where all have alphas of their own, metadata that is damaged does no harm."""
        return read_scales(self.metadata)

    def add_unknown(self, key: str, holder: tuple[str, str] | None) -> None:
        """Takes a key of an ending that is unknown; its layer is still worth naming."""
        if holder and scales_a_factor(key):
            raise ValueError(f"{key} scales a factor, and its format is not known here. Export the LoRA as float16.")
        self.unmatched.append(key)
        # A whole checkpoint has its layers' weights and biases themselves.
        if holder and holder[1] not in ("weight", "bias"):
            self.layers.append(holder[0])
            self.others.append(OtherUpdate(holder[0], (), {holder[1]: key}))

    def add(self, site: str, keys: dict[str, str], place: Place | None, format: str) -> None:
        """Takes the parts of one layer: those of a product, and what is left as an update of another kind."""
        self.layers.append(_guess(site) if place is None else place.module)
        if place is None:
            self.unmatched += keys.values()
            return
        scale = self._scale(site, keys, format)
        companions = _COMPANIONS & keys.keys()
        magnitude = self._magnitude(companions, keys)
        left = dict(keys)
        if {"down", "up"} <= keys.keys() and (magnitude or not companions):
            names = ("down", "up", "alpha", *([magnitude] if magnitude else []))
            used = {part: left.pop(part) for part in names if part in left}
            self._add_product(place, format, used, scale, magnitude)
        if left:
            self.unmatched += left.values()
            self.others.append(OtherUpdate(place.module, place.rows, left, 1.0 if "alpha" in left else scale))

    def _scale(self, site: str, keys: Mapping[str, str], format: str) -> float:
        first = next((keys[part] for part in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if part in keys), None)
        rank = len(self.tensors[first]) if first and self.tensors[first].ndim else 0
        if "alpha" in keys:
            alpha = number(self.tensors[keys["alpha"]], keys["alpha"])
            return alpha / rank if rank else 1.0
        name = plain_name(site)
        scale = self.scales.scale_of(name, rank, kohya=format == "kohya")
        if scale is None:
            return 1.0
        self.alphas.add(self.scales.alpha_of(name))
        return scale

    def _magnitude(self, companions: set[str], keys: Mapping[str, str]) -> str | None:
        """The part that holds a norm per output, as PEFT has it, if nothing else stands beside the product."""
        if companions == {"magnitude"}:
            return "magnitude"
        # Hosts read LyCORIS' form, [out, 1] or [1, in]. A vector can only be meant as PEFT's.
        vector = companions == {"dora_scale"} and self.tensors[keys["dora_scale"]].ndim == 1
        return "dora_scale" if vector else None

    def _add_product(
        self, place: Place, format: str, keys: dict[str, str], scale: float, magnitude: str | None
    ) -> None:
        outputs, *inputs = self.modules[place.module]
        shape = (sum(end - start for start, end in place.rows) or outputs, *inputs)
        down, up = (factor(self.tensors[keys[part]], keys[part]) for part in ("down", "up"))
        update, wrong = fit(down, up, scale, shape, (keys["down"], keys["up"]))
        norms = self.tensors[keys[magnitude]] if magnitude else None
        if wrong is None and norms is not None and norms.numel() != shape[0]:
            wrong = MisShaped(keys[magnitude], tuple(norms.shape), shape)
        if wrong is not None:
            self.misshaped.append(wrong)
        elif is_free(place, self.pieces[place.module], norms is not None):
            norms = None if norms is None else norms.flatten()
            self.pieces[place.module].append(Piece(place, format, update, norms, tuple(keys.values())))
        else:
            self.unmatched += keys.values()

    def result(self) -> Reading:
        updates, doras, keys = {}, {}, {}
        for module in self.modules:
            if not self.pieces[module]:
                continue
            update, magnitude = joined(self.pieces[module], self.modules[module])
            keys[module] = tuple(key for piece in self.pieces[module] for key in piece.keys)
            if magnitude is None:
                updates[module] = update
            elif len(magnitude) == self.modules[module][0]:
                doras[module] = DoRA(update, magnitude)
            else:
                # Of the other rows no norm is known.
                self.unmatched += keys.pop(module)
        pieces = [piece for module in keys for piece in self.pieces[module]]
        formats = Counter(piece.format for piece in pieces)
        return Reading(
            format=formats.most_common(1)[0][0] if formats else "unknown",
            updates=updates,
            keys=keys,
            doras=doras,
            others=tuple(self.others),
            unmatched=tuple(sorted(self.unmatched)),
            misshaped=tuple(self.misshaped),
            text_encoder=tuple(self.text_encoder),
            layers=tuple(self.layers),
            zero=frozenset(key for piece in pieces if piece.is_zero for key in piece.keys),
            ranks=sorted({piece.update.rank for piece in pieces}),
            alphas=tuple(sorted(self.alphas)),
            scales=self.scales if self.alphas else Scales(),
        )


def fit(
    down: Tensor, up: Tensor, scale: float, shape: Sequence[int], keys: tuple[str, str]
) -> tuple[LowRank | None, MisShaped | None]:
    """The update of a weight [out, in, *kernel], or what does not fit. Flat and 1x1 forms of the same product are accepted."""
    if down.ndim < 2 or not len(down) or down[0].numel() != math.prod(shape[1:]):
        return None, MisShaped(keys[0], tuple(down.shape), tuple(shape))
    rank = len(down)
    if up.ndim < 2 or len(up) != shape[0] or up[0].numel() != rank:
        return None, MisShaped(keys[1], tuple(up.shape), tuple(shape))
    return LowRank(down.reshape(rank, *shape[1:]), up.reshape(shape[0], rank, *[1] * len(shape[2:])), scale), None


def _guess(site: str) -> str:
    """What a layer that the network lacks is called in a network of the right kind, as far as that can be recognised."""
    name = diffusers_name(plain_name(site))
    candidates = ours_of(name)
    return candidates[0] if len(candidates) == 1 else name
