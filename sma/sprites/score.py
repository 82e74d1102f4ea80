"""How well a sprite clip repeats the motion of another: the sprite's centred path and size over time, from pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .data import COLOURS, SHAPES, coverage

# Every colour of the palette lies 0.54 or more from grey; the grounds of a trained model stay within 0.1 of it.
_MIN_CONTRAST = 0.25
_AREA = (0.008, 0.5)
# Second moment over that of a disc of equal area: square 1.05, triangle 1.21; scattered noise lies far above.
_MAX_SPREAD = 1.8
_MAX_INVISIBLE = 0.26
_ANALYSIS_WIDTH = 32


@dataclass(frozen=True, eq=False)
class Track:
    """What was found in a clip of F frames, analysed at h x w pixels.

    path [F,3]: (x, y, size) as in data.py, zeros where invisible; visible [F], bool; alpha [F,h,w]: the sprite's
    coverage, 0..1; colour [F,3]: its RGB, the background's where invisible.
    """

    path: Tensor
    visible: Tensor
    alpha: Tensor
    colour: Tensor


@dataclass(frozen=True)
class MotionScore:
    """cosine: of the two centred paths (x, y, size over time), -1..1. error: mean distance between them, in % of the
    frame width. visible: share of the video's frames that show a sprite, 0..1.

    Frames without a sprite are left out of cosine and error; where they are more than 26 % the cosine is 0 and the
    error is that of a sprite that stands still. So read `visible` as well.
    """

    cosine: float
    error: float
    visible: float


def track(video: Tensor, colour: str | None = None) -> Track:
    """Find the sprite in every frame of a clip [F,H,W,3] in 0..1 on a grey background, of any texture; any size from 8x8 pixels.

    colour: of COLOURS, to follow the sprite of this colour where there are two; None follows the one that stands out most.
    """
    if video.ndim != 4 or video.shape[3] != 3 or min(video.shape[1:3]) < 8:
        raise ValueError(f"The clip has shape {tuple(video.shape)}; it must be [F,H,W,3] with at least 8x8 pixels.")
    frames = video.detach().float().movedim(3, 1)
    if frames.shape[3] > _ANALYSIS_WIDTH:
        height = max(8, round(frames.shape[2] * _ANALYSIS_WIDTH / frames.shape[3]))
        frames = F.interpolate(frames, (height, _ANALYSIS_WIDTH), mode="area")
    found = [_track_frame(frame, colour) for frame in frames]
    return Track(*(torch.stack(part) for part in zip(*found, strict=True)))


def motion_score(video: Tensor, reference: Tensor) -> MotionScore:
    """Compare the motion of two clips [F,H,W,3] in 0..1 with the same number of frames; frame sizes may differ."""
    if video.shape[0] != reference.shape[0]:
        raise ValueError(
            f"The clip has {video.shape[0]} frames and the reference {reference.shape[0]}; cut both to the same number."
        )
    wanted, seen = track(reference), track(video)
    if (~wanted.visible).float().mean() > _MAX_INVISIBLE:
        raise ValueError("The reference shows no sprite that can be followed; use a rendered sprite clip as reference.")
    visible = seen.visible.float().mean().item()
    if 1 - visible > _MAX_INVISIBLE:
        still = _centred(wanted.path[wanted.visible])
        return MotionScore(0.0, 100 * still.norm(dim=1).mean().item(), visible)
    both = seen.visible & wanted.visible
    a, b = _centred(seen.path[both]), _centred(wanted.path[both])
    length = (a.norm() * b.norm()).item()
    # Paths shorter than a thousandth of the width are standing still: the direction of such a path is rounding.
    cosine = max(-1.0, min(1.0, (a * b).sum().item() / length)) if min(a.norm().item(), b.norm().item()) > 1e-3 else 0.0
    return MotionScore(cosine, 100 * (a - b).norm(dim=1).mean().item(), visible)


def classify(video: Tensor, colour: str | None = None) -> tuple[str | None, str | None]:
    """(colour, shape) of the sprite in a clip [F,H,W,3] with square frames: nearest palette colour and drawn outline.

    (None, None) where no frame shows a sprite. colour: as of `track`.
    """
    seen = track(video, colour)
    if seen.alpha.shape[1] != seen.alpha.shape[2]:
        raise ValueError(
            f"The clip has {video.shape[2]}x{video.shape[1]} pixels; crop it to a square to see its shape."
        )
    if not seen.visible.any():
        return None, None
    palette = torch.tensor(list(COLOURS.values()))
    nearest = (seen.colour[seen.visible].mean(0) - palette).norm(dim=1).argmin().item()
    path = seen.path[seen.visible].expand(len(SHAPES), -1, -1)
    drawn = coverage(path, torch.arange(len(SHAPES)), size=seen.alpha.shape[1])
    shape = (drawn - seen.alpha[seen.visible]).square().mean((1, 2, 3)).argmin().item()
    return list(COLOURS)[nearest], SHAPES[shape]


def flicker(videos: Tensor) -> float:
    """Standard deviation over time of the four corner pixels, which hardly a sprite reaches, of clips [N,F,H,W,3]."""
    return videos[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].std(1).mean().item()


def _centred(path: Tensor) -> Tensor:
    return path - path.mean(0, keepdim=True)


def _track_frame(frame: Tensor, only: str | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Path [3], visible [], alpha [h,w] and colour [3] of one frame [3,h,w]."""
    height, width = frame.shape[1:]
    background = frame.flatten(1).median(1).values
    # Without its grey part a pixel is the sprite's share of colour, whatever texture lies behind.
    difference = _chroma(frame) - _chroma(background)[:, None, None]
    if only is not None:
        palette = F.normalize(_chroma(torch.tensor(list(COLOURS.values())).T), dim=0)
        nearest = torch.einsum("cp,chw->phw", palette, difference).argmax(0)
        difference = difference * (nearest == list(COLOURS).index(only))
    # The strongest pixels give a first colour, those that have at least 0.7 of it the second, less drawn to outliers.
    strongest = difference.norm(dim=0).flatten().topk(max(3, round(0.03 * height * width))).indices
    colour = difference.flatten(1)[:, strongest].mean(1)
    interior = _projection(difference, colour) > 0.7
    if interior.any():
        colour = difference[:, interior].mean(1)
    alpha = _projection(difference, colour)
    region = _largest_blob(alpha)
    total, alpha = alpha.sum(), alpha * region
    mass = alpha.sum()
    nothing = torch.zeros(3), torch.tensor(False), torch.zeros(height, width), background
    if colour.norm() < _MIN_CONTRAST or not _AREA[0] <= mass / (height * width) <= _AREA[1] or mass < 0.5 * total:
        return nothing
    rows, columns = (torch.arange(side) + 0.5 for side in (height, width))
    x, y = (alpha.sum(0) * columns).sum() / mass, (alpha.sum(1) * rows).sum() / mass
    moment = (alpha * ((columns[None] - x).square() + (rows[:, None] - y).square())).sum() / mass
    if moment * 2 * math.pi / mass > _MAX_SPREAD:
        return nothing
    size = 2 * (mass / math.pi).sqrt()
    # The grey part, which the colour's name needs, is that of the sprite's inner pixels.
    inside = (alpha > 0.7)[None] if (alpha > 0.7).any() else (alpha >= alpha.max())[None]
    shown = (frame * inside).sum((1, 2)) / inside.sum()
    return torch.stack([x, y, size]) / width, torch.tensor(True), alpha, shown


