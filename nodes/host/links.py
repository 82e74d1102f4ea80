"""Answers in a sentence where a link gives something else than its socket is for: an output of any type ("*") can be linked to all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...sma.losses import MotionLoss
from .tensors import check_plain
from .values import given_inputs, has_half_characters


def check_links(values: Mapping[str, Any], inputs: Sequence[io.Input]) -> None:
    """Nothing where every link gives what its socket is for.

    Args:
        values: what the node was given, see :func:`~.values.check_values`.
        inputs: those of the node's schema.

    Raises:
        ValueError: names the input and what it needs.
    """
    for name, item, given in given_inputs(values, inputs, ""):
        value = given.get(item.id)
        needed, fits = _SOCKETS.get(item.io_type, ("", bool))
        if needed and value is not None and (isinstance(value, type) or not fits(value)):
            raise ValueError(f"{name} is no {needed}. Link a node that gives one.")
        if needed and value is not None:
            for what, tensor, floating in _tensors(value):
                check_plain(f"{name}{what}", tensor, floating=floating)


def _tensors(value: Any) -> Iterator[tuple[str, Tensor, bool]]:
    """The tensors in what a link gives: what to call each, itself, and whether it must hold floating-point values."""
    if isinstance(value, Tensor):
        yield "", value, True
    elif _is_latent(value):
        if isinstance(value["samples"], Tensor):  # what holds sound beside the video, the nodes refuse
            yield "", value["samples"], True
        if value.get("noise_mask") is not None:
            yield "'s noise mask", value["noise_mask"], False
    elif _is_conditioning(value):
        for text, extra in value:
            yield "", text, True
            yield from (("'s " + key, held, False) for key, held in extra.items() if isinstance(held, Tensor))
    elif _is_lora(value):
        yield from (("", tensor, False) for tensor in value.values())


def _is_latent(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    samples = value.get("samples")
    # Newer hosts put sound beside a video in a tensor of their own kind.
    if not isinstance(samples, Tensor) and not getattr(samples, "is_nested", False):
        return False
    return isinstance(value.get("noise_mask"), Tensor | None)


def _is_conditioning(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    pairs = all(isinstance(entry, list | tuple) and len(entry) == 2 for entry in value)
    return pairs and all(isinstance(text, Tensor) and isinstance(extra, Mapping) for text, extra in value)


def _is_lora(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(tensor, Tensor) and _is_name(key) for key, tensor in value.items())


def _is_name(key: Any) -> bool:
    """Whether a file can hold a tensor of this name."""
    return isinstance(key, str) and not has_half_characters(key)


# Socket type -> what it needs, and whether a value is that. Others' objects are known by what is asked of them.
_SOCKETS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "MODEL": ("MODEL", lambda value: hasattr(value, "get_model_object")),
    "VAE": ("VAE", lambda value: hasattr(value, "spacial_compression_encode")),
    "LATENT": ("LATENT", _is_latent),
    "CONDITIONING": ("CONDITIONING with a prompt in it", _is_conditioning),
    "LORA_MODEL": ("LORA_MODEL with layers in it", _is_lora),
    "MOTION_LOSS": ("MOTION_LOSS", lambda value: isinstance(value, MotionLoss)),
    # That of Motion Residuals.
    "COMFY_MATCHTYPE_V3": ("IMAGE or LATENT", lambda value: isinstance(value, Tensor) or _is_latent(value)),
}
