"""Generated clips of one or two coloured shapes moving over a grey background, which may be textured and move as well.

A path is the state of a sprite per frame, [F,3] = (x, y, size): the centre from the top left corner and the size, all
as a share of the frame's width. Size is the diameter of the circle of equal area, so the three shapes of one size cover
the same number of pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .ground import GROUNDS, Ground

FRAMES = 8
SIZE = 16
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.92, 0.10, 0.10),
    "green": (0.08, 0.78, 0.16),
    "blue": (0.12, 0.22, 0.95),
    "yellow": (0.96, 0.90, 0.10),
    "cyan": (0.08, 0.86, 0.92),
    "magenta": (0.92, 0.12, 0.86),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle")
MOTIONS: tuple[str, ...] = (
    "circle",
    "back",
    "zoom",
    "diagonal",
    "zigzag",
    "bounce",
    "eight",
    "spiral",
    "corner",
    "pulse",
)
# Share of clips with a second sprite, and how large two sprites are against one.
_PAIRS, _PAIR_SIZE = 0.2, 0.85
# Half the equal-area square and the inradius of the equal-area upright triangle, in units of the circle's radius.
_SQUARE = math.sqrt(math.pi) / 2
_TRIANGLE = math.sqrt(math.pi / (3 * math.sqrt(3)))
# A path keeps this distance from the border, in radii: circle and square stay whole, a triangle's tip (1.56) may not.
_MARGIN = 1.3


@dataclass(frozen=True, eq=False)
class Scene:
    """One sprite on one path: colour and shape by name, path [F,3] (see the module), background: a shade 0..1 or a Ground
    of one clip."""

    colour: str
    shape: str
    path: Tensor
    background: float | Ground = 0.3

    def __post_init__(self) -> None:
        if self.colour not in COLOURS:
            raise ValueError(f"The colour {self.colour!r} is unknown; use one of {', '.join(COLOURS)}.")
        if self.shape not in SHAPES:
            raise ValueError(f"The shape {self.shape!r} is unknown; use one of {', '.join(SHAPES)}.")
        if self.path.ndim != 2 or self.path.shape[1] != 3:
            raise ValueError(f"The path has shape {tuple(self.path.shape)}; it must be [F,3] = (x, y, size) per frame.")

    @property
    def ground(self) -> Ground:
        if isinstance(self.background, Ground):
            return self.background
        return Ground.flat(torch.tensor([self.background]))

    @property
    def prompt(self) -> str:
        """The words that describe it: "red circle on plain"; never its motion."""
        return f"{self.colour} {self.shape} on {GROUNDS[self.ground.kind.item()]}"

    def render(self, size: int = SIZE) -> Tensor:
        """The clip, [3,F,size,size] in 0..1."""
        sprite = Sprites(
            torch.tensor([list(COLOURS).index(self.colour)]),
            torch.tensor([SHAPES.index(self.shape)]),
            self.path[None],
        )
        return render([sprite], self.ground, size=size)[0]


@dataclass(frozen=True, eq=False)
class Sprites:
    """One sprite in each of B clips: colour and shape [B], indices into COLOURS and SHAPES; path [B,F,3]; shown [B], bool,
    None is all."""

    colour: Tensor
    shape: Tensor
    path: Tensor
    shown: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Random clips: video [B,3,F,H,W] in 0..1, the sprite in front, the other one of those clips that have two, the ground."""

    video: Tensor
    sprite: Sprites
    other: Sprites
    ground: Ground = field(repr=False)


def coverage(path: Tensor, shape: Tensor, *, size: int = SIZE, supersampling: int = 4) -> Tensor:
    """How much of each pixel the sprite covers, [B,F,size,size] in 0..1, by point sampling on a finer grid.

    path [B,F,3] as in the module; shape [B], indices into SHAPES.
    """
    points = (torch.arange(size * supersampling, dtype=torch.float32) + 0.5) / (size * supersampling)
    x, y, diameter = (path[..., k, None, None].float() for k in range(3))
    radius = diameter / 2
    dx, dy = (points[None, :] - x) / radius, (points[:, None] - y) / radius
    kind = shape[:, None, None, None]
    circle = dx.square() + dy.square() < 1
    square = (dx.abs() < _SQUARE) & (dy.abs() < _SQUARE)
    triangle = (dy < _TRIANGLE) & (math.sqrt(3) / 2 * dx.abs() - dy / 2 < _TRIANGLE)
    inside = torch.where(kind == 0, circle, torch.where(kind == 1, square, triangle))
    return torch.nn.functional.avg_pool2d(inside.float(), supersampling)


