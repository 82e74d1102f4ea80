"""The host's fresh noise."""

from __future__ import annotations

from typing import Any

import comfy.sample
from torch import Tensor


def video_samples(latent: dict[str, Any]) -> Tensor:
    """[N, C, F, H, W] of a LATENT.

    Raises:
        ValueError: it holds pictures, or sound beside the video.
    """
    samples = latent["samples"]
    if samples.is_nested:
        raise ValueError("The latent holds sound beside the video; a latent of video alone is needed.")
    if samples.ndim != 5:
        raise ValueError(
            f"The latent is {list(samples.shape)}; a video latent [N, C, F, H, W] is needed, such as a video model's VAE makes."
        )
    return samples


def fresh_noise(latent: dict[str, Any], seed: int) -> Tensor:
    """What core's RandomNoise gives a video latent, sample for sample.

    Raises:
        ValueError: no video latent.
    """
    return comfy.sample.prepare_noise(video_samples(latent), seed, latent.get("batch_index"))
