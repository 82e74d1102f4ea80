"""Pictures read back: what is drawn must be where the numbers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sma import pictures
from sma.pictures import (
    SIZE,
    contact_sheet,
    energy_picture,
    maps_picture,
    residual_pictures,
    spectrum_picture,
    to_images,
    wavelet_picture,
)
from sma.plot import BLUE, SEQUENTIAL, Plot, colours, ticks


def near(image, colour, tolerance=12):
    """Where a picture has a colour, [H, W] bool."""
    return (np.abs(np.asarray(image).astype(int) - colour).max(axis=-1)) <= tolerance


@pytest.fixture
def drawn_pictures(monkeypatch):
    """The pixel arrays handed to the plot, in order: heat maps and colour bars."""
    drawn = []
    original = Plot.picture

    def picture(self, pixels, box):
        drawn.append((pixels, box))
        original(self, pixels, box)

    monkeypatch.setattr(Plot, "picture", picture)
    return drawn


@pytest.fixture
def drawn_boxes(monkeypatch):
    """The boxes handed to the plot with their colours."""
    drawn = []
    original = Plot.box
    monkeypatch.setattr(
        Plot, "box", lambda self, box, colour: (drawn.append((box, colour)), original(self, box, colour))
    )
    return drawn


@pytest.mark.parametrize("shape", [(3, 7, 16, 16), (4, 1, 5, 3), (12, 40, 9, 13), (16, 15, 30, 52)])
def test_all_pictures_make_one_batch_for_any_shape(shape):
    residual = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    images = to_images(residual_pictures(residual))
    assert images.shape == (4, SIZE[1], SIZE[0], 3) and images.dtype == torch.float32
    assert 0 <= images.min() and images.max() == 1
    assert (images.std(dim=(1, 2, 3)) > 0.05).all()


def test_a_clip_that_stands_still_is_drawn_without_failing():
    assert to_images(residual_pictures(torch.zeros(3, 5, 8, 8))).isfinite().all()


def test_half_precision_on_any_grid_is_drawn():
    assert len(residual_pictures(torch.randn(4, 3, 6, 10).half().requires_grad_())) == 4


def test_energy_bars_are_as_high_as_the_mean_squares():
    residual = torch.ones(2, 4, 6, 6) * torch.tensor([1.0, 0.5, 2.0, 0.0]).view(1, 4, 1, 1)
    blue = near(energy_picture(residual), BLUE)
    heights = blue.sum(axis=0)
    columns = np.flatnonzero(heights)
    bars = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    middle = [int(heights[bar[len(bar) // 2]]) for bar in bars]
    assert len(middle) == 3  # the fourth is 0 high
    mean_line = 3  # pixels that the line of the mean takes from the bars it crosses
    assert middle[0] / middle[2] == pytest.approx(1 / 4, abs=mean_line / middle[2] + 0.01)
    assert middle[1] / middle[2] == pytest.approx(1 / 16, abs=0.01)


def test_maps_show_signs_at_their_places_and_moments(drawn_pictures):
    residual = torch.zeros(3, 2, 4, 6)
    residual[:, 0, 1, 2] = 1.0
    residual[:, 1, 3, 5] = -1.0
    maps_picture(residual)
    (first, _), (second, _), _ = drawn_pictures
    red, blue = first[1, 2], second[3, 5]
    assert red[0] > 150 > red[2] and blue[2] > 130 > blue[0]
    for pixels, place in ((first, (1, 2)), (second, (3, 5))):
        others = np.delete(pixels.reshape(-1, 3), place[0] * 6 + place[1], axis=0)
        assert (others == 246).all()


def test_maps_of_long_clips_are_spread_over_all_of_it(drawn_pictures):
    residual = torch.linspace(-1, 1, 60).view(1, 60, 1, 1).expand(1, 60, 3, 3)
    maps_picture(residual)
    maps = [pixels for pixels, _ in drawn_pictures[:-1]]
    assert len(maps) == 12
    assert maps[0][0, 0, 2] > 130 > maps[0][0, 0, 0] and maps[-1][0, 0, 0] > 150 > maps[-1][0, 0, 2]


@pytest.mark.parametrize("height, width", [(8, 8), (9, 40), (40, 9)])
def test_maps_keep_the_aspect_ratio_and_do_not_overlap(drawn_pictures, height, width):
    maps_picture(torch.randn(1, 7, height, width))
    boxes = [box for _, box in drawn_pictures[:-1]]
    for left, upper, right, lower in boxes:
        assert (right - left) / (lower - upper) == pytest.approx(width / height)
        assert 0 <= left < right <= SIZE[0] - 90 and 80 < upper < lower <= SIZE[1]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_steady_drift_fills_only_the_approximation(drawn_boxes):
    """Haar: residuals that stay the same over time have no detail; 8 of them fill 3 levels exactly."""
    wavelet_picture(torch.full((2, 8, 4, 4), 0.3), levels=3)
    cells = [tuple(map(int, colour)) for _, colour in drawn_boxes]
    assert len(cells) == 4 + 2 + 1 + 1
    assert set(cells[:-1]) == {SEQUENTIAL[0]} and cells[-1] == SEQUENTIAL[-1]


def test_an_alternating_motion_fills_only_the_finest_detail(drawn_boxes):
    residual = torch.tensor([1.0, -1.0] * 4).view(1, 8, 1, 1).expand(1, 8, 4, 4)
    wavelet_picture(residual)
    cells = [tuple(map(int, colour)) for _, colour in drawn_boxes]
    assert set(cells[:4]) == {SEQUENTIAL[-1]} and set(cells[4:]) == {SEQUENTIAL[0]}


def test_wavelet_cells_stand_over_the_frames_they_sum(drawn_boxes):
    residual = torch.zeros(1, 7, 2, 2)
    residual[:, 6] = 1.0
    wavelet_picture(residual, levels=1)
    boxes = [box for box, _ in drawn_boxes]
    pitch = (boxes[3][2] - boxes[0][0] + 2) / 7
    assert [round((box[0] - boxes[0][0]) / pitch) for box in boxes[:4]] == [0, 2, 4, 6]
    bright = [i for i, (_, colour) in enumerate(drawn_boxes) if tuple(map(int, colour)) == SEQUENTIAL[-1]]
    assert bright == [3, 7]  # the last frame alone, in the detail and in the approximation


@pytest.mark.parametrize("height, width", [(16, 16), (15, 20)])
def test_the_spectrum_of_a_wave_peaks_at_its_frequency(drawn_pictures, height, width):
    columns = torch.arange(width) / width
    wave = torch.cos(2 * torch.pi * 3 * columns).expand(1, 2, height, width)
    spectrum_picture(wave)
    amplitude, _ = drawn_pictures[0]
    bright = {tuple(p) for p in np.argwhere((amplitude == SEQUENTIAL[-1]).all(axis=-1)).tolist()}
    assert bright == {(height // 2, width // 2 - 3), (height // 2, width // 2 + 3)}


def test_the_weight_map_is_the_weight_of_the_local_loss(drawn_pictures):
    spectrum_picture(torch.randn(1, 1, 10, 12))
    weight, _ = drawn_pictures[2]
    expected = pictures.frequency_weight(10, 12)
    shares = (expected - expected.min()) / (expected.max() - expected.min())
    assert np.array_equal(weight, colours(SEQUENTIAL, shares.numpy()))


def test_a_contact_sheet_shows_every_clip_with_its_own_pixels(drawn_pictures):
    reference, sample = torch.rand(5, 8, 8, 3), torch.rand(20, 8, 12, 3)
    sheet = contact_sheet([("reference", reference), ("sample", sample)], title="A title", cell=64)
    assert len(drawn_pictures) == 5 + 8
    assert np.array_equal(drawn_pictures[0][0], (reference[0] * 255).round().byte())
    assert np.array_equal(drawn_pictures[-1][0], (sample[-1] * 255).round().byte())
    for pixels, (left, _, right, lower) in drawn_pictures:
        assert right <= sheet.width and lower <= sheet.height
        assert right - left == 64 * pixels.shape[1] / 8
    left, upper, *_ = drawn_pictures[0][1]
    corner = np.asarray(sheet)[int(upper) + 3, int(left) + 3]
    assert np.abs(corner - (reference[0, 0, 0] * 255).numpy()).max() < 2


@pytest.mark.parametrize("low, high", [(0, 0.0417), (0, 1), (-2.4, 0.34), (0, 7300), (-0.07, -0.03)])
def test_axis_ticks_are_round_and_inside(low, high):
    values = ticks(low, high)
    assert 3 <= len(values) <= 6
    step = values[1] - values[0]
    assert all(low - 1e-9 <= v <= high + 1e-9 for v in values)
    assert min(abs(step / 10.0**k - n) for k in range(-4, 5) for n in (1, 2, 2.5, 5)) < 1e-6