def render(sprites: list[Sprites], ground: Ground, *, size: int = SIZE) -> Tensor:
    """Draw sprites, the hindmost first, on their grounds: video [B,3,F,size,size] in 0..1."""
    palette = torch.tensor(list(COLOURS.values()))
    video = ground.render(sprites[0].path.shape[1], size)[:, None].expand(-1, 3, -1, -1, -1)
    for sprite in sprites:
        alpha = coverage(sprite.path, sprite.shape, size=size)[:, None]
        if sprite.shown is not None:
            alpha = alpha * sprite.shown[:, None, None, None, None]
        video = video * (1 - alpha) + palette[sprite.colour][:, :, None, None, None] * alpha
    return video


def named_path(name: str, frames: int = FRAMES) -> Tensor:
    """A fixed motion of MOTIONS as a path [F,3]; time runs from the first to the last frame whatever their number."""
    if name not in MOTIONS:
        raise ValueError(f"The motion {name!r} is unknown; use one of {', '.join(MOTIONS)}.")
    if frames < 2:
        raise ValueError(f"A motion of {frames} frame cannot be drawn; ask for at least 2 frames.")
    u = torch.linspace(0, 1, frames)
    x, y, size = torch.full_like(u, 0.5), torch.full_like(u, 0.5), torch.full_like(u, 0.38)
    if name == "circle":
        angle = 2 * math.pi * u * 7 / 8
        x, y = 0.5 + 0.22 * torch.cos(angle), 0.5 + 0.22 * torch.sin(angle)
    elif name == "back":
        x = 0.5 - 0.22 * torch.cos(2 * math.pi * u)
    elif name == "zoom":
        size = 0.22 + 0.34 * u
    elif name == "diagonal":
        x, y = 0.28 + 0.44 * u, 0.28 + 0.44 * u
    elif name == "zigzag":
        x, y = 0.28 + 0.44 * u, 0.5 + 0.18 * _triangle_wave(1.75 * u)
    elif name == "bounce":
        x, y = 0.28 + 0.44 * u, 0.72 - 0.40 * torch.sin(2 * math.pi * u).abs()
    elif name == "eight":
        angle = 2 * math.pi * u * 7 / 8
        x, y = 0.5 + 0.22 * torch.sin(angle), 0.5 + 0.2 * torch.sin(2 * angle)
    elif name == "spiral":
        angle, radius = -2.5 * math.pi * u, 0.24 - 0.18 * u
        x, y = 0.5 + radius * torch.cos(angle), 0.5 + radius * torch.sin(angle)
    elif name == "corner":
        x, y = 0.28 + 0.44 * (2 * u).clamp(max=1), 0.72 - 0.44 * (2 * u - 1).clamp(min=0)
    elif name == "pulse":
        size = 0.26 + 0.26 * torch.sin(math.pi * u)
    return torch.stack([x, y, size], -1)


