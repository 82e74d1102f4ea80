"""Distances between what a network said and what it should have said, one value per sample."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .checks import check_option, check_weight
from .prediction import Prediction
from .residuals import at_least_float32, frame_residuals

Over = Literal["frames", "pixels"]
Space = Literal["noise", "output"]


def _error(p: Prediction) -> Tensor:
    return at_least_float32(p.output) - at_least_float32(p.target)


def denoising(p: Prediction) -> Tensor:
    """Mean squared error of the network's output against its target, over the mask if there is one; [B]."""
    error = _error(p) ** 2
    if p.mask is None:
        return error.flatten(1).mean(1)
    mask = p.mask.to(error).expand_as(error)
    share = mask.flatten(1).sum(1).clamp_min(torch.finfo(error.dtype).tiny)  # an empty mask gives 0, not NaN
    return (error * mask).flatten(1).sum(1) / share


def residual_cosine(p: Prediction, *, absolute: bool = True, over: Over = "frames", space: Space = "noise") -> Tensor:
    """1 - mean cosine between the frame residuals of prediction and truth (VMC, arXiv 2312.00845, eq. 17); [B].

    Args:
        absolute: compare absolute residuals as VMC's code does; unrelated clips then score about 0.3 and not 1.
        over: "frames", one cosine per channel and pixel along time (VMC's code; with 2 frames and absolute residuals
            the loss is always 0); "pixels", one per pair of frames over all channels and pixels (VMC's paper).
        space: "noise" compares noise_hat with noise, "output" the network's output with its target.

    Raises:
        ValueError: unknown option, or fewer than 2 frames.
    """
    check_option("over", over, Over)
    check_option("space", space, Space)
    predicted, true = (p.noise_hat, p.noise) if space == "noise" else (p.output, p.target)
    predicted, true = frame_residuals(predicted, absolute=absolute), frame_residuals(true, absolute=absolute)
    if over == "pixels":
        predicted, true = predicted.transpose(1, 2).flatten(2), true.transpose(1, 2).flatten(2)  # [B, F-1, C*H*W]
    return 1 - cosine_similarity(predicted, true, dim=2).flatten(1).mean(1)


def anchor_debiased(p: Prediction, *, anchor: Tensor, beta: float = 1.0) -> Tensor:
    """Appearance-debiased error, the second term of MotionDirector's temporal loss (arXiv 2310.08465, eq. 5-7); [B].

    Output and target are both mapped by phi(e) = sqrt(beta^2 + 1) e - beta e[anchor], then compared by MSE.

    Args:
        anchor: LongTensor [B], the frame that stands for the appearance of each sample, 0 <= anchor < F.
        beta: how much of the anchor is taken away, 0 or above.

    Raises:
        ValueError: beta or an anchor is out of range.
    """
    check_weight("beta", beta)
    frames = p.output.shape[2]
    if not ((anchor >= 0) & (anchor < frames)).all():
        raise ValueError(f"The anchors are {anchor.tolist()}; with {frames} frames each must be 0 to {frames - 1}.")
    error = _error(p)  # phi is linear
    samples = torch.arange(error.shape[0], device=error.device)
    at_anchor = error[samples, :, anchor.to(error.device)].unsqueeze(2)  # [B, C, 1, H, W]
    return ((math.sqrt(beta**2 + 1) * error - beta * at_anchor) ** 2).flatten(1).mean(1)


def signal_share(p: Prediction) -> Tensor:
    """Share of the clip in the variance of x_t, if clip and noise vary alike; [B], 1 clean to 0 pure noise.

    1 / (1 + s^2); for flow (1 - s)^2 / ((1 - s)^2 + s^2).
    """
    s = at_least_float32(p.sigma)
    if p.kind == "flow":
        return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)
    return 1 / (1 + s**2)
