"""Distances between what a network said and what it should have said, one value per sample."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .checks import check_option, check_weight
from .masks import between_frames, frame_mask, inside, mean_inside
from .prediction import Prediction
from .residuals import at_least_float32, frame_residuals

Over = Literal["frames", "pixels"]
Space = Literal["noise", "output"]


def _error(p: Prediction) -> Tensor:
    return at_least_float32(p.output) - at_least_float32(p.target)


def denoising(p: Prediction) -> Tensor:
    """Mean squared error of the network's output against its target, over the mask if there is one; [B]."""
    error = _error(p) ** 2
    return error.flatten(1).mean(1) if p.mask is None else mean_inside(error, frame_mask(p.mask, error))


def residual_cosine(p: Prediction, *, absolute: bool = True, over: Over = "frames", space: Space = "noise") -> Tensor:
    """1 - mean cosine between the frame residuals of prediction and truth (VMC, arXiv 2312.00845, eq. 17); [B].

    Args:
        absolute: compare absolute residuals as VMC's code does; unrelated clips then score about 0.3 and not 1.
        over: "frames", one cosine per channel and pixel along time (VMC's code; with 2 frames and absolute residuals
            the loss is always 0); "pixels", one per pair of frames over all channels and pixels (VMC's paper).
        space: "noise" compares noise_hat with noise, "output" the network's output with its target.

    With a mask both residuals are multiplied by it (a residual has the smaller value of its two frames), and cosines count by its mean.

    Raises:
        ValueError: unknown option, or fewer than 2 frames.
    """
    check_option("over", over, Over)
    check_option("space", space, Space)
    predicted, true = (p.noise_hat, p.noise) if space == "noise" else (p.output, p.target)
    predicted, true = frame_residuals(predicted, absolute=absolute), frame_residuals(true, absolute=absolute)
    between = None
    if p.mask is not None:
        between = between_frames(frame_mask(p.mask, predicted.new_empty(p.x0.shape)))
        predicted, true = inside(predicted, between), inside(true, between)
    if over == "pixels":
        predicted, true = predicted.transpose(1, 2).flatten(2), true.transpose(1, 2).flatten(2)  # [B, F-1, C*H*W]
    cosine = cosine_similarity(predicted, true, dim=2)
    if between is None:
        return 1 - cosine.flatten(1).mean(1)
    weight = between.mean((1, 3, 4)) if over == "pixels" else between.mean(2)
    seen = between.flatten(1).any(1)
    return torch.where(seen, 1 - mean_inside(cosine, weight), 0)


def anchor_debiased(p: Prediction, *, anchor: Tensor, beta: float = 1.0) -> Tensor:
    """Appearance-debiased error, the second term of MotionDirector's temporal loss (arXiv 2310.08465, eq. 5-7); [B].

    Output and target are both mapped by phi(e) = sqrt(beta^2 + 1) e - beta e[anchor], then compared by MSE.

    Args:
        anchor: LongTensor [B], the frame that stands for the appearance of each sample, 0 <= anchor < F.
        beta: how much of the anchor is taken away, 0 or above.

    With a mask a value counts by the smaller of its own frame's and of the anchor's.

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
    debiased = (math.sqrt(beta**2 + 1) * error - beta * at_anchor) ** 2
    if p.mask is None:
        return debiased.flatten(1).mean(1)
    mask = frame_mask(p.mask, error).expand(error.shape[0], -1, -1, -1, -1)
    return mean_inside(debiased, torch.minimum(mask, mask[samples, :, anchor.to(error.device)].unsqueeze(2)))


def draw_anchors(p: Prediction, generator: torch.Generator) -> Tensor:
    """Draw an anchor frame for each sample, uniformly from the frames in which its mask shows something; LongTensor [B] on the CPU."""
    batch, _, frames = p.output.shape[:3]
    anchor = torch.randint(frames, (batch,), generator=generator)
    if p.mask is None:
        return anchor
    shown = (frame_mask(p.mask, p.output) > 0).flatten(3).any(3).squeeze(1).cpu().expand(batch, frames)
    shown = shown | ~shown.any(1, keepdim=True)
    samples = torch.arange(batch)
    while not (kept := shown[samples, anchor]).all():
        anchor = torch.where(kept, anchor, torch.randint(frames, (batch,), generator=generator))
    return anchor


def signal_share(p: Prediction) -> Tensor:
    """Share of the clip in the variance of x_t, if clip and noise vary alike; [B], 1 clean to 0 pure noise.

    1 / (1 + s^2); for flow (1 - s)^2 / ((1 - s)^2 + s^2).
    """
    s = at_least_float32(p.sigma)
    if p.kind == "flow":
        return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)
    return 1 / (1 + s**2)
