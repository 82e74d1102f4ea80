"""AnimateDiff as the host's own MODEL, CLIP and VAE: a Stable Diffusion 1.5 the user has, and a motion module for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from comfy.model_base import ModelType
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sma.networks.animatediff import (
    adapter_config_from_weights,
    build_unet_motion,
    motion_module_weights,
    require_diffusers,
    unet_motion_config,
)
from ...sma.networks.animatediff_norms import FORMS, ORIGINAL, describe_norms, norms_over_frames
from . import wrapped
from .diffusers_folder import component_config, folder_path, read_json, sampling_of, scheduler_config
from .lists import folders_with, host_file, host_files
from .text_encoder import load_clip
from .video_vae import VideoVAE, read_video_vae
from .weights import find_weights, read_weights
from .wrapped import HostNetwork, SD15Video, model_from_network

# Where AnimateDiff-Evolved keeps motion modules.
MOTION_MODELS = "animatediff_models"
_DIFFUSERS = "diffusers/"
# Motion modules were trained with betas linear in time, unlike SD 1.5 itself; the host calls that schedule "sqrt_linear".
SAMPLING_SETTINGS = {"beta_schedule": "sqrt_linear", "linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000}
_TEXT_CHANNELS, _LATENT_CHANNELS = 768, 4  # of SD 1.5; inpainting variants take 9, SD 2 and SDXL other text


class HostUNetMotion(HostNetwork):
    build = staticmethod(build_unet_motion)
    # Without these, which hold nearly all layers, backward keeps little but the skip connections.
    run_again = ("resnets", "attentions", "motion_modules")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # diffusers casts the time embedding to the dtype of the weights, which may be far coarser than what is computed in.
        kind = type(self._network)
        self._network.__class__ = type(
            kind.__name__, (kind,), {"dtype": property(lambda network: network.sample_dtype)}
        )

    def predict(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """x [B, C, F, H, W], timesteps [B], context [B, L, D], the same for all frames -> [B, C, F, H, W]."""
        self._network.sample_dtype = x.dtype
        return self._network(x, timesteps, context.repeat_interleave(x.shape[2], dim=0)).sample


@dataclass(frozen=True)
class Checkpoint:
    """SD 1.5 as one file under models/checkpoints, in latent diffusion's naming."""

    name: str

    @property
    def path(self) -> Path:
        return host_file("checkpoints", self.name)

    def unet(self) -> tuple[dict[str, Any], dict[str, Tensor], ModelType]:
        weights = read_weights(self.path)
        prefix = comfy.model_detection.unet_prefix_from_state_dict(weights)
        found = comfy.model_detection.model_config_from_unet(weights, prefix) if _has_unet(weights, prefix) else None
        if type(found) is not comfy.supported_models.SD15:
            kind = "not recognised" if found is None else f"of the kind {type(found).__name__}"
            raise ValueError(
                f"{self.name} is {kind}; AnimateDiff needs a Stable Diffusion 1.5. Choose such a checkpoint."
            )
        layout = found.unet_config
        names = {original: name for name, original in comfy.utils.unet_to_diffusers(layout).items()}
        unet = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        config = _checked(_diffusers_config(layout), self.name)
        return config, {names.get(name, name): tensor for name, tensor in unet.items()}, ModelType.EPS

    def clip(self) -> comfy.sd.CLIP:
        _, clip, *_ = comfy.sd.load_checkpoint_guess_config(
            str(self.path),
            output_vae=False,
            output_model=False,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
        )
        if clip is None:
            raise ValueError(f"{self.name} holds no text encoder. Choose a whole checkpoint.")
        return clip

    def vae(self) -> VideoVAE:
        return read_video_vae(self.path, prefix=comfy.supported_models.SD15.vae_key_prefix[0])


@dataclass(frozen=True)
class Folder:
    """SD 1.5 as a folder under models/diffusers."""

    name: str

    def unet(self) -> tuple[dict[str, Any], dict[str, Tensor], ModelType]:
        folder = folder_path(self.name)
        config = _checked(component_config(folder, "unet"), self.name)
        _, prediction = sampling_of(scheduler_config(folder))
        return config, read_weights(find_weights(folder / "unet")), prediction

    def clip(self) -> comfy.sd.CLIP:
        return load_clip(find_weights(folder_path(self.name) / "text_encoder"))

    def vae(self) -> VideoVAE:
        folder = folder_path(self.name)
        return read_video_vae(find_weights(folder / "vae"), component_config(folder, "vae"))


def motion_modules() -> list[str]:
    """Files of models/animatediff_models, and MotionAdapter folders under models/diffusers with "diffusers/" before their name."""
    _register_folder()
    files = host_files(MOTION_MODELS)
    suffixes = folder_paths.supported_pt_extensions
    return [name for name in files if Path(name).suffix.lower() in suffixes] + sorted(
        map(_DIFFUSERS.__add__, _adapters())
    )


