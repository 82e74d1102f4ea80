"""Spectral Motion Alignment: distances between the motion of two clips (arXiv 2403.15249).

The global loss compares the frame residuals of both clips in a wavelet basis over time, the local loss in the Fourier
plane of each residual. Both come in two halves, so that a reference clip is transformed once and compared often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .residuals import frame_residuals
from .wavelets import check_wavelet, temporal_dwt

Residual = Literal["signed", "absolute"]
Phase = Literal["wrapped", "raw"]
Norm = Literal["ortho", "backward"]


def default_levels(frames: int) -> int:
    """Wavelet levels for a clip of `frames` frames: max(1, floor(log2(frames - 1))). 8 -> 2, 16 -> 3, 21 -> 4."""
    if frames < 2:
        raise ValueError(
            f"The clip has {frames} frame; motion needs at least 2. Raise frame_count or pick a longer clip."
        )
    return max(1, (frames - 1).bit_length() - 1)


@dataclass(frozen=True)
class SpectralSettings:
    """Every knob of both losses. The defaults are the repaired form.

    Raises:
        ValueError: a knob is out of its range; the sentence names the range.
    """

    wave: str = "haar"  # any discrete wavelet of PyWavelets
    levels: int | None = None  # None: default_levels(frames) + extra_levels
    extra_levels: int = 0
    level_weights: tuple[float, ...] | None = None  # approximation first, then details finest first; None: all 1
    residual: Residual = "signed"
    phase: Phase = "wrapped"  # wrapped: angle differences in (-pi, pi]; raw: principal angles subtracted, up to 2 pi
    norm: Norm = "ortho"  # backward: unnormalised FFT, amplitudes grow with sqrt(height * width)
    delta: float = 0.05  # how strongly low frequencies weigh more, at least 0
    base: float = 1.0  # weight of the highest frequency, at least 0
    zero_border: bool = False  # leave row 0 and column 0 of the shifted spectrum out (v1, eq. 21)
    global_weight: float = 0.4
    local_weight: float = 0.2

    def __post_init__(self) -> None:
        for name, options in (("residual", Residual), ("phase", Phase), ("norm", Norm)):
            if getattr(self, name) not in get_args(options):
                raise ValueError(f"Unknown {name} {getattr(self, name)!r}; use {' or '.join(get_args(options))}.")
        if self.levels is not None and self.levels < 1:
            raise ValueError(f"levels is {self.levels}; the wavelet transform needs at least 1.")
        for name in ("extra_levels", "delta", "base", "global_weight", "local_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or above.")
        if self.level_weights is not None and any(not 0 <= weight < math.inf for weight in self.level_weights):
            raise ValueError(f"level_weights are {self.level_weights}; each must be 0 or above.")
        if self.wave != "haar":  # haar is known; the presets below must not load PyWavelets
            check_wavelet(self.wave)

    def levels_for(self, frames: int) -> int:
        """Wavelet levels for a clip of `frames` frames."""
        return default_levels(frames) + self.extra_levels if self.levels is None else self.levels

    def level_weights_for(self, levels: int) -> tuple[float, ...]:
        """One weight for the approximation and one per level of detail, finest first."""
        weights = (1.0,) * (levels + 1) if self.level_weights is None else self.level_weights
        if len(weights) != levels + 1:
            raise ValueError(
                f"level_weights has {len(weights)} values; {levels} levels need {levels + 1}: "
                "the approximation, then the details finest first."
            )
        return weights


PAPER = SpectralSettings(extra_levels=1, phase="raw", norm="backward", zero_border=True)
OFFICIAL = SpectralSettings(residual="absolute", phase="raw", norm="backward")
REPAIRED = SpectralSettings()


def frequency_weight(
    height: int,
    width: int,
    *,
    delta: float = 0.05,
    base: float = 1.0,
    zero_border: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Weight of each spatial frequency, larger for lower ones (SMA, eq. 21).

    w(r, c) = ((H/2)^2 + (W/2)^2)^delta - ((r - H/2)^2 + (c - W/2)^2)^delta + base.

    Returns:
        [height, width] in the layout of `torch.fft.fftshift`, zero frequency at [height // 2, width // 2]. For odd
        sizes the centre of the formula lies half a bin beside it.
    """
    # In float64 first: subtracting two close powers in float32 loses digits.
    row = torch.arange(height, dtype=torch.float64, device=device) - height / 2
    column = torch.arange(width, dtype=torch.float64, device=device) - width / 2
    distance = row[:, None] ** 2 + column**2
    weight = ((height / 2) ** 2 + (width / 2) ** 2) ** delta - distance**delta + base
    if zero_border:
        weight[0] = 0
        weight[:, 0] = 0
    return weight.to(dtype)


