"""Figures of the sprites model on fixed prompts and noises: `python -m sma.sprites.evaluate`."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .data import COLOURS, MOTIONS, SHAPES, Scene, named_path, random_batch, render
from .ground import GROUNDS, Ground
from .model import DEFAULT_WEIGHTS, SpritesModel, generate, latent_shape, load_sprites
from .score import classify, flicker, motion_score, track

# Along the border the grey levels of the data have a standard deviation of .008 at most, from rims of sprites, or of .015 and more.
_TEXTURED = 0.0125
_GREY = 0.1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSettings:
    """clips: noises per prompt (18 prompts of one sprite: 6 colours x 3 shapes, each on one of the grounds in turn; and 18
    of two); steps and guidance: of the DDIM sampler."""

    clips: int = 6
    steps: int = 20
    guidance: float = 3.0
    seed: int = 1234

    def __post_init__(self) -> None:
        if self.clips < 1 or self.steps < 1:
            raise ValueError(f"{self.clips} clips of {self.steps} steps show nothing; use at least 1 of each.")


def single_prompts() -> list[str]:
    """Every colour and shape, each ground equally often with every shape: "red circle on plain"."""
    return [
        f"{colour} {shape} on {GROUNDS[(row + column) % len(GROUNDS)]}"
        for row, colour in enumerate(COLOURS)
        for column, shape in enumerate(SHAPES)
    ]


def pair_prompts() -> list[str]:
    """Every colour and shape beside a sprite of the next colour and shape: "red circle and green square on plain"."""
    colours, shapes = list(COLOURS), list(SHAPES)
    return [
        f"{colour} {shape} and {colours[(row + 1) % len(colours)]} {shapes[(column + 1) % len(shapes)]} on plain"
        for row, colour in enumerate(colours)
        for column, shape in enumerate(shapes)
    ]


def sample_prompts(model: SpritesModel, prompts: list[str], settings: EvaluationSettings) -> tuple[list[str], Tensor]:
    """Every prompt `clips` times and what the model makes of it: videos [N,F,H,W,3] in 0..1, fixed by the seed."""
    generator = torch.Generator().manual_seed(settings.seed)
    shape = latent_shape(len(prompts))
    videos = [
        generate(
            model,
            prompts,
            torch.randn(shape, generator=generator),
            steps=settings.steps,
            guidance=settings.guidance,
        )
        for _ in range(settings.clips)
    ]
    return prompts * settings.clips, torch.cat(videos).movedim(1, -1)


def evaluate(model: SpritesModel, settings: EvaluationSettings | None = None) -> dict[str, object]:
    """Shares (0..1) of right colours, right shapes and visible sprites, of clips of two that show both sprites rightly, of
    grounds that are textured where asked for and plain where not; motion cosines (mean, sd) against random clips and the
    named motions; speed and extent in pixels, beside those of the data; flicker of plain grounds (0..1)."""
    settings = settings or EvaluationSettings()
    prompts, videos = sample_prompts(model, single_prompts(), settings)
    asked = [tuple(prompt.split(" on ")[0].split()) for prompt in prompts]
    named = [classify(video) for video in videos]
    generator = torch.Generator().manual_seed(settings.seed)
    sprites = random_batch(len(prompts), generator).sprite
    data = render([sprites], Ground.random(len(prompts), generator)).movedim(1, -1)
    references = {motion: Scene("red", "circle", named_path(motion)).render().movedim(0, -1) for motion in MOTIONS}
    per_shape = {
        shape: _share([got[1] == want[1] for got, want in zip(named, asked, strict=True) if want[1] == shape])
        for shape in SHAPES
    }
    textured = [_texture(video) > _TEXTURED for video in videos]
    plain = [prompt.endswith("plain") for prompt in prompts]
    return {
        "clips": len(prompts),
        "colour_right": _share([got[0] == want[0] for got, want in zip(named, asked, strict=True)]),
        "shape_right": _share([got[1] == want[1] for got, want in zip(named, asked, strict=True)]),
        "shape_right_per_shape": per_shape,
        "visible": _share([share for video in videos for share in track(video).visible.tolist()]),
        **_pairs(model, settings),
        "ground_right": _share([rough != flat for rough, flat in zip(textured, plain, strict=True)]),
        "motion_cosine_random": _spread([motion_score(v, d).cosine for v, d in zip(videos, data, strict=True)]),
        "motion_cosine_named": {
            motion: _spread([motion_score(video, reference).cosine for video in videos])
            for motion, reference in references.items()
        },
        "speed_and_extent_px": _movement(videos),
        "speed_and_extent_px_of_data": _movement(data),
        "plain_ground_flicker": round(flicker(videos[torch.tensor(plain)]), 4),
    }


def _pairs(model: SpritesModel, settings: EvaluationSettings) -> dict[str, float]:
    """For clips of two sprites: the share in which both colours are seen in some frame, and the share of those sprites with the right shape."""
    prompts, videos = sample_prompts(model, pair_prompts(), settings)
    both, shapes = [], []
    for prompt, video in zip(prompts, videos, strict=True):
        wanted = [tuple(part.split()) for part in prompt.removesuffix(" on plain").split(" and ")]
        shown = [(classify(video, colour), shape) for colour, shape in wanted]
        both.append(all(seen[0] == colour for (seen, _), (colour, _) in zip(shown, wanted, strict=True)))
        shapes += [seen[1] == shape for seen, shape in shown if seen[0] is not None]
    return {"pair_both_shown": _share(both), "pair_shape_right": _share(shapes)}


def _texture(video: Tensor) -> float:
    """Standard deviation of the grey level along the first frame's border, sprites left out."""
    border = torch.cat([video[0, 0], video[0, -1], video[0, :, 0], video[0, :, -1]])
    grey = border.amax(1) - border.amin(1) < _GREY
    return border[grey].mean(1).std().item() if grey.sum() > 1 else 0.0


def _share(values: list[bool]) -> float:
    return round(sum(values) / max(1, len(values)), 4)


def _spread(values: list[float]) -> list[float]:
    """Mean and standard deviation."""
    column = torch.tensor(values)
    return [round(column.mean().item(), 3), round(column.std().item(), 3)]


def _movement(videos: Tensor) -> list[float]:
    """Mean step per frame, and mean distance from the middle of the path, both in pixels, over clips [N,F,H,W,3]."""
    speeds, extents = [], []
    for video in videos:
        found = track(video)
        if found.visible.all():
            places = found.path[:, :2] * video.shape[2]
            speeds.append((places[1:] - places[:-1]).norm(dim=1).mean().item())
            extents.append((places - places.mean(0)).norm(dim=1).mean().item())
    return [round(sum(values) / max(1, len(values)), 3) for values in (speeds, extents)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--clips", type=int, default=EvaluationSettings.clips, help="noises per prompt")
    parser.add_argument("--steps", type=int, default=EvaluationSettings.steps, help="DDIM steps")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = EvaluationSettings(clips=arguments.clips, steps=arguments.steps)
    logger.info(json.dumps(evaluate(load_sprites(arguments.weights), settings), indent=1))


if __name__ == "__main__":
    main()
