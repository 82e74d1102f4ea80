"""LoRAs of any program put on a MODEL, with a count of what was applied; one that changes nothing is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.weight_adapter
import torch
from torch import Tensor, nn

from ...sma.lora import LoRALayer, is_adaptable
from ...sma.lora_formats import PREFIX, LowRank
from ...sma.lora_reading import Reading, read_lora, read_motiondirector
from ...sma.roles import family_of, family_of_layers
from .compiled import compiled_parts, looks_inside
from .weights import SAFETENSORS_SUFFIXES, named_tensors, read_metadata, read_pickle, read_weights
from .worn import Range, WornLoRA

_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# The host's function of a layer and what comes before it.
_FOLDED = "linear_input_act"
AUTO, PATCH, BYPASS = "auto", "patch weights", "bypass"


@dataclass(frozen=True, eq=False)
class LoRASource:
    """A LoRA before it meets a model.

    Attributes:
        name: for messages.
        tensors: by file key, or MotionDirector's bare list.
        metadata: what the file says about itself.
    """

    name: str
    tensors: Mapping[str, Tensor] | list[Tensor]
    metadata: Mapping[str, object]


def read_source(path: Path) -> LoRASource:
    """Reads a LoRA file; pickles with weights_only.

    Raises:
        ValueError: a file without tensors, or one that wants to run code.
    """
    if path.suffix.lower() in SAFETENSORS_SUFFIXES:
        return LoRASource(path.name, read_weights(path), read_metadata(path))
    content = read_pickle(path)
    if isinstance(content, list) and content and all(isinstance(item, Tensor) for item in content):
        return LoRASource(path.name, content, {})
    return LoRASource(path.name, named_tensors(content, path.name), {})


@looks_inside
def wear(model: Any, lora: LoRASource, *, strength: float, apply: str, where: Range) -> tuple[Any, str]:
    """A clone of a MODEL that wears a LoRA, and a line about what was applied.

    Args:
        apply: ``"patch weights"``: W + update, as the host does it. ``"bypass"``: the update is computed beside the layer, exactly as in
            training. ``"auto"``: bypass where a range or quantised weights need it, else patch. Layers that the host computes
            without calling them are patched in any case.

    Raises:
        ValueError: the LoRA is for another model, does not fit, changes nothing, or cannot be worn as asked.
    """
    network = model.model.diffusion_model
    targets = {name: module for name, module in network.named_modules() if is_adaptable(module)}
    shapes = {name: _shape(module) for name, module in targets.items()}
    if isinstance(lora.tensors, list):
        reading = read_motiondirector(lora.tensors, shapes)
    else:
        reading = read_lora(lora.tensors, shapes)
    if reading.misshaped:
        more = f" and {len(reading.misshaped) - 1} more do not fit" if len(reading.misshaped) > 1 else ""
        raise ValueError(f"{lora.name}: {reading.misshaped[0]}{more}. {_right_model(lora)}")
    if apply == PATCH and not where.everywhere:
        raise ValueError(
            f"The LoRA shall be worn {where}, and patched weights hold always. Set apply to auto or bypass."
        )
    if broken := [name for name, update in reading.updates.items() if not _is_finite(update)]:
        raise ValueError(
            f"{lora.name} holds NaN or infinite values in {len(broken)} layers, for example {broken[0]}. Its training failed; use another."
        )
    unpatchable = compiled_parts(model) or any(_is_quantised(targets[name]) for name in reading.updates)
    uncalled = _computed_uncalled(network)
    bypass = apply == BYPASS or (apply == AUTO and (unpatchable or not where.everywhere))

    layers: dict[str, LoRALayer] = {}
    patches: dict[Any, Any] = {}
    for name, update in reading.updates.items():
        if bypass and name not in uncalled and _can_be_bypassed(targets[name]):
            layers[name] = _layer(name, targets[name], update, strength)
        else:
            patches[f"{PREFIX}{name}.weight"] = _adapter(update)
    foreign = _read_by_the_host(model, lora, reading)
    # Not one table: a layer may have a product of ours and a difference of the host's.
    tables = [table for table in (patches, foreign.patches) if table]
    if tables and not where.everywhere:
        raise ValueError(
            f"{lora.name} holds {sum(map(len, tables))} updates that can only be patched, for example {_target(next(iter(tables[0])))}, "
            "and no range can limit those. Wear it everywhere."
        )
    if hidden := [_target(key) for table in tables for key in table if _target(key).startswith(compiled_parts(model))]:
        remedy = "Set apply to auto or bypass." if apply == PATCH else "Remove the node that compiles it."
        raise ValueError(f"{hidden[0]} is in a compiled part of this MODEL, where ComfyUI patches no weights. {remedy}")
    worn = model.clone()
    # A clone of a loaded MODEL claims to be injected. The host would then put what is added here on a network that the other is using.
    worn.is_injected = False
    added = {_target(key) for table in tables for key in worn.add_patches(table, strength)}
    applied = sum(
        len(keys) for name, keys in reading.keys.items() if name in layers or f"{PREFIX}{name}.weight" in added
    )
    taken = [key for key, target in foreign.targets.items() if target in added]
    applied += len(taken)
    if not applied:
        raise ValueError(_other_model(model, network, lora, reading))
    if layers:
        WornLoRA(layers).put_on(worn, where)
    unknown = [key for key in foreign.targets if key not in taken]
    how = "bypassed" if layers else "patched"
    if layers and added:
        how += f", {len(added)} of its weights patched"
    return worn, _report(lora, reading, applied, unknown, how, where)


def _report(lora: LoRASource, reading: Reading, applied: int, unknown: list[str], how: str, where: Range) -> str:
    ranks = reading.ranks
    rank = f", rank {'-'.join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))}" if ranks else ""
    source = f"{reading.format} format" if reading.updates else "by core's own rules"
    limits = "" if where.everywhere else f", {where}"
    text = f"{applied} of {applied + len(unknown)} keys applied ({source}{rank}, {how}{limits})"
    if unknown:
        text += f", {len(unknown)} unknown, for example {unknown[0]}"
    if reading.text_encoder:
        text += f"; {len(reading.text_encoder)} keys are for the text encoder: core's Load LoRA applies those"
    return text


@dataclass(frozen=True, eq=False)
class _Foreign:
    """What the host made of keys that are no plain low-rank products.

    ``targets``: file key, in the names the host converts some to, -> the weight of the model that it changes, or None.
    """

    patches: dict[Any, Any]
    targets: dict[str, str | None]


def _read_by_the_host(model: Any, lora: LoRASource, reading: Reading) -> _Foreign:
    if not reading.unmatched:
        return _Foreign({}, {})
    rest = comfy.lora_convert.convert_lora({key: lora.tensors[key] for key in reading.unmatched})
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    try:
        patches = comfy.lora.load_lora(rest, known, log_missing=False)
    except KeyError as error:
        raise ValueError(f"{lora.name} is incomplete: it lacks {error}. Download or export it again.") from error
    weights = model.model.state_dict()
    for target, patch in patches.items():
        # The host would drop such a patch with nothing but a line in its log.
        if (
            isinstance(patch, tuple)
            and patch[0] in ("diff", "set")
            and patch[1][0].shape != weights[_target(target)].shape
        ):
            found, needed = list(patch[1][0].shape), list(weights[_target(target)].shape)
            raise ValueError(
                f"{lora.name}: the update of {_target(target)} is {found} and the weight {needed}. {_right_model(lora)}"
            )
    changed = {_target(target) for target in patches}
    targets = {}
    for key in rest:
        weight = _target_of(key, known)
        bias = f"{weight.removesuffix('.weight')}.bias" if weight else None
        targets[key] = weight if weight in changed else bias if bias in changed else None
    return _Foreign(patches, targets)


def _target_of(key: str, known: Mapping[str, Any]) -> str | None:
    """The weight that a file key is about, by the longest name before its suffix that the host knows."""
    stem = key
    while stem:
        for name in (stem, stem.removesuffix("_lora")):
            if name in known:
                return _target(known[name])
        stem = stem.rpartition(".")[0]
    return None


def _target(key: Any) -> str:
    """A patch's weight; the host gives parts of one as (name, part)."""
    return key if isinstance(key, str) else key[0]