def _half_plane(weight: Tensor) -> Tensor:
    """Fold a shifted weight [H, W] onto the bins of rfft2, [H, W // 2 + 1].

    A bin and its conjugate partner have equal amplitudes and angles of opposite sign, so the partner that rfft2 leaves
    out hands its weight over. Column 0, and the last one of even widths, hold both partners.
    """
    width = weight.shape[1]
    weight = torch.fft.ifftshift(weight)
    partner = weight.flip(0, 1).roll((1, 1), (0, 1))
    folded = weight + partner
    folded[:, 0] = weight[:, 0]
    if width % 2 == 0:
        folded[:, width // 2] = weight[:, width // 2]
    return folded[:, : width // 2 + 1]


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


@dataclass(frozen=True)
class GlobalTransform:
    """Wavelet coefficients of a clip's frame residuals over time: approximation, then details finest first."""

    settings: SpectralSettings
    bands: tuple[Tensor, ...]  # [B, C, T_level, H, W] each

    @classmethod
    def of(cls, clip: Tensor, settings: SpectralSettings) -> GlobalTransform:
        """Transform a clip [B, C, F, H, W]."""
        residual = frame_residuals(clip, absolute=settings.residual == "absolute")
        approx, details = temporal_dwt(residual, settings.wave, settings.levels_for(clip.shape[2]))
        return cls(settings, (approx, *details))

    def compare(self, clip: Tensor) -> Tensor:
        """Weighted sum over bands of the mean absolute difference to a clip [B, C, F, H, W]; [B]."""
        weights = self.settings.level_weights_for(len(self.bands) - 1)
        other = GlobalTransform.of(clip, self.settings)
        terms = (w * _mean((a - b).abs()) for w, a, b in zip(weights, self.bands, other.bands, strict=True))
        return torch.stack(list(terms)).sum(0)


@dataclass(frozen=True)
class LocalTransform:
    """Amplitude and angle of the spatial spectrum of a clip's frame residuals, [B, C, F-1, H, W // 2 + 1] each."""

    settings: SpectralSettings
    amplitude: Tensor
    angle: Tensor
    weight: Tensor  # [H, W // 2 + 1], divided by H * W, so that a weighted sum is the mean over the whole plane

    @classmethod
    def of(cls, clip: Tensor, settings: SpectralSettings) -> LocalTransform:
        """Transform a clip [B, C, F, H, W]."""
        residual = frame_residuals(clip, absolute=settings.residual == "absolute")
        height, width = residual.shape[-2:]
        spectrum = torch.fft.rfft2(residual, norm=settings.norm)
        weight = frequency_weight(
            height,
            width,
            delta=settings.delta,
            base=settings.base,
            zero_border=settings.zero_border,
            dtype=residual.dtype,
            device=residual.device,
        )
        return cls(settings, spectrum.abs(), spectrum.angle(), _half_plane(weight) / (height * width))

    def compare(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean absolute differences to a clip [B, C, F, H, W]: of amplitudes [B], of angles [B]."""
        other = LocalTransform.of(clip, self.settings)
        angle = self.angle - other.angle
        if self.settings.phase == "wrapped":
            angle = angle - 2 * math.pi * (angle / (2 * math.pi)).round()
        amplitude = self.amplitude - other.amplitude
        return self._weighted(amplitude), self._weighted(angle)

    def _weighted(self, difference: Tensor) -> Tensor:
        return _mean((self.weight * difference.abs()).sum((-2, -1)))


def global_loss(
    x0: Tensor,
    x0_hat: Tensor,
    *,
    wave: str = "haar",
    levels: int | None = None,
    level_weights: tuple[float, ...] | None = None,
    residual: Residual = "signed",
) -> Tensor:
    """Whole-clip motion: L1 distance of the frame residuals in a wavelet basis over time (SMA, global alignment).

    Each band counts by its mean, so short bands weigh as much as long ones.

    Args:
        x0, x0_hat: [B, C, F, H, W], F >= 2.
        wave: a discrete wavelet of PyWavelets.
        levels: 1 or more; None means default_levels(F). More than log2(F - 1) is legal.
        level_weights: levels + 1 values, approximation first, then details finest first; None means all 1.
        residual: "signed" as in the paper, "absolute" as in its code.

    Returns:
        [B], at least float32.
    """
    settings = SpectralSettings(wave=wave, levels=levels, level_weights=level_weights, residual=residual)
    return GlobalTransform.of(x0, settings).compare(x0_hat)


def local_loss(
    x0: Tensor,
    x0_hat: Tensor,
    *,
    residual: Residual = "signed",
    phase: Phase = "wrapped",
    norm: Norm = "ortho",
    delta: float = 0.05,
    base: float = 1.0,
    zero_border: bool = False,
) -> tuple[Tensor, Tensor]:
    """Shape of each frame residual: distance of its spatial spectra, low frequencies first (SMA, local alignment).

    Args:
        x0, x0_hat: [B, C, F, H, W], F >= 2.
        residual, phase, norm, delta, base, zero_border: see SpectralSettings.

    Returns:
        Amplitude distance [B] and phase distance [B] (radians); the paper's loss is their sum. Means run over the
        whole H x W plane, also over bins of weight 0.
    """
    settings = SpectralSettings(
        residual=residual, phase=phase, norm=norm, delta=delta, base=base, zero_border=zero_border
    )
    return LocalTransform.of(x0, settings).compare(x0_hat)
