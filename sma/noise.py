"""Noise starts: fresh noise mixed with a clip's inverted latent, so that a new video begins with the clip's layout and motion.

Throughout, i is the inverted latent and n fresh noise, both [B, C, F, H, W] of about unit variance. Where i has one video and n
several, i serves all. Where their height or width differ, i is resized to n frame by frame (bilinear, align_corners False, no antialias,
as MotionDirector does), which lowers its variance; :func:`unit_variance` repairs that. Results are at least float32. Formulas and their
quirks are those of MotionDirector's, MotionInversion's and DMT's published code, except :func:`mix_temporal_bands`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_option, check_weight, check_whole
from .residuals import at_least_float32
from .wavelets import temporal_dwt

MaskKind = Literal["gaussian", "butterworth", "ideal", "box"]

_BUTTERWORTH_ORDER = 4


def blend(inverted: Tensor, noise: Tensor, p: float) -> Tensor:
    """sqrt(p) i + sqrt(1 - p) n, of unit variance where i and n are independent and have it.

    MotionDirector's noise prior (arXiv 2310.08465) and MotionInversion's BlendInit (arXiv 2403.20193); both use p = 0.5.

    Args:
        inverted: [B or 1, C, F, h, w].
        noise: [B, C, F, H, W].
        p: share of the inverted latent's variance, 0..1.

    Raises:
        ValueError: p outside 0..1, or latents that do not fit.
    """
    _check_share("p", p)
    inverted, noise = _fitted(inverted, noise)
    return math.sqrt(p) * inverted + math.sqrt(1 - p) * noise


def swap_low_frequencies(inverted: Tensor, noise: Tensor, *, factor: int = 4) -> Tensor:
    """low(i) + n - low(n): the inverted latent's layout, the noise's detail.

    low() shrinks each frame to floor(H / factor) x floor(W / factor) and enlarges it again (bilinear, align_corners True, antialias).
    DMT's start (arXiv 2311.17009), MotionInversion's FreqInit. The variance falls below 1: low() is no projection.

    Args:
        inverted: [B or 1, C, F, h, w].
        noise: [B, C, F, H, W].
        factor: of the shrinking, 1 or more; 1 gives i.

    Raises:
        ValueError: a factor that leaves no pixel, or latents that do not fit.
    """
    inverted, noise = _fitted(inverted, noise)
    return noise + _low(inverted - noise, factor)


def blend_frequencies(inverted: Tensor, noise: Tensor, p: float, *, factor: int = 4) -> Tensor:
    """low(i) + sqrt(p) (i - low(i)) + sqrt(1 - p) (n - low(n)): layout of the inverted latent, blended detail.

    MotionInversion's BlendFreqInit (arXiv 2403.20193), low() as in :func:`swap_low_frequencies`.

    Args:
        inverted: [B or 1, C, F, h, w].
        noise: [B, C, F, H, W].
        p: share of the inverted latent's detail, 0..1. 0 is :func:`swap_low_frequencies`, 1 gives i.
        factor: of the shrinking, 1 or more.

    Raises:
        ValueError: p outside 0..1, a factor that leaves no pixel, or latents that do not fit.
    """
    _check_share("p", p)
    inverted, noise = _fitted(inverted, noise)
    low = _low(inverted, factor)
    return low + math.sqrt(p) * (inverted - low) + math.sqrt(1 - p) * (noise - _low(noise, factor))


def mix_fft(inverted: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """Real part of ifft(M fft(i) + (1 - M) fft(n)), over time and space at once.

    MotionInversion's FFTInit (arXiv 2403.20193) after FreeInit (arXiv 2312.07537).

    Args:
        inverted: [B or 1, C, F, h, w].
        noise: [B, C, F, H, W].
        mask: M in 0..1, broadcastable to [B, C, F, H, W], fftshifted (zero frequency in the middle); see :func:`frequency_mask`.

    Raises:
        ValueError: latents that do not fit.
    """
    inverted, noise = _fitted(inverted, noise)
    axes = (2, 3, 4)
    difference = torch.fft.fftshift(torch.fft.fftn(inverted - noise, dim=axes), dim=axes)
    low = torch.fft.ifftn(torch.fft.ifftshift(mask.to(noise) * difference, dim=axes), dim=axes).real
    return noise + low


def frequency_mask(shape: Sequence[int], kind: MaskKind, ds: float, dt: float) -> Tensor:
    """Low-pass mask for :func:`mix_fft`, as FreeInit (arXiv 2312.07537) and MotionInversion build it.

    At index (f, h, w) of the fftshifted grid d2 = ((ds / dt) (2f/F - 1))^2 + (2h/H - 1)^2 + (2w/W - 1)^2. For odd sizes d2 = 0 lies
    between two frequencies, so the mask is then half an index off centre; kept, as the published numbers include it.

    - gaussian: exp(-d2 / (2 ds^2)).
    - butterworth: 1 / (1 + (d2 / ds^2)^4).
    - ideal: d2 <= 2 ds. A slip for ds^2 in the original, kept: it passes nearly everything.
    - box: 1 where F//2 - a <= f < F//2 + a, and h and w likewise with b, a = round(F//2 * dt) and b = round(H//2 * ds) for both h and w.

    Args:
        shape: ends in F, H, W; a latent's whole shape will do.
        kind: of the mask.
        ds, dt: width in space and in time as a share of the spectrum, 0 or above; 0.25 is usual. 0 in either passes nothing.

    Returns:
        [1, 1, F, H, W] float32 in 0..1.

    Raises:
        ValueError: unknown kind, or a negative width.
    """
    check_option("mask", kind, MaskKind)
    check_weight("ds", ds)
    check_weight("dt", dt)
    frames, height, width = shape[-3:]
    if ds == 0 or dt == 0:
        return torch.zeros(1, 1, frames, height, width)
    if kind == "box":
        mask = torch.zeros(frames, height, width)
        spatial = round(height // 2 * ds)
        mask[_middle(frames, round(frames // 2 * dt)), _middle(height, spatial), _middle(width, spatial)] = 1
        return mask[None, None]
    f, h, w = torch.meshgrid(*(2 * torch.arange(n, dtype=torch.float64) / n - 1 for n in shape[-3:]), indexing="ij")
    d2 = (ds / dt * f).square() + h.square() + w.square()
    if kind == "gaussian":
        mask = torch.exp(-d2 / (2 * ds**2))
    elif kind == "butterworth":
        mask = 1 / (1 + (d2 / ds**2) ** _BUTTERWORTH_ORDER)
    else:
        mask = d2 <= 2 * ds
    return mask.float()[None, None]


def mix_temporal_bands(inverted: Tensor, noise: Tensor, *, levels: int, wave: str = "haar") -> Tensor:
    """P i + (I - P) n: slow changes over time from the inverted latent, fast ones from the noise. Ours.

    P projects each pixel's series of F values orthogonally onto the span of the wavelet's approximation after ``levels`` levels; with
    haar it replaces each run of 2^levels frames by its mean. An orthogonal projection keeps unit variance for any F where i and n are
    independent and white, which the other mixtures but :func:`blend` do not.

    Args:
        inverted: [B or 1, C, F, h, w].
        noise: [B, C, F, H, W].
        levels: 1 or more. From log2(F) on (haar) only the mean over time comes from i.
        wave: a discrete wavelet of PyWavelets.

    Raises:
        ValueError: levels < 1, unknown wavelet, or latents that do not fit.
    """
    inverted, noise = _fitted(inverted, noise)
    frames = noise.shape[2]
    impulses = torch.eye(frames, dtype=torch.float64).view(1, frames, frames, 1, 1)
    approx, _ = temporal_dwt(impulses, wave, levels)
    analysis = approx[0, :, :, 0, 0].T  # [coefficients, F]
    projection = (torch.linalg.pinv(analysis) @ analysis).to(noise)
    return noise + torch.einsum("gf,bcfhw->bcghw", projection, inverted - noise)


def offset_noise(noise: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """n + s o with o ~ N(0, 1) of shape [B, C, F, 1, 1]: brightness per frame, which plain noise hardly has.

    MotionDirector's offset noise (arXiv 2310.08465). The variance becomes 1 + s^2 and stays so.

    Args:
        noise: n, [B, C, F, H, W].
        strength: s, 0 or above.
        generator: draws o, on its own device.

    Raises:
        ValueError: negative strength.
    """
    check_weight("strength", strength)
    noise = at_least_float32(noise)
    offset = torch.randn(*noise.shape[:3], 1, 1, generator=generator, device=generator.device, dtype=noise.dtype)
    return noise + strength * offset.to(noise.device)


def unit_variance(x: Tensor) -> Tensor:
    """Each video divided by its standard deviation over channels, frames and pixels, at least float32. The mean is kept in proportion.

    Args:
        x: [B, C, F, H, W], not constant.
    """
    x = at_least_float32(x)
    return x / x.std(dim=(1, 2, 3, 4), correction=0, keepdim=True)


def resize_frames(x: Tensor, height: int, width: int) -> Tensor:
    """Each frame of [B, C, F, h, w] at height x width: bilinear, align_corners False, no antialias. The same tensor where it fits."""
    if x.shape[3:] == (height, width):
        return x
    return _per_frame(x, (height, width))


def _fitted(inverted: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Both at least float32, the inverted latent on the noise's device and at its height and width.

    Raises:
        ValueError: other channels, frames, or several videos for another number of noises.
    """
    inverted, noise = at_least_float32(inverted).to(noise.device), at_least_float32(noise)
    for axis, name in ((1, "channels"), (2, "latent frames")):
        if inverted.shape[axis] != noise.shape[axis]:
            raise ValueError(
                f"The inverted clip has {inverted.shape[axis]} {name} and the new video {noise.shape[axis]}; "
                "they must agree. Invert a clip of that length with the model that samples."
            )
    if inverted.shape[0] not in (1, noise.shape[0]):
        raise ValueError(
            f"The inverted latent holds {inverted.shape[0]} clips and {noise.shape[0]} videos are to be made; "
            "invert one clip, or as many as there are videos."
        )
    return resize_frames(inverted, *noise.shape[3:]), noise


def _low(x: Tensor, factor: int) -> Tensor:
    check_whole("factor", factor, 1)
    height, width = x.shape[3:]
    small = (height // factor, width // factor)
    if 0 in small:
        raise ValueError(f"A factor of {factor} leaves nothing of {width}x{height} latent pixels; use a smaller one.")
    exact = {"align_corners": True, "antialias": True}
    return _per_frame(_per_frame(x, small, **exact), (height, width), **exact)


def _per_frame(x: Tensor, size: tuple[int, int], **options: bool) -> Tensor:
    frames = x.transpose(1, 2).flatten(0, 1)  # [B * F, C, h, w]
    resized = F.interpolate(frames, size=size, mode="bilinear", **options)
    return resized.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def _middle(size: int, reach: int) -> slice:
    # A reach beyond the border must not wrap around to the other side.
    return slice(max(size // 2 - reach, 0), size // 2 + reach)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must be between 0 and 1.")