def _other_model(model: Any, network: nn.Module, lora: LoRASource, reading: Reading) -> str:
    try:
        here = family_of(network).name
    except ValueError:
        here = type(model.model).__name__
    modules = dict(network.named_modules())
    if halves := [layer for layer in reading.layers if layer in modules]:
        return f"{lora.name} is incomplete: of {halves[0]} it lacks a factor. Download or export it again."
    made_for = lora.metadata.get("base_model")
    family = family_of_layers(reading.layers)
    example = f" ({reading.layers[0]}, ...)" if reading.layers else ""
    if family is not None and family.name != here:
        text = f"{lora.name} was made for {family.name}{example}; this model is {here}."
    elif made_for:
        text = f"{lora.name} was made for {made_for}{example}; this model is {here}, and no key names a layer of it."
    elif reading.layers:
        text = f"No key of {lora.name} names a layer of this model, which is {here}; its layers are like {reading.layers[0]!r}."
    elif reading.text_encoder and not reading.unmatched:
        return f"{lora.name} has keys for a text encoder only ({reading.text_encoder[0]}, ...). Use core's Load LoRA with the CLIP."
    else:
        return f"{lora.name} is no LoRA: its keys are like {[*reading.unmatched, '(none)'][0]!r}. Choose a LoRA file."
    return f"{text} {_right_model(lora)}"


