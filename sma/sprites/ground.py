"""Grey backgrounds of the sprites' clips: plain, striped or clouded, at rest or drifting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GROUNDS: tuple[str, ...] = ("plain", "stripes", "clouds")
BACKGROUND = (0.08, 0.50)
_CONTRAST = (0.05, 0.12)
_WAVES = 4
_DRIFTING = 0.5  # share of the textured ones


@dataclass(frozen=True, eq=False)
class Ground:
    """Grey backgrounds of B clips: a shade, and on it the sum of K plane waves that drift as one.

    kind [B], index into GROUNDS; shade [B], 0..1; amplitude [B,K]; frequency [B,K,2], cycles per frame width along x and
    y; phase [B,K], radians; drift [B,2], frame widths per frame.
    """

    kind: Tensor
    shade: Tensor
    amplitude: Tensor
    frequency: Tensor
    phase: Tensor
    drift: Tensor

    @classmethod
    def flat(cls, shade: Tensor) -> Ground:
        """Plain grounds of these shades [B]."""
        nothing = torch.zeros(len(shade), _WAVES)
        still = torch.zeros(len(shade), 2)
        return cls(
            torch.zeros(len(shade), dtype=torch.long),
            shade,
            nothing,
            nothing[..., None].expand(-1, -1, 2),
            nothing,
            still,
        )

    @classmethod
    def random(cls, count: int, generator: torch.Generator, kind: str | None = None) -> Ground:
        """Random grounds, half of them plain; or all of one kind of GROUNDS."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *shape, generator=generator)

        chosen = torch.multinomial(torch.tensor([2.0, 1.0, 1.0]), count, replacement=True, generator=generator)
        if kind is not None:
            chosen = torch.full_like(chosen, GROUNDS.index(kind))
        contrast = uniform(*_CONTRAST)[:, None]
        striped = (chosen == 1)[:, None]
        # Stripes are one wave; clouds are several slow ones that cross.
        amplitude = torch.where(striped, contrast * (torch.arange(_WAVES) == 0), contrast * uniform(0.3, 0.6, _WAVES))
        amplitude = amplitude * (chosen > 0)[:, None]
        length = torch.where(striped, uniform(2.0, 3.5)[:, None], uniform(0.6, 1.6, _WAVES))
        angle = uniform(0, 2 * math.pi, _WAVES)
        frequency = torch.stack([length * torch.cos(angle), length * torch.sin(angle)], -1)
        drifts = (uniform(0, 1) < _DRIFTING)[:, None]
        way, speed = uniform(0, 2 * math.pi), uniform(0.02, 0.06)
        drift = torch.where(drifts, torch.stack([speed * torch.cos(way), speed * torch.sin(way)], -1), 0.0)
        shade = uniform(*BACKGROUND)
        return cls(chosen, shade, amplitude, frequency, uniform(0, 2 * math.pi, _WAVES), drift)

    def render(self, frames: int, size: int) -> Tensor:
        """Grey level of every pixel, [B,frames,size,size] in 0..1."""
        points = (torch.arange(size) + 0.5) / size
        place = torch.stack(torch.meshgrid(points, points, indexing="xy"), -1)
        shift = torch.arange(frames)[:, None] * self.drift[:, None, :]
        along = torch.einsum("bkc,hwc->bkhw", self.frequency, place)[:, :, None]
        moved = torch.einsum("bkc,bfc->bkf", self.frequency, shift)[..., None, None]
        waves = torch.sin(2 * math.pi * (along - moved) + self.phase[..., None, None, None])
        pattern = (self.amplitude[..., None, None, None] * waves).sum(1)
        return (self.shade[:, None, None, None] + pattern).clamp(0, 1)