def random_paths(count: int, generator: torch.Generator, frames: int = FRAMES, scale: Tensor | float = 1.0) -> Tensor:
    """Random motions [B,F,3]: lines, arcs, zig-zags, bounces, back and forth, wandering, zooms; some others zoom too.

    Every path stays inside the frame; where on it, in which direction and how fast is random. scale [B] or one value: how
    large the sprites are against the usual ones.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator)

    u = torch.linspace(0, 1, frames)[None]
    span, angle, phase = uniform(0.15, 0.55), uniform(0, 2 * math.pi), uniform(0, 1)
    turn = uniform(0.4, 1.1) * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    beats, side = uniform(0.6, 2.0), uniform(0.12, 0.35) * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    wander = torch.randn(count, 2, 2, generator=generator)
    basis = torch.stack([torch.sin(math.pi * u[0]), torch.cos(2 * math.pi * u[0])])
    still = torch.zeros(count, frames)
    along_across = [
        (span * u, still),
        (span / 2 * torch.cos(2 * math.pi * turn * u), span / 2 * torch.sin(2 * math.pi * turn * u)),
        (span * u, side / 2 * _triangle_wave(beats * u + phase)),
        (span * u, side * torch.sin(math.pi * (beats * u + phase)).abs()),
        (span / 2 * torch.cos(math.pi * beats * u + math.pi * phase), still),
        tuple(0.16 * (wander[:, axis, :, None] * basis).sum(1) for axis in range(2)),
        (0.1 * span * u, still),
    ]
    kind = torch.multinomial(
        torch.tensor([3.0, 3.0, 2.0, 2.0, 3.0, 2.0, 3.0]), count, replacement=True, generator=generator
    )
    rows = torch.arange(count)
    along = torch.stack([pair[0] for pair in along_across], 1)[rows, kind]
    across = torch.stack([pair[1] for pair in along_across], 1)[rows, kind]
    shift = torch.stack(
        [torch.cos(angle) * along - torch.sin(angle) * across, torch.sin(angle) * along + torch.cos(angle) * across], -1
    )

    size, low, high = uniform(0.32, 0.48), uniform(0.20, 0.34), uniform(0.42, 0.58)
    wave = torch.where(uniform(0, 1) < 0.7, u, 0.5 - 0.5 * torch.cos(2 * math.pi * u))
    wave = torch.where(uniform(0, 1) < 0.5, wave, 1 - wave)
    zooms = (kind == 6)[:, None] | (uniform(0, 1) < 0.15)
    sizes = torch.where(zooms, low + (high - low) * wave, size.expand(-1, frames))
    sizes = sizes * torch.as_tensor(scale).reshape(-1, 1)
    return _fit(shift, sizes, torch.rand(count, 1, 2, generator=generator))


def random_batch(count: int, generator: torch.Generator, *, frames: int = FRAMES, size: int = SIZE) -> Batch:
    """Random colours, shapes, motions and grounds, all independent of each other but for the colours of two sprites in one
    clip, which differ."""
    colour = torch.randint(len(COLOURS), (count,), generator=generator)
    shape = torch.randint(len(SHAPES), (count,), generator=generator)
    other_colour = (colour + torch.randint(1, len(COLOURS), (count,), generator=generator)) % len(COLOURS)
    other_shape = torch.randint(len(SHAPES), (count,), generator=generator)
    two = torch.rand(count, generator=generator) < _PAIRS
    scale = torch.where(two, _PAIR_SIZE, 1.0)
    ground = Ground.random(count, generator)
    sprite = Sprites(colour, shape, random_paths(count, generator, frames, scale))
    other = Sprites(other_colour, other_shape, random_paths(count, generator, frames, scale), two)
    return Batch(render([other, sprite], ground, size=size), sprite, other, ground)


def _triangle_wave(cycles: Tensor) -> Tensor:
    """Starts at -1, reaches 1 after half a cycle."""
    return 1 - 4 * ((cycles % 1) - 0.5).abs()


def _fit(shift: Tensor, sizes: Tensor, place: Tensor) -> Tensor:
    """Shrink a motion [B,F,2] until it fits into the frame, and put it at `place` [B,1,2] of the room that is left."""
    margin = _MARGIN * sizes.amax(1)[:, None, None] / 2
    low, high = shift.amin(1, keepdim=True), shift.amax(1, keepdim=True)
    room = 1 - 2 * margin
    shrink = (room / (high - low).amax(2, keepdim=True).clamp(min=1e-6)).clamp(max=1.0)
    shift, extent = (shift - low) * shrink, (high - low) * shrink
    return torch.cat([margin + place * (room - extent) + shift, sizes[..., None]], -1)
