"""Why a LoRA cannot be worn by a MODEL, in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...sma.lora_reading import Reading
from ...sma.roles import family_of, family_of_layers

if TYPE_CHECKING:
    from .wear import LoRASource

_FACTORS = {"down", "up"}
# What we, the modelspec of Stability AI and kohya call the entry.
_BASE_MODEL = ("base_model", "modelspec.architecture", "ss_base_model_version")


def wrong_size(lora: LoRASource, reading: Reading) -> str:
    """For a LoRA with keys that do not fit their layers."""
    more = f" and {len(reading.misshaped) - 1} more do not fit" if len(reading.misshaped) > 1 else ""
    return f"{lora.name}: {reading.misshaped[0]}{more}. {_right_model(lora)}"


def incomplete(lora: LoRASource, reading: Reading) -> str:
    """For a LoRA of which a layer has one factor without the other; "" where all have both."""
    for update in reading.others:
        if len(_FACTORS & update.keys.keys()) == 1:
            return _incomplete(lora, update.module)
    return ""


def other_model(model: Any, lora: LoRASource, reading: Reading) -> str:
    """For a LoRA of which nothing can be applied to a MODEL."""
    network = model.model.diffusion_model
    try:
        here = family_of(network).name
    except ValueError:
        here = type(model.model).__name__
    if reading.others:
        module, key = reading.others[0].module, next(iter(reading.others[0].keys.values()))
        if set(reading.others[0].keys) <= {"alpha"}:
            return _incomplete(lora, module)
        return f"{lora.name} changes {module} in a way that is not known here ({key}, ...). Export it as a plain LoRA."
    if not reading.layers and reading.text_encoder and not reading.unmatched:
        return f"{lora.name} has keys for a text encoder only ({reading.text_encoder[0]}, ...). Use core's Load LoRA with the CLIP."
    if not reading.layers:
        return (
            f"{lora.name} is not a LoRA: its keys are like {[*reading.unmatched, '(none)'][0]!r}. Choose a LoRA file."
        )
    made_for = _declared(lora)
    family = family_of_layers(reading.layers)
    layer = reading.layers[0]
    if family is not None and family.name == here:
        known = {name for name, _ in network.named_modules()}
        layer = next((name for name in reading.layers if name not in known), layer)
        return f"{lora.name} was made for another {here} than this one, which has no layer {layer}. Load the one it was trained on."
    if family is not None:
        return f"{lora.name} was made for {made_for or family.name} ({layer}, ...); this model is {here}. {_right_model(lora)}"
    if made_for and not made_for.startswith(here):
        text = (
            f"{lora.name} was made for {made_for} ({layer}, ...); this model is {here}, and no key names a layer of it."
        )
        return f"{text} {_right_model(lora)}"
    return (
        f"No key of {lora.name} names a layer of this model, which is {here}; the file's layers are like {layer!r}. "
        "If it is for this model, export it in the ComfyUI format."
    )


def _incomplete(lora: LoRASource, module: str) -> str:
    return f"{lora.name} is incomplete: of {module} it lacks a factor. Download or export it again."


def _declared(lora: LoRASource) -> str:
    """The model that the file says it is for, "" where it says none. Networks share names of layers, so this comes first."""
    return str(next((value for name in _BASE_MODEL if (value := lora.metadata.get(name))), ""))


def _right_model(lora: LoRASource) -> str:
    made_for = _declared(lora)
    return f"Load the model it was trained on{f' ({made_for})' if made_for else ''}."
