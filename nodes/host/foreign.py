"""LoRA updates other than plain products, as the host's own code reads and applies them, and what becomes of each file key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.weight_adapter
import torch
from torch import Tensor

from ...sma.finite import is_finite
from ...sma.lora_dora import DoRA, dora_weight
from ...sma.lora_formats import PREFIX
from ...sma.lora_keys import DIFFERENCES, factor, number, parse, zero_parts
from ...sma.lora_reading import OtherUpdate, Reading

# How the host's adapters spell what sma.lora_keys has shorter names for.
_HOST_SUFFIX = {
    "up": "lora_up.weight",
    "down": "lora_down.weight",
    "mid": "lora_mid.weight",
    **{part: f"{part}.weight" for part in ("a1", "a2", "b1", "b2")},
}
# Parts that the host's adapters have no say in.
_WHOLE = {*DIFFERENCES, "set_weight"}
# Parts that may be whole numbers.
_WHOLE_NUMBERS = {"alpha", "reshape_weight", "rescale"}
# The factors that a scale of the file's metadata is multiplied into; the first that is there.
_SCALED = ("up", "hada_w1_a", "lokr_w1", "lokr_w1_a")


@dataclass(eq=False)
class Foreign:
    """Patches for the host, and the weight each key of the file changes.

    Attributes:
        tables: for ``add_patches``; several, since one weight may have a patch in each.
        targets: file key -> the weight of the model that it changes; None where it changes none.
        zero: the keys among them whose update is 0.
    """

    tables: list[dict[Any, Any]] = field(default_factory=list)
    targets: dict[str, str | None] = field(default_factory=dict)
    zero: set[str] = field(default_factory=set)

    def add(self, target: Any, patch: Any) -> None:
        for table in self.tables:
            if target not in table:
                table[target] = patch
                return
        self.tables.append({target: patch})


class MagnitudeAdapter(comfy.weight_adapter.WeightAdapterBase):
    """PEFT's DoRA for the host. The host's own takes the norm of the layer's weight alone, and PEFT that of weight and update.

    weights: (down, up, scale, magnitude), see :class:`sma.lora_dora.DoRA`. A strength goes from the layer's weight to that with DoRA, as
    the host's.
    """

    name = "dora"

    def __init__(self, loaded_keys: set[str], weights: tuple[Any, ...]) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights

    @classmethod
    def of(cls, dora: DoRA) -> MagnitudeAdapter:
        return cls(set(), (dora.update.down, dora.update.up, dora.update.scale, dora.magnitude))

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        weight += function(strength * (dora_weight(weight, *self.weights) - weight))
        return weight


class _Seen(dict):
    """Tensors by key; remembers which were asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default


def read_foreign(model: Any, name: str, tensors: Mapping[str, Tensor], reading: Reading) -> Foreign:
    """Reads what :func:`sma.lora_reading.read_lora` left: other updates of layers that it knows, and layers by the host's own names.

    Every patch is tried on a weight without memory first, because the host drops one that does not fit with nothing but a line in its
    log. For a LoKr of all 400 layers of a Wan 14B that takes half a second and no memory; an OFT computes its blocks once.

    Raises:
        ValueError: an update is incomplete, holds NaN, or does not fit its layer.
    """
    weights = model.model.state_dict()
    foreign = Foreign()
    for update in reading.others:
        _add(foreign, update, name, tensors, weights)
    known = {key for update in reading.others for key in update.keys.values()}
    _add_by_the_hosts_names(foreign, model, name, {key: tensors[key] for key in reading.unmatched if key not in known})
    for table in foreign.tables:
        for target, patch in table.items():
            _check(name, target, patch, weights)
    return foreign


