"""Telling a clip without motion, from which none can be learned."""

from __future__ import annotations

import math
from statistics import fmean

from torch import Tensor

from .residuals import at_least_float32, frame_residuals

# Below that a clip counts as still. A change of a whole grey level or two from coding comes to about 1e-4 of a picture's variance;
# an object of a thousandth of the picture's area, at its full contrast, that moves by its own width to 2e-3 and more.
STILL = 1e-3


def moving_share(x: Tensor) -> float:
    """Energy of a clip's frame residuals beside the variance of its pictures, both as means over all values.

    0 for a clip whose frames are all the same, also for a plain one; about 2 for frames that have nothing to do with each other.

    Args:
        x: [B, C, F, H, W], F >= 2, pixels or latents in any range.

    Raises:
        ValueError: x is not 5-D or has fewer than 2 frames.
    """
    pairs = (x[:, :, index : index + 2] for index in range(x.shape[2] - 1)) if x.ndim == 5 and x.shape[2] > 2 else (x,)
    # Frame by frame: a film is large, and everything that is taken of it at once would be as large.
    energy = fmean(float(frame_residuals(pair).square().mean()) for pair in pairs)
    if energy == 0:
        return 0.0
    frames = x.unbind(2)
    mean = sum(at_least_float32(frame).mean(dim=(2, 3), keepdim=True) for frame in frames) / len(frames)
    variance = fmean(float((at_least_float32(frame) - mean).square().mean()) for frame in frames)
    return energy / variance if variance > 0 else math.inf


def still_warning(x: Tensor) -> str:
    """What to say about a clip that does not move; "" for one that does. Arguments as :func:`moving_share`."""
    share = moving_share(x)
    if share >= STILL:
        return ""
    if share == 0:
        return "The clip does not move: all its frames are the same. Choose a part of the film where something moves."
    return (
        f"The clip hardly moves: its frames differ by {share:.1e} of the picture's variance, and motion has {STILL:g} or more. "
        "Choose a part of the film where something moves."
    )
