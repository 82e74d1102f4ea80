from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sma.sprites.data import COLOURS, MOTIONS, SHAPES, SIZE, Scene, Sprites, named_path, random_batch, render
from sma.sprites.ground import Ground
from sma.sprites.score import classify, motion_score, track


def clip(motion: str, colour: str = "red", shape: str = "circle", background: float = 0.3, size: int = 16) -> Tensor:
    return Scene(colour, shape, named_path(motion), background).render(size).movedim(0, -1)


def noisy(video: Tensor, amount: float, seed: int = 0) -> Tensor:
    return (video + amount * torch.randn(video.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def single_sprites(count: int, seed: int) -> tuple[Sprites, Tensor]:
    """Random sprites, one in each clip, on random grounds: what they are, and clips [B,F,H,W,3]."""
    generator = torch.Generator().manual_seed(seed)
    sprites = random_batch(count, generator).sprite
    return sprites, render([sprites], Ground.random(count, generator)).movedim(1, -1)


@pytest.mark.parametrize(("noise", "pixels"), [(0.0, 0.15), (0.03, 0.25), (0.08, 0.5)])
def test_detector_finds_place_and_size_within_a_fraction_of_a_pixel_on_any_ground(noise: float, pixels: float) -> None:
    sprites, clips = single_sprites(30, 8)
    for index, video in enumerate(clips):
        found = track(noisy(video, noise, index))
        assert found.visible.float().mean() >= 0.75
        error = (found.path - sprites.path[index])[found.visible].abs().mean(0) * SIZE
        assert error.max() < pixels


def test_either_of_two_sprites_is_found_by_its_colour() -> None:
    left, right = (named_path("zoom") * torch.tensor([1, 1, 0.7]) + torch.tensor([x, 0, 0]) for x in (-0.25, 0.25))
    sprites = [
        Sprites(torch.tensor([list(COLOURS).index(colour)]), torch.tensor([1]), path[None])
        for colour, path in (("magenta", left), ("red", right))
    ]
    video = render(sprites, Ground.random(1, torch.Generator().manual_seed(1), "clouds"))[0].movedim(0, -1)
    for colour, path in (("magenta", left), ("red", right)):
        found = track(video, colour)
        assert found.visible.all()
        assert (found.path - path).abs().max() < 0.02
        assert classify(video, colour) == (colour, "square")
    assert not track(video, "green").visible.any()


@pytest.mark.parametrize("motion", MOTIONS)
def test_another_sprite_on_the_same_path_is_a_full_score(motion: str) -> None:
    reference = clip(motion)
    for number, shape in enumerate(SHAPES):
        for colour in list(COLOURS)[number::3]:
            score = motion_score(clip(motion, colour, shape, background=0.1 + 0.15 * number), reference)
            assert score.cosine > 0.98
            assert score.error < 2.3
            assert score.visible == 1.0


def test_unrelated_motions_score_zero_on_average() -> None:
    _, clips = single_sprites(120, 9)
    cosines = torch.tensor([motion_score(video, clip("circle")).cosine for video in clips])
    assert cosines.mean().abs() < 3 * cosines.std() / len(cosines) ** 0.5
    assert 0.2 < cosines.std() < 0.6


@pytest.mark.parametrize("motion", ["zoom", "diagonal"])
def test_the_wrong_direction_scores_minus_one(motion: str) -> None:
    score = motion_score(clip(motion).flip(0), clip(motion))
    assert score.cosine < -0.97
    assert score.error > 15


def test_half_the_amplitude_keeps_the_cosine_and_costs_error() -> None:
    path = named_path("diagonal")
    half = Scene("green", "square", path.mean(0) + (path - path.mean(0)) / 2).render().movedim(0, -1)
    score = motion_score(half, clip("diagonal"))
    assert score.cosine > 0.99
    wanted = 50 * (path - path.mean(0)).norm(dim=1).mean().item()
    assert score.error == pytest.approx(wanted, rel=0.05)


def test_a_place_shift_does_not_matter() -> None:
    path = named_path("zoom")
    moved = Scene("red", "circle", path + torch.tensor([0.1, -0.12, 0.0])).render().movedim(0, -1)
    assert motion_score(moved, clip("zoom")).cosine > 0.98


@pytest.mark.parametrize("size", [32, 50, 128])
@pytest.mark.parametrize("mode", ["nearest-exact", "bicubic"])
def test_frame_size_does_not_matter(size: int, mode: str) -> None:
    large = F.interpolate(clip("circle", "blue", "square").movedim(-1, 1), (size, size), mode=mode).movedim(1, -1)
    score = motion_score(large.clamp(0, 1), clip("circle"))
    assert score.cosine > 0.98
    assert score.error < 2.3


def test_path_is_in_units_of_the_width_of_a_wide_frame() -> None:
    video = torch.full((2, 16, 32, 3), 0.2)
    video[:, 4:8, 8:12] = torch.tensor([0.9, 0.1, 0.1])
    torch.testing.assert_close(track(video).path[0, :2], torch.tensor([10 / 32, 6 / 32]))


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3, 1.0])
def test_no_sprite_is_invisible_and_scores_zero(noise: float) -> None:
    score = motion_score(noisy(torch.full((8, 16, 16, 3), 0.4), noise), clip("back"))
    assert score.visible == 0.0
    assert score.cosine == 0.0
    path = named_path("back")
    assert score.error == pytest.approx(100 * (path - path.mean(0)).norm(dim=1).mean().item(), rel=0.05)


@pytest.mark.parametrize(("lost", "cosine"), [(2, 1.0), (3, 0.0)])
def test_frames_without_a_sprite_lower_visible_and_too_many_void_the_cosine(lost: int, cosine: float) -> None:
    video = clip("diagonal", "green", "square")
    video[3 : 3 + lost] = 0.3
    score = motion_score(video, clip("diagonal"))
    assert score.visible == pytest.approx(1 - lost / 8)
    assert score.cosine == pytest.approx(cosine, abs=0.02)


def test_a_sprite_that_stands_still_scores_zero() -> None:
    still = clip("back")[:1].expand(8, -1, -1, -1)
    score = motion_score(still, clip("back"))
    assert score.cosine == 0.0
    assert score.visible == 1.0


def test_colour_and_shape_are_recognised_through_noise() -> None:
    sprites, clips = single_sprites(40, 11)
    for index, video in enumerate(clips):
        expected = list(COLOURS)[sprites.colour[index]], SHAPES[sprites.shape[index]]
        assert classify(noisy(video, 0.05, index)) == expected
    assert classify(torch.full((8, 16, 16, 3), 0.3)) == (None, None)


def test_clips_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="7 frames and the reference 8"):
        motion_score(clip("back")[:7], clip("back"))
    with pytest.raises(ValueError, match="no sprite"):
        motion_score(clip("back"), torch.rand(8, 16, 16, 3, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match=r"\(8, 3, 16, 16\)"):
        track(clip("back").movedim(-1, 1))
