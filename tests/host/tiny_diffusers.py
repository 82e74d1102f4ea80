"""A ZeroScope small enough for a laptop: a model folder of diffusers' own classes with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

# As published with ZeroScope v2 576w.
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
UNET = {
    "_class_name": "UNet3DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "cross_attention_dim": 1024,
    "attention_head_dim": 16,
}
# The host converts VAEs of four levels, and its norms have 32 groups.
VAE = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [32, 32, 32, 64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
# The host knows OpenCLIP-H by its 23 layers, so this cannot be made smaller.
TEXT_ENCODER = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "max_position_embeddings": 77,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
    "vocab_size": 49408,
}


def write_text_to_video(
    folder: Path,
    *,
    prediction: str = "epsilon",
    dtype: torch.dtype = torch.float32,
    pickled: bool = False,
    seed: int = 0,
) -> None:
    """Writes a whole model folder; its text encoder takes little disk but 0.7 GB of memory once it is loaded.

    prediction: "epsilon" or "v_prediction". pickled: .bin files, as ZeroScope is published, in place of safetensors.
    """
    from diffusers import AutoencoderKL, UNet3DConditionModel

    folder.mkdir(parents=True)
    components = {"unet": ["diffusers", "UNet3DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    components |= {"text_encoder": ["transformers", "CLIPTextModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    _write_json(folder / "model_index.json", {"_class_name": "TextToVideoSDPipeline", **components})
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER | {"prediction_type": prediction})
    for name, kind, config in (("unet", UNet3DConditionModel, UNET), ("vae", AutoencoderKL, VAE)):
        _write_json(folder / name / "config.json", config)
        weights = random_weights(kind.from_config(config), seed, dtype)
        if pickled:
            torch.save(weights, folder / name / "diffusion_pytorch_model.bin")
        else:
            save_file(weights, folder / name / "diffusion_pytorch_model.safetensors")
    _write_json(folder / "text_encoder" / "config.json", TEXT_ENCODER)
    torch.save(text_encoder_weights(seed), folder / "text_encoder" / "pytorch_model.bin")


def random_weights(network: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Seeded weights for a network that keep activations of order 1. Diffusers' own start makes many layers do nothing."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in network.state_dict().items():
        if tensor.ndim >= 2:
            weights[name] = torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5
        else:
            weights[name] = torch.randn(tensor.shape, generator=generator) * 0.05 + name.endswith("weight")
        weights[name] = weights[name].to(dtype)
    return weights


def text_encoder_weights(seed: int = 0, config: Mapping[str, Any] = TEXT_ENCODER) -> dict[str, Tensor]:
    """A CLIPTextModel's weights in float16 under transformers 4's names, position_ids included.

    Every tensor is a sliding view of one short random vector, which a pickle stores once.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        network = CLIPTextModel(CLIPTextConfig(**config))
    longest = max(sum(tensor.shape) for tensor in network.state_dict().values())
    numbers = torch.randn(longest, generator=torch.Generator().manual_seed(seed))
    vectors: dict[float, Tensor] = {}
    weights = {}
    for name, tensor in network.state_dict().items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        if tensor.ndim < 2:
            weights[name] = (torch.ones if name.endswith("weight") else torch.zeros)(tensor.shape, dtype=torch.float16)
            continue
        deviation = 0.05 if "embedding" in name else 0.7 / tensor.shape[1] ** 0.5
        vector = vectors.setdefault(deviation, (numbers * deviation).half())
        weights[name] = vector.as_strided(tensor.shape, (1, 1))
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return weights


def unet_of(folder: Path) -> Any:
    """diffusers' own network with the weights of a folder, in float32."""
    from diffusers import UNet3DConditionModel

    return UNet3DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