def _add(
    foreign: Foreign, update: OtherUpdate, name: str, tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> None:
    """Adds the update of a layer that is known, whatever the file calls it."""
    foreign.targets |= dict.fromkeys(update.keys.values())
    if len(update.rows) > 1:
        return
    parts = {part: tensors[key] for part, key in update.keys.items()}
    if broken := [key for part, key in update.keys.items() if not is_finite(parts[part])]:
        raise ValueError(_broken(name, update.module, broken))
    weight, zero = f"{PREFIX}{update.module}.weight", zero_parts(parts)
    for part in [part for part in parts if part in _WHOLE]:
        target = f"{PREFIX}{update.module}.bias" if part in ("diff_b", "b_norm") else weight
        if target in weights:
            kind = "set" if part == "set_weight" else "diff"
            foreign.add(_place(target, update), (kind, (factor(parts[part], update.keys[part]),)))
            foreign.targets[update.keys[part]] = target
    if update.scale != 1.0 and (scaled := next((part for part in _SCALED if part in parts), None)):
        parts[scaled] = parts[scaled].float() * update.scale
    if "alpha" in parts:
        parts["alpha"] = torch.tensor(number(parts["alpha"], update.keys["alpha"]))
    spelt = {part: f"layer.{_HOST_SUFFIX.get(part, part)}" for part in parts.keys() - _WHOLE}
    named = _Seen({host: parts[part] for part, host in spelt.items()})
    try:
        patches = comfy.lora.load_lora(named, {"layer": weight}, log_missing=False)
    except KeyError as error:
        missing = next((part for part, host in spelt.items() if host == error.args[0]), None) or error.args[0]
        raise ValueError(_incomplete(name, update.module, str(missing).removeprefix("layer."))) from error
    read = {part for part, host in spelt.items() if host in named.seen}
    for part in read - _WHOLE_NUMBERS:
        factor(parts[part], update.keys[part])
    for patch in patches.values():
        foreign.add(_place(weight, update), patch)
        foreign.targets |= {update.keys[part]: weight for part in read}
    foreign.zero.update(update.keys[part] for part in zero)


def _place(weight: str, update: OtherUpdate) -> Any:
    """The host's name of a weight, or of some of its rows."""
    if not update.rows:
        return weight
    ((start, end),) = update.rows
    return weight, (0, start, end - start)


def _add_by_the_hosts_names(foreign: Foreign, model: Any, name: str, rest: Mapping[str, Tensor]) -> None:
    """Adds what only the host's own tables know: norms, bare parameters, and networks that are of no family here."""
    if not rest:
        return
    # The host's own conversion renames keys of some programs; reports then give the new ones.
    named = _Seen(comfy.lora_convert.convert_lora(dict(rest)))
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    for key, value in named.items():
        if key.endswith(".alpha") and _weight_of(key, known):
            named[key] = torch.tensor(number(value, key))
    try:
        patches = comfy.lora.load_lora(named, known, log_missing=False)
    except KeyError as error:
        raise ValueError(f"{name} is incomplete: it lacks {error}. Download or export it again.") from error
    for target, patch in patches.items():
        foreign.add(target, patch)
    changed = {target_of(target) for target in patches}
    by_layer: dict[str, dict[str, str]] = {}
    for key in named:
        weight = _weight_of(key, known)
        bias = f"{weight.removesuffix('.weight')}.bias" if weight else None
        target = weight if weight in changed else bias if bias in changed else None
        foreign.targets[key] = target if key in named.seen else None
        if foreign.targets[key] is not None and not is_finite(named[key]):
            raise ValueError(_broken(name, str(weight), [key]))
        site, part = parse(key) or ("", key)
        if foreign.targets[key] is not None and site:
            by_layer.setdefault(site, {})[part] = key
    for keys in by_layer.values():
        foreign.zero.update(keys[part] for part in zero_parts({part: named[key] for part, key in keys.items()}))


def _check(name: str, target: Any, patch: Any, weights: Mapping[str, Tensor]) -> None:
    weight = target_of(target)
    if weight not in weights:
        return
    shape = list(weights[weight].shape)
    if not isinstance(target, str):
        shape[target[1][0]] = target[1][2]
    if isinstance(patch, tuple):
        if patch[0] in ("diff", "set") and list(patch[1][0].shape) != shape:
            raise ValueError(
                f"{name}: the update of {weight} is {list(patch[1][0].shape)} and the weight {shape}. It is for a model of another size."
            )
        return
    if not _fits(patch, shape):
        factors = ", ".join(str(list(value.shape)) for value in patch.weights if isinstance(value, Tensor))
        raise ValueError(
            f"{name}: the {patch.name} update of {weight}, made of {factors}, does not fit that weight {shape}. "
            "It is for a model of another size, or damaged."
        )


def _fits(patch: Any, shape: Iterable[int]) -> bool:
    """Whether the host's adapter changes a weight of this shape: it does so in place, or gives a new one."""
    device = "meta"
    shape = tuple(shape)
    if patch.name in ("oft", "boft"):
        # These look at values. Of a weight they only need the outputs.
        device, shape = "cpu", (shape[0], *[1] * (len(shape) - 1))
    with torch.inference_mode(False), torch.no_grad():
        weight = torch.zeros(shape, device=device)
        before = weight._version
        try:
            result = patch.calculate_weight(weight, "", 1.0, 1.0, None, lambda change: change)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError):
            return False
        return result is not None and (result is not weight or weight._version > before)


def _incomplete(name: str, module: str, part: str) -> str:
    return f"{name} is incomplete: of {module} it lacks {part}. Download or export it again."


def _broken(name: str, layer: str, keys: list[str]) -> str:
    return f"{name} holds NaN or infinite values in the update of {layer}, for example {keys[0]}. Its training failed; use another."


def _weight_of(key: str, known: Mapping[str, Any]) -> str | None:
    """The weight that a file key is about, by the longest name before its suffix that the host knows."""
    stem = key
    while stem:
        for name in (stem, stem.removesuffix("_lora")):
            if name in known:
                return target_of(known[name])
        stem = stem.rpartition(".")[0]
    return None


def target_of(key: Any) -> str:
    """A patch's weight; the host gives parts of one as (name, part)."""
    return key if isinstance(key, str) else key[0]
