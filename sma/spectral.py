"""Spectral Motion Alignment: distances between the motion of two clips (arXiv 2403.15249).

The global loss compares the frame residuals of both clips in a wavelet basis over time, the local loss in the Fourier
plane of each residual. Both come in two halves, so that a reference clip is transformed once and compared often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .checks import check_frames, check_option, check_weight, check_whole
from .frequency_weight import frequency_weight, half_plane
from .masks import between_frames, frame_mask, inside
from .residuals import frame_residuals
from .wavelets import check_wavelet, temporal_dwt

Residual = Literal["signed", "absolute"]
PhaseDifference = Literal["wrapped", "raw"]
Norm = Literal["ortho", "backward"]
Compared = Literal["x0_hat", "output"]
SigmaWeight = Literal["none", "signal"]
Bands = Literal["all", "low"]

MOST_LEVELS = 16  # each halves the rate of the one before, and no clip has so many frames


def default_levels(frames: int) -> int:
    """Wavelet levels for a clip of `frames` frames: max(1, floor(log2(frames - 1))). 8 -> 2, 16 -> 3, 21 -> 4."""
    check_frames(frames)
    return max(1, (frames - 1).bit_length() - 1)


@dataclass(frozen=True)
class SpectralSettings:
    """Every knob of both losses; the defaults are those of the loss functions.

    ``space`` and ``sigma_weight`` are no matter of two clips but of a prediction; the terms in losses.py obey them.

    Raises:
        ValueError: a knob is out of its range; the sentence names the range.
    """

    wave: str = "haar"  # any discrete wavelet of PyWavelets
    levels: int | None = None  # None: default_levels(frames) + extra_levels
    extra_levels: int = 0
    level_weights: Sequence[float] | None = (
        None  # kept as a tuple; approximation first, then details finest first; None: all 1
    )
    residual: Residual = "signed"
    phase: PhaseDifference = (
        "wrapped"  # wrapped: angle differences in (-pi, pi]; raw: principal angles subtracted, up to 2 pi
    )
    norm: Norm = "ortho"  # backward: unnormalised FFT, amplitudes grow with sqrt(height * width)
    delta: float = 0.05  # how strongly low frequencies weigh more, at least 0
    base: float = 1.0  # weight of the highest frequency, at least 0
    zero_border: bool = False  # leave row 0 and column 0 of the shifted spectrum out (v1, eq. 21)
    relative: bool = False  # see local_loss
    global_weight: float = 0.4
    local_weight: float = 0.2
    space: Compared = "x0_hat"  # output: the network's own eps, v or velocity against its target
    sigma_weight: SigmaWeight = "none"  # signal: each sample counts by signal_share; x0_hat is poor at high noise
    bands: Bands = "all"  # low: the approximation and the coarsest detail of the global loss; of one level, the former

    def __post_init__(self) -> None:
        options = {"residual": Residual, "phase": PhaseDifference, "norm": Norm}
        options |= {"space": Compared, "sigma_weight": SigmaWeight, "bands": Bands}
        for name, known in options.items():
            check_option(name, getattr(self, name), known)
        check_wavelet(self.wave)
        check_whole("extra_levels", self.extra_levels, 0, MOST_LEVELS)
        for name in ("delta", "base", "global_weight", "local_weight"):
            check_weight(name, getattr(self, name))
        if self.level_weights is not None:
            object.__setattr__(self, "level_weights", tuple(self.level_weights))
            if any(not 0 <= weight < math.inf for weight in self.level_weights):
                raise ValueError(f"level_weights are {self.level_weights}; each must be 0 or above.")
        if self.levels is not None:
            check_whole("levels", self.levels, 1, MOST_LEVELS)
            self.level_weights_for(self.levels)

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
        if self.bands == "low":
            coarsest = levels if levels > 1 else 0
            return tuple(weight if band in (0, coarsest) else 0.0 for band, weight in enumerate(weights))
        return weights


PAPER = SpectralSettings(extra_levels=1, phase="raw", norm="backward", zero_border=True)
OFFICIAL = SpectralSettings(residual="absolute", phase="raw", norm="backward")
# Relative: without it the value of smooth content changes sixfold from 16x16 to 90x160, and angles of empty bins, which
# are noise, dominate the gradient as the estimate comes close.
REPAIRED = SpectralSettings(relative=True)
# On what the network itself predicts, at a tenth of the paper's weights: the form that did no harm beside plain denoising.
OUTPUT = SpectralSettings(relative=True, space="output", global_weight=0.04, local_weight=0.02)


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _check_same_shape(reference: tuple[int, ...], batch: int, clip: Tensor) -> None:
    if batch != clip.shape[0] and 1 not in (batch, clip.shape[0]):
        raise ValueError(f"The clips are batches of {batch} and {clip.shape[0]}; both must be equal, or one of them 1.")
    shape = tuple(clip.shape[1:])
    if shape != reference:  # broadcasting would hide some of these
        raise ValueError(
            f"The clips are {reference} and {shape} (channels, frames, height, width); "
            "the spectral losses compare clips of one shape. Resize or retime one."
        )


@dataclass(frozen=True)
class GlobalTransform:
    """Wavelet coefficients of a clip's frame residuals over time."""

    settings: SpectralSettings
    shape: tuple[int, ...]  # C, F, H, W of the clip
    bands: tuple[Tensor, ...]  # [B, C, T_level, H, W] each, approximation first, then details finest first
    mask: Tensor | None = None  # as it was given
    share: Tensor | None = None  # [B], mean of the residuals' mask

    @classmethod
    def of(cls, clip: Tensor, settings: SpectralSettings, *, mask: Tensor | None = None) -> GlobalTransform:
        """Transform a clip [B, C, F, H, W], or what a mask shows of it; see global_loss."""
        residual = frame_residuals(clip, absolute=settings.residual == "absolute")
        share = None
        if mask is not None:
            between = between_frames(frame_mask(mask, clip))
            residual, share = inside(residual, between), _mean(between)
        approx, details = temporal_dwt(residual, settings.wave, settings.levels_for(clip.shape[2]))
        return cls(settings, tuple(clip.shape[1:]), (approx, *details), mask, share)

    def compare(self, clip: Tensor) -> Tensor:
        """Weighted sum over bands of the mean absolute difference to a clip [B, C, F, H, W]; [B]."""
        _check_same_shape(self.shape, self.bands[0].shape[0], clip)
        weights = self.settings.level_weights_for(len(self.bands) - 1)
        bands = GlobalTransform.of(clip, self.settings, mask=self.mask).bands
        terms = [w * _mean((a - b).abs()) for w, a, b in zip(weights, self.bands, bands, strict=True)]
        value = torch.stack(terms).sum(0)
        return value if self.share is None else value / self.share.clamp_min(torch.finfo(value.dtype).tiny)


