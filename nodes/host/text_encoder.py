"""CLIP text encoders of diffusers' and transformers' model folders as the host's CLIP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.sd2_clip
import folder_paths
import torch
from torch import Tensor

from .weights import check_fit, read_weights

# The host's own recognition of text encoders, by a tensor that only the larger one has -> description of its layers.
_CLIP_H = "text_model.encoder.layers.22.mlp.fc1.weight"
_CLIP_L = "text_model.encoder.layers.0.mlp.fc1.weight"
_CONFIGS = {
    _CLIP_H: Path(comfy.text_encoders.sd2_clip.__file__).with_name("sd2_clip_config.json"),
    _CLIP_L: Path(comfy.sd1_clip.__file__).with_name("sd1_clip_config.json"),
}


def load_clip(path: Path, *, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """CLIP from the weights of a transformers CLIPTextModel: OpenCLIP-H (Stable Diffusion 2, ZeroScope) or CLIP-L (Stable Diffusion 1).

    Raises:
        ValueError: another text encoder, or weights that do not fit.
    """
    weights = _named_as_the_host_does(read_weights(path))
    _check(weights, path.name)
    clip = comfy.sd.load_text_encoder_state_dicts(
        [weights], embedding_directory=folder_paths.get_folder_paths("embeddings"), disable_dynamic=disable_dynamic
    )
    clip.patcher.cached_patcher_init = (_load_patcher, (path,))
    return clip


def _load_patcher(path: Path, disable_dynamic: bool = False) -> Any:
    return load_clip(path, disable_dynamic=disable_dynamic).patcher


def _named_as_the_host_does(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the position counters of older files, and with the prefix that transformers 5 leaves out."""
    renamed = {}
    for name, tensor in weights.items():
        if name.endswith("position_ids"):
            continue
        bare = name.startswith(("embeddings.", "encoder.", "final_layer_norm."))
        renamed[f"text_model.{name}" if bare else name] = tensor
    return renamed


def _check(weights: Mapping[str, Tensor], name: str) -> None:
    config = next((path for key, path in _CONFIGS.items() if key in weights), None)
    if config is None:
        raise ValueError(f"{name} is no CLIP text encoder. Choose the text encoder that belongs to the model.")
    with torch.device("meta"):
        network = comfy.clip_model.CLIPTextModel(
            json.loads(config.read_text()), torch.float16, None, comfy.ops.disable_weight_init
        )
    # The host reads Stable Diffusion 2's encoder before its last layer, which diffusers' files therefore lack; the projection
    # makes the pooled output, which video UNets do not see.
    optional = ["text_projection.weight"]
    if config is _CONFIGS[_CLIP_H]:
        optional += [key for key in network.state_dict() if ".layers.23." in key]
    expected = {key: tensor for key, tensor in network.state_dict().items() if key not in optional or key in weights}
    check_fit(expected, {key: tensor for key, tensor in weights.items() if key != "logit_scale"}, "text encoder")


def width_of(clip: comfy.sd.CLIP) -> int:
    """Width of the conditioning that a CLIP of :func:`load_clip` makes."""
    states = clip.cond_stage_model.state_dict().items()
    return next(len(tensor) for name, tensor in states if name.endswith("final_layer_norm.weight"))