def _chroma(rgb: Tensor) -> Tensor:
    """RGB [3,...] less its mean over R, G, B."""
    return rgb - rgb.mean(0, keepdim=True)


def _projection(difference: Tensor, colour: Tensor) -> Tensor:
    """Share of `colour` [3] in every pixel of `difference` [3,h,w], 0..1."""
    return ((difference * colour[:, None, None]).sum(0) / colour.square().sum().clamp(min=1e-8)).clamp(0, 1)


def _largest_blob(alpha: Tensor) -> Tensor:
    """The connected region around the densest spot of alpha [h,w], as 0/1, widened by its anti-aliased rim."""
    rim = math.ceil(alpha.shape[1] / 16)
    solid = (alpha > 0.4).float()[None, None]
    density = F.avg_pool2d(alpha[None, None], 3 * rim, stride=1, padding=3 * rim // 2, count_include_pad=True)
    density = density[..., : alpha.shape[0], : alpha.shape[1]] * solid
    region = torch.zeros_like(solid).flatten()
    region[density.argmax()] = 1.0
    region = region.view_as(solid)
    while True:
        grown = F.max_pool2d(region, 3, stride=1, padding=1) * solid
        if torch.equal(grown, region):
            break
        region = grown
    return F.max_pool2d(region, 2 * rim + 1, stride=1, padding=rim)[0, 0]
