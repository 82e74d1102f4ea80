"""What a VAE makes of a clip, by the VAE's own reckoning."""

from __future__ import annotations

from typing import Any

_SEARCH = 64  # frames; more than the frames that any VAE of the host folds into its latent frames at once


def frame_counts(vae: Any, frames: int) -> tuple[int, int]:
    """The latent frames that a VAE makes of so many frames, and the frames that it makes of those."""
    if not isinstance(vae.downscale_ratio, tuple):  # an image VAE takes each frame by itself
        return frames, frames
    latent_frames = vae.downscale_ratio[0](frames)
    return latent_frames, vae.upscale_ratio[0](latent_frames)


def nearest_side(vae: Any, pixels: int) -> int:
    """The side nearest to `pixels` that a VAE takes without cropping."""
    factor = vae.spacial_compression_encode()
    return max(1, round(pixels / factor)) * factor


def what_it_leaves_out(vae: Any, frames: int, height: int, width: int) -> str:
    """How much of a clip remains when core's VAE Encode is done with it and which clip would remain whole; "" where all does."""
    left_out = [text for text in (_frames_left_out(vae, frames), _pixels_left_out(vae, height, width)) if text]
    return f"this VAE sees {'; it sees '.join(left_out)}" if left_out else ""


def _frames_left_out(vae: Any, frames: int) -> str:
    if getattr(vae, "not_video", False):  # encodes a batch of images in spite of its frame ratio
        return ""
    seen = frame_counts(vae, frames)[1]
    if seen >= frames:
        return ""
    longer = (n for n in range(frames + 1, frames + _SEARCH) if frame_counts(vae, n)[1] == n)
    choices = [n for n in (seen, next(longer, 0)) if n >= 2]
    return f"{seen} of the {frames} frames, choose {' or '.join(map(str, choices))}"


def _pixels_left_out(vae: Any, height: int, width: int) -> str:
    factor = vae.spacial_compression_encode()
    seen = f"{width // factor * factor}x{height // factor * factor}"
    whole = f"{width}x{height}"
    if not vae.crop_input or seen == whole:
        return ""
    choice = f"{nearest_side(vae, width)}x{nearest_side(vae, height)}"
    return f"{seen} of the {whole} pixels, choose multiples of {factor} such as {choice}"