@dataclass(frozen=True)
class LocalTransform:
    """Amplitude and angle of the spatial spectrum of a clip's frame residuals, on the bins of rfft2."""

    settings: SpectralSettings
    shape: tuple[int, ...]  # C, F, H, W of the clip
    amplitude: Tensor  # [B, C, F-1, H, W // 2 + 1]
    angle: Tensor  # the same, radians
    weight: Tensor  # [H, W // 2 + 1], divided by H * W: a weighted sum is the mean over the whole plane
    mask: Tensor | None = None  # as it was given
    pairs: Tensor | None = None  # [B, 1, F-1], how much each residual counts, 1 in the mean

    @classmethod
    def of(cls, clip: Tensor, settings: SpectralSettings, *, mask: Tensor | None = None) -> LocalTransform:
        """Transform a clip [B, C, F, H, W], or what a mask shows of it; see local_loss."""
        amplitude, angle, pairs = _spectrum(clip, settings, mask)
        height, width = clip.shape[3:]
        weight = frequency_weight(
            height,
            width,
            delta=settings.delta,
            base=settings.base,
            zero_border=settings.zero_border,
            dtype=amplitude.dtype,
            device=amplitude.device,
        )
        weight = half_plane(weight) / (height * width)
        return cls(settings, tuple(clip.shape[1:]), amplitude, angle, weight, mask, pairs)

    def compare(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitude distance [B] and angle distance [B] to a clip [B, C, F, H, W]; see local_loss."""
        _check_same_shape(self.shape, self.amplitude.shape[0], clip)
        amplitude, angle, _ = _spectrum(clip, self.settings, self.mask)
        amplitude = (self.amplitude - amplitude).abs()
        angle = self.angle - angle
        if self.settings.phase == "wrapped":
            angle = angle - 2 * math.pi * (angle / (2 * math.pi)).round()
        angle = angle.abs()
        if not self.settings.relative:
            return self._plane_mean(amplitude), self._plane_mean(angle)
        scale = self._plane_mean(self.amplitude)
        scale = torch.where(scale > 0, scale, 1.0)  # a still clip has no amplitude to measure against
        return self._plane_mean(amplitude) / scale, self._plane_mean(self.amplitude * angle) / scale

    def _plane_mean(self, x: Tensor) -> Tensor:
        means = (self.weight * x).sum((-2, -1))
        return _mean(means if self.pairs is None else self.pairs * means)


def _spectrum(clip: Tensor, settings: SpectralSettings, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Amplitude and angle of each residual's spectrum, and under a mask how much each residual counts."""
    residual = frame_residuals(clip, absolute=settings.residual == "absolute")
    pairs = None
    if mask is not None:
        between = between_frames(frame_mask(mask, clip))
        tiny = torch.finfo(between.dtype).tiny
        # A root mean square of 1: by Parseval noise then keeps its amplitudes, however little of it the mask shows.
        window = between / between.square().mean((-2, -1), keepdim=True).sqrt().clamp_min(tiny)
        residual, pairs = inside(residual, window), between.mean((-2, -1))
        pairs = pairs / pairs.mean(2, keepdim=True).clamp_min(tiny)
    spectrum = torch.fft.rfft2(residual, norm=settings.norm)
    return spectrum.abs(), spectrum.angle(), pairs


def global_loss(
    x0: Tensor,
    x0_hat: Tensor,
    *,
    wave: str = "haar",
    levels: int | None = None,
    level_weights: Sequence[float] | None = None,
    residual: Residual = "signed",
    mask: Tensor | None = None,
) -> Tensor:
    """Whole-clip motion: L1 distance of the frame residuals in a wavelet basis over time (SMA, global alignment).

    Each band counts by its mean, so short bands weigh as much as long ones.

    Args:
        x0, x0_hat: [B, C, F, H, W], F >= 2; one of them may have a batch of 1.
        wave: a discrete wavelet of PyWavelets.
        levels: 1 or more; None means default_levels(F). More than log2(F - 1) is legal.
        level_weights: levels + 1 values, approximation first, then details finest first; None means all 1.
        residual: "signed" as in the paper, "absolute" as in its code.
        mask: where to look, 0 or above, broadcastable to [B, 1, F, H, W]; None is everywhere. A residual has the smaller value of its
            two frames. Residuals are multiplied by it before the transform, and the means divided by its mean.

    Returns:
        [B], at least float32.
    """
    settings = SpectralSettings(wave=wave, levels=levels, level_weights=level_weights, residual=residual)
    return GlobalTransform.of(x0, settings, mask=mask).compare(x0_hat)


def local_loss(
    x0: Tensor,
    x0_hat: Tensor,
    *,
    residual: Residual = "signed",
    phase: PhaseDifference = "wrapped",
    norm: Norm = "ortho",
    delta: float = 0.05,
    base: float = 1.0,
    zero_border: bool = False,
    relative: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Shape of each frame residual: distance of its spatial spectra, low frequencies first (SMA, local alignment).

    With orthonormal transforms the amplitudes of white residuals keep their scale over resolution, those of smooth
    content do not: its few bins hold sqrt(H W) times as much, but the mean divides by H W; and the angles of the empty
    bins are noise. `relative` fits such content: the amplitude distance becomes a share of x0's amplitude, and angles
    count by x0's amplitude.

    Args:
        x0, x0_hat: [B, C, F, H, W], F >= 2; one of them may have a batch of 1.
        residual, phase, norm, delta, base, zero_border: see SpectralSettings.
        relative: measure against the amplitudes of x0.
        mask: where to look, as in global_loss. Each residual is multiplied by its mask, scaled to a root mean square of 1, before the
            transform, so that the amplitudes of noise do not depend on how much is shown; residuals then count by the mean of their mask.

    Returns:
        Amplitude distance [B] and phase distance [B] (radians); the paper's loss is their sum. Means run over the
        whole H x W plane, also over bins of weight 0.
    """
    settings = SpectralSettings(
        residual=residual,
        phase=phase,
        norm=norm,
        delta=delta,
        base=base,
        zero_border=zero_border,
        relative=relative,
    )
    return LocalTransform.of(x0, settings, mask=mask).compare(x0_hat)