def load_model(
    base: Checkpoint | Folder,
    motion_module: str,
    dtype: torch.dtype | None = None,
    *,
    group_norm: str = ORIGINAL,
    disable_dynamic: bool = False,
) -> ModelPatcher:
    """MODEL of a base and a motion module, one of :func:`motion_modules`. Latents are [B, 4, F, H/8, W/8].

    dtype: what the weights are kept in; None for that of most of them.
    group_norm: whose group norms it computes, one of animatediff_norms.FORMS.

    Raises:
        ImportError: diffusers is missing; the message says what to install.
        ValueError: no SD 1.5, no motion module, one of another network, or files with missing, surplus or mis-shaped tensors.
    """
    require_diffusers()  # before gigabytes are read
    unet_config, unet, prediction = base.unet()
    adapter_config, motion = _read_motion_module(motion_module)
    return model_from_network(
        HostUNetMotion,
        unet | motion,
        unet_motion_config(unet_config, adapter_config, group_norm=group_norm),
        SAMPLING_SETTINGS,
        prediction,
        SD15Video,
        "AnimateDiff",
        lambda disable_dynamic=False: load_model(
            base, motion_module, dtype, group_norm=group_norm, disable_dynamic=disable_dynamic
        ),
        disable_dynamic=disable_dynamic,
        dtype=dtype,
    )


def describe(model: ModelPatcher) -> str:
    """What was loaded, in one line, e.g. "AnimateDiff 320-640-1280-1280, 1312 M parameters, float16, at most 32 frames, group norm as
    original (v3): each frame by itself"."""
    config = model.model.model_config.unet_config["config"]
    frames = config["motion_max_seq_length"]
    return f"{wrapped.describe(model)}, at most {frames} frames, {describe_norms(config, config['group_norm'])}"


def group_norm_of(model: ModelPatcher) -> str | None:
    """Whose group norms a MODEL of :func:`load_model` computes, one of animatediff_norms.FORMS; None for any other MODEL."""
    if not isinstance(model.model.diffusion_model, HostUNetMotion):
        return None
    return model.model.model_config.unet_config["config"].get("group_norm", ORIGINAL)


def other_norms(model: ModelPatcher, trained: object) -> str:
    """What to say of a LoRA that learned beside other group norms than a MODEL computes; "" where both are one.

    trained: the ``group_norm`` of the LoRA's metadata, None where it has none.
    """
    form = group_norm_of(model)
    if form is None or trained not in FORMS:
        return ""
    config = model.model.model_config.unet_config["config"]
    if norms_over_frames(config, form) == norms_over_frames(config, str(trained)):
        return ""
    return (
        f"The LoRA was trained with group norms as {trained} and this model computes them as {form}: it will move differently. "
        f"Set group_norm of Load AnimateDiff Model to as {trained}."
    )


def _read_motion_module(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a motion module in diffusers' terms."""
    folder = _adapters().get(name.removeprefix(_DIFFUSERS)) if name.startswith(_DIFFUSERS) else None
    if folder is not None:
        path, config = find_weights(folder), read_json(folder / "config.json")
    else:
        _register_folder()
        path, config = host_file(MOTION_MODELS, name), None
    weights = motion_module_weights(read_weights(path))
    if others := [key for key in weights if "motion_modules." not in key]:
        # They would replace the base model's.
        raise ValueError(
            f"{name} holds {len(others)} tensors that are not of a motion module (for example {others[0]!r}). "
            "Choose a file of a motion module alone."
        )
    return config or adapter_config_from_weights(weights), weights


def _register_folder() -> None:
    # AnimateDiff-Evolved adds the very same path when it is installed; adding it twice changes nothing.
    folder_paths.add_model_folder_path(MOTION_MODELS, str(Path(folder_paths.models_dir) / MOTION_MODELS))


def _adapters() -> dict[str, Path]:
    """MotionAdapter folders under models/diffusers by name."""
    named = folders_with("config.json", folder_paths.get_folder_paths("diffusers"))
    return {name: folder for name, folder in named.items() if _is_adapter(folder)}


def _is_adapter(folder: Path) -> bool:
    try:
        return read_json(folder / "config.json").get("_class_name") == "MotionAdapter"
    except ValueError:  # a damaged file of some other model must not empty the list
        return False


def _has_unet(weights: Mapping[str, Tensor], prefix: str) -> bool:
    # The host's detection takes whatever it does not know for such a network.
    return f"{prefix}input_blocks.0.0.weight" in weights


def _diffusers_config(layout: Mapping[str, Any]) -> dict[str, Any]:
    """A UNet2DConditionModel's config from the host's description of the same network."""
    depths, blocks = iter(layout["transformer_depth"]), layout["num_res_blocks"]
    attends = [any([next(depths) for _ in range(count)]) for count in blocks]
    return {
        "in_channels": layout["in_channels"],
        "out_channels": layout["out_channels"],
        "block_out_channels": [layout["model_channels"] * factor for factor in layout["channel_mult"]],
        "layers_per_block": list(blocks),
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)],
        "cross_attention_dim": layout["context_dim"],
        "attention_head_dim": layout["num_heads"],
    }


def _checked(config: dict[str, Any], name: str) -> dict[str, Any]:
    text, latents = config.get("cross_attention_dim"), config.get("in_channels", _LATENT_CHANNELS)
    if (text, latents) != (_TEXT_CHANNELS, _LATENT_CHANNELS):
        raise ValueError(
            f"{name} takes text of {text} channels and {latents} input channels; AnimateDiff needs {_TEXT_CHANNELS} and "
            f"{_LATENT_CHANNELS}. Choose a Stable Diffusion 1.5 that is no inpainting model."
        )
    return config
