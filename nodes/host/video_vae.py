"""Stable Diffusion's image VAE as a VAE of videos: every frame by itself, 5-D latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.diffusers_convert
import comfy.latent_formats
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch import Tensor

from .weights import check_fit, read_weights

_LEVELS = 4  # the host's conversion of diffusers' names knows this depth only
_GROUPS = 32  # of the host's normalisation


class VideoVAE(comfy.sd.VAE):
    """Takes frames [F, H, W, 3] of one video, or videos [B, F, H, W, 3], and gives latents [B, 4, F, H/8, W/8]; and back.

    The host sees a batch of images, which it encodes and decodes in as large portions as memory allows, or in tiles. A latent
    [B, 4, h, w] is images, as for the host's own VAE.
    """

    def encode(self, pixel_samples: Tensor) -> Tensor:
        return _frame_by_frame(super().encode, pixel_samples)

    def encode_tiled(self, pixel_samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _frame_by_frame(
            lambda frames: super(VideoVAE, self).encode_tiled(frames, *args, **kwargs), pixel_samples
        )

    def decode(self, samples_in: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _latent_by_latent(lambda images: super(VideoVAE, self).decode(images, *args, **kwargs), samples_in)

    def decode_tiled(self, samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _latent_by_latent(lambda images: super(VideoVAE, self).decode_tiled(images, *args, **kwargs), samples)


def _frame_by_frame(encode: Any, pixels: Tensor) -> Tensor:
    videos = pixels if pixels.ndim == 5 else pixels[None]
    latents = encode(videos.flatten(0, 1))  # [B F, 4, h, w]
    return latents.unflatten(0, videos.shape[:2]).movedim(2, 1)


def _latent_by_latent(decode: Any, latents: Tensor) -> Tensor:
    if latents.ndim < 5:
        return decode(latents)
    images = decode(latents.movedim(2, 1).flatten(0, 1))  # [B F, H, W, 3]
    return images.unflatten(0, (latents.shape[0], latents.shape[2]))


def read_video_vae(path: Path, config: Mapping[str, Any] | None = None, prefix: str = "") -> VideoVAE:
    """A VAE from its file, see :func:`load_video_vae`; the host can load it again.

    prefix: of the VAE's tensors in a file that holds more.

    Raises:
        ValueError: as there, or a file without such tensors.
    """
    tensors = read_weights(path).items()
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors if name.startswith(prefix)}
    if not weights:
        raise ValueError(f"{path.name} holds no VAE. Choose a whole checkpoint.")
    vae = load_video_vae(weights, config)
    vae.patcher.cached_patcher_init = (_read_patcher, (path, config, prefix))
    return vae


def _read_patcher(path: Path, config: Mapping[str, Any] | None, prefix: str, disable_dynamic: bool = False) -> Any:
    # As with the host's own VAEs, how its weights are placed is not for the caller to choose.
    return read_video_vae(path, config, prefix).patcher


def load_video_vae(weights: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> VideoVAE:
    """A VAE from weights in diffusers' or in latent diffusion's naming; its widths and depth are read from their shapes.

    config: diffusers' config.json of the VAE, where there is one.

    Raises:
        ValueError: another kind of VAE, or weights that do not fit.
    """
    config = config or {}
    scale = comfy.latent_formats.SD15().scale_factor
    for field, needed in (("scaling_factor", scale), ("norm_num_groups", _GROUPS)):
        if (value := config.get(field, needed)) != needed:
            raise ValueError(f"The VAE's {field} is {value}; {needed} is needed. Use a VAE of Stable Diffusion 1.")
    if "decoder.up_blocks.0.resnets.0.norm1.weight" in weights:
        levels = len({name.split(".")[2] for name in weights if name.startswith("decoder.up_blocks.")})
        if levels != _LEVELS:
            raise ValueError(f"The VAE has {levels} levels; {_LEVELS} are needed. Use a VAE of Stable Diffusion 1.")
        weights = comfy.diffusers_convert.convert_vae_state_dict(dict(weights))
    # Training checkpoints carry the discriminator and running averages along.
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(("loss.", "model_ema."))}
    parameters = _architecture(weights)
    with torch.device("meta"):
        expected = AutoencoderKL(**parameters).state_dict()
    check_fit(expected, weights, "VAE")
    vae = VideoVAE(sd=weights, config={"params": parameters})
    vae.latent_channels = parameters["ddconfig"]["z_channels"]
    return vae


def _architecture(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the host's AutoencoderKL."""
    try:
        width = len(weights["encoder.conv_in.weight"])
        widths = [len(weights[f"encoder.down.{level}.block.0.conv1.weight"]) for level in range(_LEVELS)]
        blocks = sum(f"encoder.down.0.block.{block}.conv1.weight" in weights for block in range(len(weights)))
        latent_channels = weights["decoder.conv_in.weight"].shape[1]
        embedded = weights["post_quant_conv.weight"].shape[1]
    except KeyError as error:
        raise ValueError(
            f"The VAE's weights lack {error}, so this is no VAE of images like Stable Diffusion 1's. Choose such a VAE."
        ) from error
    return {
        "embed_dim": embedded,
        "ddconfig": {
            "double_z": True,
            "z_channels": latent_channels,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": width,
            "ch_mult": [channels // width for channels in widths],
            "num_res_blocks": blocks,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }
