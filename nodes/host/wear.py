"""LoRAs of any program put on a MODEL, with a count of what was applied; one that is for another model is refused."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.weight_adapter
import torch
from torch import Tensor, nn

from ...sma.finite import is_finite
from ...sma.lora import LoRALayer, is_adaptable
from ...sma.lora_formats import PREFIX, LowRank
from ...sma.lora_keys import factor
from ...sma.lora_motiondirector import read_motiondirector
from ...sma.lora_reading import Reading, read_lora
from ...sma.lora_scales import PEFT_CONFIG
from .compiled import compiled_parts, looks_inside
from .foreign import Foreign, MagnitudeAdapter, read_foreign, target_of
from .lora_errors import incomplete, other_model, wrong_size
from .weights import SAFETENSORS_SUFFIXES, named_tensors, read_metadata, read_pickle, read_weights
from .worn import Range, WornLoRA

logger = logging.getLogger(__name__)

_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# The host's function of a layer and what comes before it.
_FOLDED = "linear_input_act"
_LARGEST_SETTINGS = 2**22
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
    """Reads a LoRA file; pickles with weights_only. PEFT's settings are taken from the file beside it.

    Raises:
        ValueError: a file without tensors, or one that wants to run code.
    """
    if path.suffix.lower() in SAFETENSORS_SUFFIXES:
        return LoRASource(path.name, read_weights(path), read_metadata(path) | _peft_settings(path))
    content = read_pickle(path)
    if isinstance(content, list) and content and all(isinstance(item, Tensor) for item in content):
        return LoRASource(path.name, content, {})
    return LoRASource(path.name, named_tensors(content, path.name), _peft_settings(path))


def files_of(path: Path) -> list[Path]:
    """The files that :func:`read_source` reads: PEFT writes ``adapter_model.safetensors`` or ``.bin``, and beside it the settings that its
    scale depends on.
    """
    beside = path.with_name(PEFT_CONFIG)
    if path.stem != "adapter_model" or not beside.is_file() or beside.resolve().parent != path.resolve().parent:
        return [path]
    return [path, beside]


def _peft_settings(path: Path) -> dict[str, object]:
    beside = files_of(path)[-1]
    if beside == path:
        return {}
    try:
        with beside.open("rb") as file:
            settings = file.read(_LARGEST_SETTINGS + 1)
    except OSError as error:
        raise ValueError(
            f"{PEFT_CONFIG} beside {path.name} cannot be read ({error.strerror}), and its alpha is in there. Let ComfyUI read it."
        ) from error
    if len(settings) > _LARGEST_SETTINGS:
        raise ValueError(
            f"{PEFT_CONFIG} beside {path.name} is over {_LARGEST_SETTINGS // 2**20} MB; PEFT's hold some kB. Download it again."
        )
    return {PEFT_CONFIG: settings.decode(errors="replace")}


@looks_inside
def wear(
    model: Any,
    lora: LoRASource,
    *,
    strength: float,
    apply: str,
    where: Range,
    warn: Callable[[str], None] = logger.warning,
) -> tuple[Any, str]:
    """A clone of a MODEL that wears a LoRA, and a line about what was applied.

    A key counts as applied where its update changes its weight: not where it is 0, or where nothing has read it. A LoRA whose updates are
    all 0 leaves the MODEL as it is, with a warning.

    Args:
        apply: ``"patch weights"``: W + update, as the host does it. ``"bypass"``: the update is computed beside the layer, exactly as in
            training. ``"auto"``: bypass where a range or quantised weights need it, else patch. Layers that the host computes
            without calling them are patched in any case.
        warn: takes what is worth a warning on the node.

    Raises:
        ValueError: the LoRA is for another model, does not fit, is damaged, or cannot be worn as asked.
    """
    targets = {name: module for name, module in model.model.diffusion_model.named_modules() if is_adaptable(module)}
    reading = _read(lora, {name: _shape(module) for name, module in targets.items()})
    if apply == PATCH and not where.everywhere:
        raise ValueError(
            f"The LoRA is to be worn {where}, and patched weights hold always. Set apply to auto or bypass."
        )
    zero = {name for name, keys in reading.keys.items() if reading.zero.issuperset(keys)}
    effective = {name: update for name, update in reading.updates.items() if name not in zero}
    bypassed = _to_bypass(model, targets, effective, apply, where)
    layers = {
        name: _layer(name, targets[name], update, strength) for name, update in effective.items() if name in bypassed
    }
    patches: dict[Any, Any] = {
        f"{PREFIX}{name}.weight": MagnitudeAdapter.of(dora) for name, dora in reading.doras.items()
    }
    patches |= {
        f"{PREFIX}{name}.weight": _adapter(update) for name, update in effective.items() if name not in bypassed
    }
    foreign = read_foreign(model, lora.name, lora.tensors, reading) if reading.unmatched else Foreign()
    # Not one table: a layer may have a product of ours and a difference of the host's.
    tables = [table for table in (patches, *foreign.tables) if table]
    _check_patches(model, lora.name, [target_of(key) for table in tables for key in table], apply, where)
    worn = model.clone()
    # A clone of a loaded MODEL claims to be injected. The host would then put what is added here on a network that the other is using.
    worn.is_injected = False
    added = {target_of(key) for table in tables for key in worn.add_patches(table, strength)}
    patched = {name for name in reading.keys if f"{PREFIX}{name}.weight" in added}
    fate = _fate(reading, foreign, patched | bypassed | zero, added)
    if not fate.applied and not fate.zero:
        raise ValueError(other_model(model, lora, reading))
    if not fate.applied:
        warn(
            f"{lora.name} changes nothing: all the updates in its {len(fate.zero)} keys are 0. Train it longer, or use another file."
        )
        return model, _report(reading, fate, "not worn", Range())
    if fate.unknown:
        warn(
            f"{len(fate.unknown)} keys of {lora.name} were not applied: nothing here knows what they change, for example {fate.unknown[0]}."
        )
    if layers:
        WornLoRA(layers).put_on(worn, where)
    how = "bypassed" if layers else "patched"
    if layers and added:
        how += f", {len(added)} of its weights patched"
    return worn, _report(reading, fate, how, where)


def _to_bypass(
    model: Any, targets: Mapping[str, nn.Module], updates: Mapping[str, LowRank], apply: str, where: Range
) -> set[str]:
    """Chooses the layers beside which their update is computed."""
    wanted = apply == BYPASS or not where.everywhere
    if apply == AUTO and not wanted:
        wanted = bool(compiled_parts(model)) or any(_is_quantised(targets[name]) for name in updates)
    if not wanted:
        return set()
    uncalled = _computed_uncalled(model.model.diffusion_model)
    return {name for name in updates if name not in uncalled and _can_be_bypassed(targets[name])}


def _check_patches(model: Any, name: str, weights: Sequence[str], apply: str, where: Range) -> None:
    """Refuses patches of a LoRA that would hold outside a range, or that the host would not find the weights of."""
    if weights and not where.everywhere:
        raise ValueError(
            f"{name} holds {len(weights)} updates that can only be patched, for example {weights[0]}, "
            "and no range can limit those. Wear it everywhere."
        )
    if hidden := [weight for weight in weights if weight.startswith(compiled_parts(model))]:
        remedy = "Set apply to auto or bypass." if apply == PATCH else "Remove the node that compiles it."
        raise ValueError(f"{hidden[0]} is in a compiled part of this MODEL, where ComfyUI patches no weights. {remedy}")


@dataclass(eq=False)
class _Fate:
    """What became of the file's keys."""

    applied: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def _fate(reading: Reading, foreign: Foreign, done: Collection[str], added: Collection[str]) -> _Fate:
    """done: layers whose products were applied, or are 0. added: weights that the host patches."""
    fate = _Fate()
    for name, keys in reading.keys.items():
        for key in keys:
            (fate.unknown if name not in done else fate.zero if key in reading.zero else fate.applied).append(key)
    for key, target in foreign.targets.items():
        (fate.unknown if target not in added else fate.zero if key in foreign.zero else fate.applied).append(key)
    return fate


