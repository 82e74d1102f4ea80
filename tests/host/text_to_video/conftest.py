"""A tiny ZeroScope in two folders: eps in safetensors, v in pickles of half precision; and one forward of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_diffusers import write_text_to_video

SHAPE = (1, 4, 3, 8, 8)


@pytest.fixture(scope="session")
def folders(host) -> Path:
    base = Path(host.base) / "models" / "diffusers"
    write_text_to_video(base / "zero")
    write_text_to_video(base / "zero-v", prediction="v_prediction", dtype=torch.float16, pickled=True)
    return base


@pytest.fixture(scope="module")
def loaded(host, folders) -> tuple:
    """(MODEL, CLIP, VAE) of the eps folder."""
    source = {"source": "diffusers folder", "folder": "zero"}
    return host.call("SMA_LoadTextToVideoModel", source=source, weights="as stored")


@pytest.fixture(scope="session")
def contexts() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(1, 7, 1024, generator=generator), torch.randn(1, 7, 1024, generator=generator)


@pytest.fixture(scope="session")
def noisy() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def forward(host, noisy, contexts) -> Callable[[Any, float], torch.Tensor]:
    """(MODEL, sigma) -> x0_hat of a fixed noisy latent."""
    import comfy.model_management

    def run(model: Any, sigma: float) -> torch.Tensor:
        with torch.inference_mode():
            comfy.model_management.load_models_gpu([model])
            return model.model.apply_model(noisy * sigma, torch.tensor([sigma]), c_crossattn=contexts[0])

    return run


@pytest.fixture(scope="session")
def reference_forward(noisy, contexts) -> Callable[..., torch.Tensor]:
    """(network of diffusers, prediction, timestep, sigma) -> the same from diffusers."""

    def run(unet: Any, prediction: str, timestep: int, sigma: float) -> torch.Tensor:
        x, scale = noisy * sigma, (1 + sigma**2) ** 0.5
        with torch.no_grad():
            output = unet(x / scale, timestep, encoder_hidden_states=contexts[0]).sample
        return x - sigma * output if prediction == "epsilon" else x / scale**2 - output * sigma / scale

    return run
