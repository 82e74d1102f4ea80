"""What the motion benchmark measures in sampled clips, and the clips that nothing was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.motion_training import Protocol, own_seed
from sma.sprites.data import Scene, named_path, random_batch
from sma.sprites.ground import Ground
from sma.sprites.model import SpritesModel, generate, latent_shape
from sma.sprites.score import classify, flicker, motion_score

REFERENCE = ("red", "circle")
# A grey pixel's largest difference of channels; the palette's colours have 0.7 and more.
_GREY = 0.1
_LEAST_GREY = 0.05


def reference_scene(motion: str, seed: int) -> Scene:
    """The clip that is learned from: a red circle on a named motion, before a ground drawn for this motion and seed."""
    generator = torch.Generator().manual_seed(own_seed("ground", motion, seed))
    return Scene(*REFERENCE, named_path(motion), Ground.random(1, generator))


def sample_videos(model: SpritesModel, motion: str, seed: int, protocol: Protocol) -> Tensor:
    """Every prompt with every noise, prompts outermost: [N,F,H,W,3] in 0..1. Noises are those of the motion and seed."""
    generator = torch.Generator().manual_seed(own_seed("sampling", motion, seed))
    noise = torch.randn(latent_shape(protocol.noises), generator=generator).repeat(len(protocol.prompts), 1, 1, 1, 1)
    prompts = [prompt for prompt in protocol.prompts for _ in range(protocol.noises)]
    with torch.no_grad(), protocol.precision():
        videos = generate(model, prompts, noise, steps=protocol.sampler_steps, guidance=protocol.guidance)
    return videos.float().movedim(1, -1)


def drawn_videos(motion: str, protocol: Protocol) -> Tensor:
    """The oracle: each prompt's sprite rendered on the reference's path, [N,F,H,W,3]; one per prompt."""
    scenes = [Scene(*prompt.split()[:2], named_path(motion)) for prompt in protocol.prompts]
    return torch.stack([scene.render() for scene in scenes]).movedim(1, -1)


def random_videos(motion: str, seed: int, protocol: Protocol) -> Tensor:
    """The chance level: clips such as the model was trained on, as many as are sampled, [N,F,H,W,3]."""
    generator = torch.Generator().manual_seed(own_seed("random clips", motion, seed))
    return random_batch(len(protocol.prompts) * protocol.noises, generator).video.movedim(1, -1)


def measure(videos: Tensor, scene: Scene, protocol: Protocol) -> dict[str, Any]:
    """Means over clips [N,F,H,W,3], which are in the order of the prompts; shares in 0..1. benchmarks/README.md says what
    each figure means. None where there is nothing to measure."""
    reference = scene.render().movedim(0, -1)
    scores = [motion_score(video, reference) for video in videos]
    wanted = [prompt.split()[:2] for prompt in protocol.prompts for _ in range(len(videos) // len(protocol.prompts))]
    shown = [classify(video) for video in videos]
    grounds = [found for video in videos if (found := ground_of(video, scene)) is not None]
    cosines = torch.tensor([score.cosine for score in scores])
    return {
        "cosine": cosines.mean().item(),
        "sd": cosines.std().item(),
        "error": _mean([score.error for score in scores]),
        "visible": _mean([score.visible for score in scores]),
        "colour_right": _mean([got[0] == want[0] for got, want in zip(shown, wanted, strict=True)]),
        "shape_right": _mean([got[1] == want[1] for got, want in zip(shown, wanted, strict=True)]),
        "colour_leak": _mean([got[0] == scene.colour for got in shown]),
        "shape_leak": _mean([got[1] == scene.shape for got in shown]),
        "ground_leak": _mean([found[0] for found in grounds if found[0] is not None]),
        "shade_distance": _mean([found[1] for found in grounds]),
        "unevenness": _mean([found[2] for found in grounds]),
        "flicker": flicker(videos),
        "diversity": diversity(videos, len(protocol.prompts)),
        "clips": len(videos),
    }


def ground_of(video: Tensor, scene: Scene) -> tuple[float | None, float, float] | None:
    """How much of a scene's background shows in a clip [F,H,W,3] that asks for a plain one; None where nothing is grey.

    Only grey pixels with grey neighbours count, which leaves the sprite and its rim out.

    Returns:
        The texture's leak: slope of the clip's grey levels on those of the reference's background, both without their
        means, which is their correlation times the relative strength. 1 is all of it, 0 none; None for a plain reference.
        The distance of the mean shades, 0..1. And how uneven the clip's background is: sd of its grey levels, 0..1.
    """
    chroma = video.amax(-1) - video.amin(-1)
    grey = F.max_pool2d(chroma[:, None], 3, stride=1, padding=1)[:, 0] < _GREY
    if grey.float().mean() < _LEAST_GREY:
        return None
    pattern = scene.ground.render(video.shape[0], video.shape[1])[0][grey]
    seen = video.mean(-1)[grey]
    centred, deviation = pattern - pattern.mean(), seen - seen.mean()
    energy = centred.square().sum()
    leak = None if scene.ground.kind == 0 else ((centred * deviation).sum() / energy).item()
    return leak, (seen.mean() - pattern.mean()).abs().item(), deviation.square().mean().sqrt().item()


def diversity(videos: Tensor, prompts: int) -> float | None:
    """Mean distance of two clips of one prompt, root mean square over pixels, 0..1; None where each has a single clip."""
    distances = [
        (one - other).square().mean().sqrt().item()
        for clips in videos.chunk(prompts)
        for index, one in enumerate(clips)
        for other in clips[:index]
    ]
    return _mean(distances)


def _mean(values: Sequence[float] | Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