def _read(lora: LoRASource, shapes: Mapping[str, Sequence[int]]) -> Reading:
    """What a LoRA holds for a network of these layers; refused where it does not fit or is damaged."""
    if isinstance(lora.tensors, list):
        reading = read_motiondirector([factor(value, "A factor") for value in lora.tensors], shapes)
    else:
        reading = read_lora(lora.tensors, shapes, lora.metadata)
    if reading.misshaped:
        raise ValueError(wrong_size(lora, reading))
    if halves := incomplete(lora, reading):
        raise ValueError(halves)
    products = reading.updates | {name: dora.update for name, dora in reading.doras.items()}
    broken = [name for name, update in products.items() if not _is_finite(update)]
    broken += [name for name, dora in reading.doras.items() if not is_finite(dora.magnitude)]
    if broken:
        raise ValueError(
            f"{lora.name} holds NaN or infinite values in {len(broken)} {'layer' if len(broken) == 1 else 'layers'}, for example "
            f"{broken[0]}. Its training failed; use another."
        )
    return reading


def _report(reading: Reading, fate: _Fate, how: str, where: Range) -> str:
    ranks = reading.ranks
    source = f"{reading.format} format" if reading.keys else "by core's own rules"
    if ranks:
        source += f", rank {'-'.join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))}"
    if reading.alphas:
        alphas = "-".join(f"{alpha:.4g}" for alpha in dict.fromkeys((reading.alphas[0], reading.alphas[-1])))
        source += f", alpha {alphas} from {reading.scales.source}"
        if reading.scales.stabilised:
            source += ", rank-stabilised"
    limits = "" if where.everywhere else f", {where}"
    total = len(fate.applied) + len(fate.zero) + len(fate.unknown)
    text = f"{len(fate.applied)} of {total} keys applied ({source}, {how}{limits})"
    if fate.zero:
        text += f", {len(fate.zero)} change nothing because their update is 0, for example {fate.zero[0]}"
    if fate.unknown:
        text += f", {len(fate.unknown)} unknown, for example {fate.unknown[0]}"
    if reading.text_encoder:
        text += f"; {len(reading.text_encoder)} keys are for the text encoder: core's Load LoRA applies those"
    return text


def _shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of a layer's weight, which quantised layers store in others."""
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
    return is_finite(update.down) and is_finite(update.up) and math.isfinite(update.scale)
