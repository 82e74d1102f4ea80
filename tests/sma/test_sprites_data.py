from __future__ import annotations

import pytest
import torch

from sma.sprites.data import COLOURS, MOTIONS, SHAPES, Scene, coverage, named_path, random_batch, random_paths


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_seed_decides_the_clips() -> None:
    first, again, other = (random_batch(4, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.video, again.video)
    assert not torch.equal(first.video, other.video)
    assert first.video.shape == (4, 3, 8, 16, 16)
    assert 0 <= first.video.min() and first.video.max() <= 1


def test_drawing_does_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    random_batch(2, seeded())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("size", [15, 16, 33])
def test_shapes_of_one_size_cover_the_disc_of_that_diameter(size: int) -> None:
    # Averaged over places, because a square's sides snap to the grid of sample points.
    centres = 0.4 + 0.2 * torch.rand(200, 2, generator=seeded())
    path = torch.cat([centres, torch.full((200, 1), 0.4)], 1).expand(len(SHAPES), -1, -1)
    area = coverage(path, torch.arange(len(SHAPES)), size=size).mean((1, 2, 3))
    torch.testing.assert_close(area, torch.full((3,), torch.pi * 0.2**2), rtol=0.01, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_centre_of_mass_is_the_path(shape: str) -> None:
    clip = Scene("red", shape, torch.tensor([[0.4, 0.6, 0.3]]), background=0.0).render(64)[0, 0]
    axis = (torch.arange(64) + 0.5) / 64
    mass = clip.sum()
    assert (clip.sum(0) * axis).sum() / mass == pytest.approx(0.4, abs=0.005)
    assert (clip.sum(1) * axis).sum() / mass == pytest.approx(0.6, abs=0.005)


def test_a_triangle_points_up_and_a_square_fills_its_corners() -> None:
    centre = torch.tensor([[[0.5, 0.5, 0.5]]])
    triangle = coverage(centre, torch.tensor([2]), size=64)[0, 0]
    assert triangle[40].sum() > 2 * triangle[20].sum() > 0
    square, circle = (coverage(centre, torch.tensor([k]), size=64)[0, 0] for k in (1, 0))
    corner = 32 + int(0.85 * 0.443 * 32)
    assert square[corner, corner] == 1
    assert circle[corner, corner] == 0


def test_edges_are_anti_aliased() -> None:
    drawn = coverage(torch.tensor([[[0.5, 0.5, 0.4]]]), torch.tensor([0]))
    assert ((drawn > 0) & (drawn < 1)).sum() >= 8


def test_random_sprites_stay_inside_and_leave_the_rest_flat() -> None:
    paths = random_paths(500, seeded(4))
    radius = paths[..., 2:] / 2
    assert ((paths[..., :2] - radius >= 0) & (paths[..., :2] + radius <= 1)).all()
    batch = random_batch(40, seeded(5))
    corners = batch.video[:, :, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.equal(corners, batch.background.view(-1, 1, 1, 1).expand_as(corners))


def test_random_motions_have_no_preferred_direction() -> None:
    paths = random_paths(4000, seeded(6))
    journey = paths[:, -1] - paths[:, 0]
    assert (journey.mean(0).abs() < 4 * journey.std(0) / 4000**0.5).all()
    assert (journey.std(0) > 0.05).all()


def test_colour_shape_and_motion_are_independent_draws() -> None:
    batch = random_batch(1200, seeded(7))
    assert set(batch.colour.tolist()) == set(range(len(COLOURS)))
    counts = torch.bincount(batch.colour * len(SHAPES) + batch.shape, minlength=18).float()
    assert counts.min() > 35 and counts.max() < 105


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("frames", [2, 8, 13])
def test_named_paths_stay_inside(motion: str, frames: int) -> None:
    path = named_path(motion, frames)
    assert path.shape == (frames, 3)
    assert ((path[:, :2] - path[:, 2:] / 2 >= 0) & (path[:, :2] + path[:, 2:] / 2 <= 1)).all()


def test_named_paths_are_what_they_are_called() -> None:
    circle, back, zoom, diagonal = (named_path(name, 9) for name in ("circle", "back", "zoom", "diagonal"))
    radius = (circle[:, :2] - 0.5).norm(dim=1)
    torch.testing.assert_close(radius, radius[:1].expand(9))
    torch.testing.assert_close(back, back.flip(0))
    assert back[4, 0] - back[0, 0] == pytest.approx(0.44)
    assert (zoom[1:, 2] > zoom[:-1, 2]).all()
    assert torch.equal(zoom[:, :2], torch.full((9, 2), 0.5))
    assert torch.equal(diagonal[:, 0], diagonal[:, 1])
    turns = torch.diff(torch.sign(torch.diff(named_path("zigzag", 33)[:, 1]))).count_nonzero()
    assert turns == 3


def test_what_cannot_be_drawn_is_refused_by_name() -> None:
    path = named_path("back")
    with pytest.raises(ValueError, match="mauve"):
        Scene("mauve", "circle", path)
    with pytest.raises(ValueError, match="hexagon"):
        Scene("red", "hexagon", path)
    with pytest.raises(ValueError, match=r"\(8, 2\)"):
        Scene("red", "circle", path[:, :2])
    with pytest.raises(ValueError, match="wobble"):
        named_path("wobble")
    with pytest.raises(ValueError, match="1 frame"):
        named_path("back", 1)


def test_a_scene_is_prompted_without_its_motion() -> None:
    assert Scene("cyan", "triangle", named_path("zoom")).prompt == "cyan triangle"
