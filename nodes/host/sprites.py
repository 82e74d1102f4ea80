"""The embedded sprites model as the host's own MODEL, CLIP and VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor, nn

from ...sma.sprites import model as sprites
from ...sma.sprites.prompt import PromptEmbedding, ignored_words, known_words, tokenize
from .report import Report
from .wrapped import HostNetwork, model_from_network

# Key of a warning that conditioning carries to whoever uses it.
PROMPT_WARNING = "spectral_motion_warning"


class SpritesLatent(comfy.latent_formats.LatentFormat):
    """Space-to-depth pixels: 4 patch positions of each of R, G, B."""

    latent_channels = 3 * sprites.PATCH**2
    latent_dimensions = 3
    spacial_downscale_ratio = sprites.PATCH
    temporal_downscale_ratio = 1

    def __init__(self) -> None:
        share = 1.0 / sprites.PATCH**2
        self.latent_rgb_factors = [
            [share if rgb == channel // sprites.PATCH**2 else 0.0 for rgb in range(3)]
            for channel in range(self.latent_channels)
        ]


class HostSprites(HostNetwork):
    # Nothing runs again in backward: a step takes a blink and little memory.
    build = staticmethod(sprites.build_network)
    trained_on = sprites.TRAINED_ON


def load_model(
    path: Path | str = sprites.DEFAULT_WEIGHTS, *, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """MODEL from a sprites weights file."""
    config, weights = sprites.read_weights(path)
    return model_from_network(
        HostSprites,
        weights["unet"],
        config,
        sprites.SAMPLING_SETTINGS,
        comfy.model_base.ModelType.V_PREDICTION,
        SpritesLatent,
        "Sprites",
        lambda disable_dynamic=False: load_model(path, disable_dynamic=disable_dynamic),
        disable_dynamic=disable_dynamic,
    )


def load_clip(path: Path | str = sprites.DEFAULT_WEIGHTS) -> comfy.sd.CLIP:
    """CLIP whose vocabulary is the sprites' colours, shapes and grounds."""
    _, weights = sprites.read_weights(path)
    target = comfy.supported_models_base.ClipTarget(_Tokenizer, _TextEncoder)
    return comfy.sd.CLIP(target, state_dict=weights["prompt"], model_options={"dtype": torch.float32})


def _ignored(prompt: str) -> str:
    if not (words := ignored_words(prompt)):
        return ""
    return f"The sprites model reads nothing in {', '.join(map(repr, words))}. It knows {', '.join(known_words())}."


class _Tokenizer:
    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list]:
        tokens: dict[str, Any] = {"sprites": [tokenize(text)]}
        context = get_executing_context()
        report = Report(context and context.node_id)
        if warning := _ignored(text):
            # On core's own node for prompts: it is the only place where a prompt for sampling can be questioned.
            report.warn(warning)
            tokens[PROMPT_WARNING] = warning
        return tokens

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class _TextEncoder(PromptEmbedding):
    """The prompt embedding behind the calls ``comfy.sd.CLIP`` makes."""

    def __init__(self, device=None, dtype: torch.dtype = torch.float32, model_options: Any = None) -> None:
        super().__init__(sprites.UNET_CONFIG["cross_attention_dim"])
        self.to(device=device, dtype=dtype)
        self.dtypes = {dtype}
        self.execution_device = device

    def reset_clip_options(self) -> None:
        self.execution_device = None

    def set_clip_options(self, options: dict[str, Any]) -> None:
        self.execution_device = options.get("execution_device", self.execution_device)

    def encode_token_weights(self, tokens: dict[str, Any]) -> tuple[Tensor, None, dict[str, str]]:
        device = self.execution_device or self.colour.weight.device
        context = self(torch.tensor(tokens["sprites"], device=device))
        passed_on = {name: tokens[name] for name in (PROMPT_WARNING,) if name in tokens}
        return context.to(comfy.model_management.intermediate_device()), None, passed_on

    def load_sd(self, state: dict[str, Tensor]) -> Any:
        return self.load_state_dict(state, strict=False)


class SpritesVAE(comfy.sd.VAE):
    """A VAE without weights: pixels are rearranged, nothing is lost. Video latents are ``[1, 12, F, H/2, W/2]``."""

    trained_on = sprites.TRAINED_ON

    def __init__(self) -> None:
        self.first_stage_model = nn.Identity()
        self.latent_dim = 3
        self.latent_channels = SpritesLatent.latent_channels
        self.downscale_ratio = self.upscale_ratio = (lambda frames: frames, sprites.PATCH, sprites.PATCH)
        self.crop_input = True
        self.output_channels = 3
        self.pad_channel_value = None
        self.device = self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype = torch.float32
        self.patcher = comfy.model_patcher.ModelPatcher(self.first_stage_model, self.device, self.device)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Frames [F, H, W, 3] of one video, or videos [B, F, H, W, 3], in 0..1."""
        pixels = self.vae_encode_crop_pixels(pixel_samples)
        videos = pixels if pixels.ndim == 5 else pixels[None]
        return sprites.to_latent(videos.movedim(-1, 1).float())

    def decode(self, samples_in: Tensor, vae_options: Any = None) -> Tensor:
        """Video latents to videos [B, F, H, W, 3] in 0..1."""
        return sprites.to_video(samples_in.float()).movedim(1, -1)

    def encode_tiled(self, pixel_samples: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.encode(pixel_samples)

    def decode_tiled(self, samples: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.decode(samples)