def _right_model(lora: LoRASource) -> str:
    made_for = lora.metadata.get("base_model")
    return f"Load the model it was trained on{f' ({made_for})' if made_for else ''}."


def _shape(module: nn.Module) -> tuple[int, ...]:
    """Of the weight. Quantised layers store theirs in other shapes."""
    if hasattr(module, "in_features"):
        return module.out_features, module.in_features
    return module.out_channels, module.in_channels // module.groups, *module.kernel_size


def _is_quantised(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is None or hasattr(weight, "_qdata") or weight.dtype not in _PLAIN


def _computed_uncalled(network: nn.Module) -> set[str]:
    """Names of the layers whose product the host computes without calling them, so that no hook is called either.

    Newer hosts fold the activation before a feed-forward's last layer into that layer's product where its weights are 8-bit integers.
    Which feed-forwards do is read off their code; the layer is the last that they hold.
    """
    names = set()
    for name, module in network.named_modules():
        code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
        if code is None or _FOLDED not in code.co_names:
            continue
        layers = [inner for inner, layer in module.named_modules(prefix=name) if is_adaptable(layer)]
        if layers and "INT8" in str(getattr(network.get_submodule(layers[-1]).weight, "_layout_cls", "")):
            names.add(layers[-1])
    return names


def _can_be_bypassed(module: nn.Module) -> bool:
    return hasattr(module, "in_features") or (module.groups == 1 and module.padding_mode == "zeros")


def _layer(name: str, module: nn.Module, update: LowRank, strength: float) -> LoRALayer:
    # Nodes run in inference mode; values made there could not take part in a training.
    with torch.inference_mode(False):
        values = (value.cpu() for value in (update.down, update.up))
        down, up = (value.clone() if value.is_inference() else value for value in values)
        return LoRALayer.holding(name, module, down, up, update.scale * strength)


def _adapter(update: LowRank) -> comfy.weight_adapter.LoRAAdapter:
    return comfy.weight_adapter.LoRAAdapter(
        set(), (update.up, update.down, update.scale * update.rank, None, None, None)
    )


def _is_finite(update: LowRank) -> bool:
    return bool(torch.isfinite(update.down).all() and torch.isfinite(update.up).all())
