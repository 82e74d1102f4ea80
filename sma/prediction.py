"""What a denoiser said about one noised clip, in the terms every loss needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .checks import check_option
from .residuals import at_least_float32

Kind = Literal["eps", "v", "flow", "x0"]


def _per_sample(sigma: Tensor | float, x: Tensor) -> Tensor:
    """One sigma per sample of x, shaped [B, 1, 1, 1, 1]."""
    return torch.as_tensor(sigma).to(x).reshape(-1).expand(x.shape[0]).view(-1, 1, 1, 1, 1)


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor | float, kind: Kind) -> Tensor:
    """Noise a clip as its network expects: (1 - s) x0 + s n for flow, x0 + s n for the others.

    Args:
        x0, noise: [B, C, F, H, W].
        sigma: [B] or one value for all, in the host's sense.

    Returns:
        x_t, [B, C, F, H, W].

    Raises:
        ValueError: unknown kind.
    """
    check_option("prediction kind", kind, Kind)
    s = _per_sample(sigma, x0)
    return ((1 - s) * x0 if kind == "flow" else x0) + s * noise


@dataclass(frozen=True)
class Prediction:
    """One noised clip and the denoiser's answer. All clips are [B, C, F, H, W], at least float32.

    With s = sigma in the host's sense, eps, v and x0 networks are noised as x_t = x0 + s n, flow networks as
    x_t = (1 - s) x0 + s n. `output` is the network's own quantity and `target` what it was trained to say:

    | kind | output                                       | target                         | noise_hat                |
    |------|----------------------------------------------|--------------------------------|--------------------------|
    | eps  | (x_t - x0_hat) / s                           | noise                          | output                   |
    | v    | (x_t / (1+s^2) - x0_hat) sqrt(1+s^2) / s     | (noise - s x0) / sqrt(1+s^2)   | (x_t - x0_hat) / s       |
    | flow | (x_t - x0_hat) / s                           | noise - x0                     | (x_t - (1-s) x0_hat) / s |
    | x0   | x0_hat                                       | x0                             | (x_t - x0_hat) / s       |

    Fields:
        x0: the clean clip. noise: the noise that was added. x_t: the noised clip.
        sigma: [B], above 0.
        x0_hat, noise_hat: the denoiser's estimates of x0 and noise.
        mask: None, or broadcastable to [B, 1, F, H, W] and at least 0: where the losses look.
    """

    x0: Tensor
    noise: Tensor
    x_t: Tensor
    sigma: Tensor
    x0_hat: Tensor
    noise_hat: Tensor
    target: Tensor
    output: Tensor
    kind: Kind
    mask: Tensor | None = None

    @classmethod
    def from_denoised(
        cls,
        x0: Tensor,
        noise: Tensor,
        x_t: Tensor,
        sigma: Tensor | float,
        x0_hat: Tensor,
        kind: Kind,
        mask: Tensor | None = None,
    ) -> Prediction:
        """Recover the network's own output from its clean estimate, which all kinds have in common.

        Args:
            x0, noise, x_t, x0_hat: [B, C, F, H, W].
            sigma: [B] or one value for all, above 0. Not checked, which would halt a GPU: 0 gives NaN.
            kind: "eps", "v", "flow" or "x0".
            mask: see the class.

        Raises:
            ValueError: unknown kind.
        """
        check_option("prediction kind", kind, Kind)
        x0, noise, x_t, x0_hat = (at_least_float32(x) for x in (x0, noise, x_t, x0_hat))
        s = _per_sample(sigma, x_t)
        noise_hat = (x_t - x0_hat) / s
        if kind == "eps":
            output, target = noise_hat, noise
        elif kind == "v":
            scale = (1 + s**2).sqrt()
            output, target = (x_t / scale**2 - x0_hat) * scale / s, (noise - s * x0) / scale
        elif kind == "flow":
            output, target = noise_hat, noise - x0
            noise_hat = (x_t - (1 - s) * x0_hat) / s
        else:
            output, target = x0_hat, x0
        return cls(x0, noise, x_t, s.flatten(), x0_hat, noise_hat, target, output, kind, mask)
