"""Where a loss looks: masks of frames, and of what changes between them. None is everywhere."""

from __future__ import annotations

import torch
from torch import Tensor


def frame_mask(mask: Tensor, clip: Tensor) -> Tensor:
    """Broadcast a mask over the frames of a clip.

    Args:
        mask: 0 or above, broadcastable to [B, 1, F, H, W].
        clip: [B, C, F, H, W].

    Returns:
        [B or 1, 1, F, H, W], at least float32, on the clip's device.

    Raises:
        ValueError: the mask does not fit.
    """
    samples = mask.shape[0] if mask.ndim == 5 else 1
    try:
        fitting = mask.expand(samples, 1, *clip.shape[2:])
    except RuntimeError:
        fitting = None
    if fitting is None or (samples != clip.shape[0] and 1 not in (samples, clip.shape[0])):
        raise ValueError(f"A mask is {list(mask.shape)}; it must fit [B, 1, F, H, W] of {list(clip.shape)}. Resize it.")
    return fitting.to(clip.device, torch.promote_types(clip.dtype, torch.float32))


def between_frames(mask: Tensor) -> Tensor:
    """Mask the residuals of frames: the smaller value of both, so that neither frame's masked content enters.

    Args:
        mask: [B, 1, F, H, W].

    Returns:
        [B, 1, F-1, H, W].
    """
    return torch.minimum(mask[:, :, 1:], mask[:, :, :-1])


def check_shows_motion(mask: Tensor, clip: Tensor, names: list[str]) -> None:
    """Refuse a mask under which terms that compare frames have nothing to compare.

    Raises:
        ValueError: it shows nothing in two frames of the clip that follow each other; names the terms.
    """
    if names and not between_frames(frame_mask(mask, clip)).any():
        raise ValueError(
            f"The mask shows no place in two frames that follow each other, which {', '.join(names)} compares. "
            "Widen the mask, or leave the term out."
        )


def inside(x: Tensor, mask: Tensor) -> Tensor:
    """Multiply by a mask, with 0 outside whatever is there: 0 times infinity is NaN, and -0 has another angle than 0."""
    return torch.where(mask > 0, x * mask, 0)


def mean_inside(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sample weighted by a mask that broadcasts to x; [B]. 0 where the mask is empty."""
    mask = mask.expand_as(x)
    share = mask.flatten(1).sum(1).clamp_min(torch.finfo(x.dtype).tiny)
    return (x * mask).flatten(1).sum(1) / share
