"""ZeroScope, ModelScope, VideoCrafter2 and their like as the host's MODEL, CLIP and VAE."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.sd
import torch

from ...sma.networks.unet3d import DEFAULT_FPS, unet3d_config_from_weights
from . import diffusers_folder
from .text_encoder import load_clip, width_of
from .unet3d import HostUNet3D
from .video_vae import VideoVAE, read_video_vae
from .weights import find_weights, read_metadata, read_weights
from .wrapped import SD15Video, describe, model_from_network

# The second is what VideoCrafter2's own pipeline calls its UNet.
NETWORKS = ("UNet3DConditionModel", "UNet3DVideoCrafterConditionModel")
# What single files leave unsaid; every published model of the family has these betas.
_SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@dataclass(frozen=True)
class TextToVideo:
    """A loaded text-to-video model. ``report``: what was loaded, in one line."""

    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: VideoVAE
    report: str


def load_folder(name: str, dtype: torch.dtype | None = None, fps: float = DEFAULT_FPS) -> TextToVideo:
    """The model folder of this name under models/diffusers; fps: the rate told to a network that is conditioned on it.

    Raises:
        ValueError: no such folder, parts missing, or parts that do not fit.
    """
    folder = diffusers_folder.folder_path(name)
    unet = find_weights(folder / "unet")
    config = diffusers_folder.component_config(folder, "unet") | {"fps": fps}
    scheduler = diffusers_folder.scheduler_config(folder)
    vae_config = diffusers_folder.component_config(folder, "vae")
    model = load_model(unet, config, scheduler, dtype)
    clip = load_clip(find_weights(folder / "text_encoder"))
    vae = read_video_vae(find_weights(folder / "vae"), vae_config)
    return _fitted(model, clip, vae, scheduler, f"from {unet.name}")


def load_files(
    unet: Path,
    text_encoder: Path,
    vae: Path,
    prediction: str,
    dtype: torch.dtype | None = None,
    fps: float = DEFAULT_FPS,
) -> TextToVideo:
    """Single files, with the family's betas and a network read from the file itself.

    prediction: "epsilon" or "v_prediction".

    Raises:
        ValueError: files that do not fit.
    """
    scheduler = {**_SCHEDULER, "prediction_type": prediction}
    config, source = _config_in(unet), "config from the file"
    if "block_out_channels" not in config:
        config, source = unet3d_config_from_weights(read_weights(unet)), "config read from the shapes"
    model = load_model(unet, {**config, "fps": fps}, scheduler, dtype)
    return _fitted(model, load_clip(text_encoder), read_video_vae(vae), scheduler, source)


def _config_in(path: Path) -> dict[str, Any]:
    """diffusers' config in a file's metadata, or whatever other programs keep under that name; empty where it is no JSON object."""
    try:
        config = json.loads(read_metadata(path).get("config", "{}"))
    except (json.JSONDecodeError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def load_model(
    path: Path,
    config: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    *,
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """MODEL of a UNet3D's weights file and diffusers' configs; dtype: what the weights are kept in, None for as stored."""
    settings, model_type = diffusers_folder.sampling_of(scheduler)
    return model_from_network(
        HostUNet3D,
        read_weights(path),
        config,
        settings,
        model_type,
        SD15Video,
        "UNet3D",
        functools.partial(load_model, path, config, scheduler, dtype),
        disable_dynamic=disable_dynamic,
        dtype=dtype,
    )


def _fitted(model: Any, clip: comfy.sd.CLIP, vae: VideoVAE, scheduler: Mapping[str, Any], source: str) -> TextToVideo:
    """The three together, once it is sure that they speak the same language."""
    config = model.model.model_config.unet_config["config"]
    context, latent = config["cross_attention_dim"], config["in_channels"]
    if width_of(clip) != context:
        raise ValueError(
            f"The text encoder is {width_of(clip)} wide and the network reads {context}. "
            "Choose the text encoder that was published with the model."
        )
    if vae.latent_channels != latent:
        raise ValueError(
            f"The VAE makes {vae.latent_channels} channels and the network takes {latent}. "
            "Choose the VAE that was published with the model."
        )
    told = f"told {config['fps']:g} fps; " if config.get("fps_cond") else ""
    report = (
        f"{describe(model)}, predicts {scheduler.get('prediction_type', 'epsilon')}, "
        f"{scheduler.get('beta_schedule', 'linear')} betas; {told}{source}"
    )
    return TextToVideo(model, clip, vae, report)
