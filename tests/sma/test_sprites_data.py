from __future__ import annotations

import pytest
import torch

from sma.sprites.data import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZE,
    Scene,
    Sprites,
    coverage,
    named_path,
    random_batch,
    random_paths,
    render,
)
from sma.sprites.ground import BACKGROUND, GROUNDS, Ground


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


def test_random_sprites_stay_inside_and_leave_the_rest_to_the_ground() -> None:
    paths = random_paths(500, seeded(4))
    radius = paths[..., 2:] / 2
    assert ((paths[..., :2] - radius >= 0) & (paths[..., :2] + radius <= 1)).all()
    batch = random_batch(40, seeded(5))
    ground = batch.ground.render(8, SIZE)
    corners = (..., [0, 0, -1, -1], [0, -1, 0, -1])
    assert torch.equal(batch.video[corners], ground[corners][:, None].expand(-1, 3, -1, -1))


def test_sprites_of_a_clip_of_two_are_smaller_and_of_other_colours() -> None:
    batch = random_batch(2000, seeded(12))
    two = batch.other.shown
    assert two.float().mean() == pytest.approx(0.2, abs=0.03)
    assert (batch.sprite.colour != batch.other.colour).all()
    assert batch.sprite.path[two, :, 2].max() <= 0.85 * 0.58 < batch.sprite.path[~two, :, 2].max()


def test_the_first_sprite_hides_the_other() -> None:
    place = torch.tensor([[[0.5, 0.5, 0.5]]])
    red, blue = (Sprites(torch.tensor([k]), torch.tensor([1]), place) for k in (0, 2))
    middle = render([red, blue], Ground.flat(torch.tensor([0.3])))[0, :, 0, 8, 8]
    torch.testing.assert_close(middle, torch.tensor(COLOURS["blue"]))
    absent = Sprites(blue.colour, blue.shape, place, torch.tensor([False]))
    middle = render([red, absent], Ground.flat(torch.tensor([0.3])))[0, :, 0, 8, 8]
    torch.testing.assert_close(middle, torch.tensor(COLOURS["red"]))


@pytest.mark.parametrize("kind", GROUNDS)
def test_grounds_are_what_they_are_called(kind: str) -> None:
    grounds = Ground.random(60, seeded(13), kind)
    assert (grounds.kind == GROUNDS.index(kind)).all()
    drawn = grounds.render(8, 64)
    assert 0 <= drawn.min() and drawn.max() <= 1
    contrast = drawn[:, 0].flatten(1).std(1)
    if kind == "plain":
        torch.testing.assert_close(drawn, grounds.shade[:, None, None, None].expand_as(drawn))
        assert BACKGROUND[0] <= drawn.min() and drawn.max() <= BACKGROUND[1]
    else:
        assert contrast.min() > 0.01
    waves = (grounds.amplitude > 0).sum(1)
    assert (waves == {"plain": 0, "stripes": 1, "clouds": 4}[kind]).all()


def test_a_ground_drifts_as_one_by_its_drift_per_frame() -> None:
    size = 64
    ground = Ground.random(1, seeded(3), "clouds")
    ground = Ground(
        ground.kind, ground.shade, ground.amplitude, ground.frequency, ground.phase, torch.tensor([[0.0, 2 / size]])
    )
    first, second = ground.render(2, size)[0]
    torch.testing.assert_close(second[2:], first[:-2], rtol=0, atol=1e-5)
    still = Ground.random(200, seeded(4), "stripes")
    assert (still.drift.norm(dim=1) > 0).float().mean() == pytest.approx(0.5, abs=0.1)


def test_random_motions_have_no_preferred_direction() -> None:
    paths = random_paths(4000, seeded(6))
    journey = paths[:, -1] - paths[:, 0]
    assert (journey.mean(0).abs() < 4 * journey.std(0) / 4000**0.5).all()
    assert (journey.std(0) > 0.05).all()


def test_colour_shape_and_motion_are_independent_draws() -> None:
    batch = random_batch(1200, seeded(7))
    assert set(batch.sprite.colour.tolist()) == set(range(len(COLOURS)))
    counts = torch.bincount(batch.sprite.colour * len(SHAPES) + batch.sprite.shape, minlength=18).float()
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
    eight, spiral, corner, pulse = (named_path(name, 9) for name in ("eight", "spiral", "corner", "pulse"))
    assert eight[0, :2].tolist() == pytest.approx([0.5, 0.5])
    distance = (spiral[:, :2] - 0.5).norm(dim=1)
    assert (distance[1:] < distance[:-1]).all()
    assert torch.equal(corner[:5, 1], corner[:1, 1].expand(5)) and torch.equal(corner[4:, 0], corner[4:5, 0].expand(5))
    torch.testing.assert_close(pulse, pulse.flip(0))
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
    assert Scene("cyan", "triangle", named_path("zoom")).prompt == "cyan triangle on plain"
    striped = Ground.random(1, seeded(), "stripes")
    assert Scene("red", "circle", named_path("back"), striped).prompt == "red circle on stripes"
