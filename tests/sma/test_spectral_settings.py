from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sma.spectral import (
    OFFICIAL,
    PAPER,
    REPAIRED,
    GlobalTransform,
    LocalTransform,
    SpectralSettings,
    default_levels,
    global_loss,
    local_loss,
)

SIZES = [(16, 16), (23, 31), (40, 64), (90, 160)]


@pytest.mark.parametrize(
    ("frames", "levels"), [(2, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3), (16, 3), (17, 4), (21, 4)]
)
def test_default_levels(frames, levels):
    assert default_levels(frames) == levels


def test_presets():
    def row(s: SpectralSettings) -> tuple:
        return s.residual, s.phase, s.norm, s.zero_border, s.relative, s.levels_for(16), s.global_weight, s.local_weight

    assert row(PAPER) == ("signed", "raw", "backward", True, False, 4, 0.4, 0.2)
    assert row(OFFICIAL) == ("absolute", "raw", "backward", False, False, 3, 0.4, 0.2)
    assert row(REPAIRED) == ("signed", "wrapped", "ortho", False, True, 3, 0.4, 0.2)
    assert PAPER.levels_for(8) == 3  # follows the clip
    for preset in (PAPER, OFFICIAL, REPAIRED):
        assert (preset.space, preset.sigma_weight, preset.bands) == ("x0_hat", "none", "all")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"levels": 0}, "levels is 0; it must be at least 1"),
        ({"levels": 2.0}, "levels is 2.0; it must be a whole number"),
        ({"extra_levels": 1.5}, "extra_levels is 1.5; it must be a whole number"),
        ({"extra_levels": -1}, "extra_levels is -1"),
        ({"wave": "db99"}, "Unknown wavelet 'db99'"),
        ({"residual": "squared"}, "Unknown residual 'squared'; use one of signed, absolute"),
        ({"phase": "unwrapped"}, "Unknown phase"),
        ({"norm": "forward"}, "Unknown norm"),
        ({"space": "noise"}, "Unknown space 'noise'; use one of x0_hat, output"),
        ({"sigma_weight": "snr"}, "Unknown sigma_weight 'snr'; use one of none, signal"),
        ({"bands": "high"}, "Unknown bands 'high'; use one of all, low"),
        ({"delta": -0.1}, "delta is -0.1; it must be 0 or above"),
        ({"base": math.nan}, "base is nan"),
        ({"global_weight": -0.4}, "global_weight is -0.4"),
        ({"local_weight": math.inf}, "local_weight is inf"),
        ({"level_weights": (1.0, -1.0)}, "level_weights"),
        ({"levels": 2, "level_weights": (1.0, 1.0)}, "level_weights has 2 values; 2 levels need 3"),
    ],
)
def test_bad_settings_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        SpectralSettings(**knobs)


def test_too_few_level_weights_for_the_clip_are_refused():
    x = torch.zeros(1, 1, 8, 4, 4)
    with pytest.raises(ValueError, match="level_weights has 2 values; 2 levels need 3"):
        global_loss(x, x, level_weights=(1.0, 1.0))


@pytest.mark.parametrize("shape", [(1, 1, 8, 4, 4), (1, 3, 7, 4, 4), (1, 3, 8, 4, 5)])
def test_clips_of_different_shape_are_refused(shape):
    for loss in (global_loss, local_loss):
        with pytest.raises(ValueError, match="compare clips of one shape"):
            loss(torch.zeros(1, 3, 8, 4, 4), torch.zeros(shape))


def test_one_frame_is_refused():
    for loss in (global_loss, local_loss):
        with pytest.raises(ValueError, match="has 1 frame; motion needs at least 2"):
            loss(torch.zeros(1, 3, 1, 4, 4), torch.zeros(1, 3, 1, 4, 4))
    with pytest.raises(ValueError, match="has 1 frame;"):
        default_levels(1)
    with pytest.raises(ValueError, match="has 0 frames;"):
        default_levels(0)
    with pytest.raises(ValueError, match="frames is 8.0; it must be a whole number"):
        default_levels(8.0)


@pytest.mark.parametrize("batches", [(2, 3), (3, 2), (2, 0)])
def test_batches_that_differ_are_refused(batches):
    a, b = (torch.zeros(batch, 3, 8, 4, 4) for batch in batches)
    for loss in (global_loss, local_loss):
        with pytest.raises(ValueError, match=f"batches of {a.shape[0]} and {b.shape[0]}; both must be equal, or one"):
            loss(a, b)


def test_one_clip_is_compared_with_every_one_of_a_batch():
    clips = torch.randn(3, 2, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    one, batch = clips[:1], clips[1:]
    for first, second in ((one, batch), (batch, one)):
        torch.testing.assert_close(
            torch.stack([global_loss(first, second), *local_loss(first, second, relative=True)]),
            torch.stack(
                [
                    global_loss(first.expand_as(batch), second.expand_as(batch)),
                    *local_loss(first.expand_as(batch), second.expand_as(batch), relative=True),
                ]
            ),
        )


def test_level_weights_given_as_a_list_are_kept_as_a_tuple():
    settings = SpectralSettings(levels=1, level_weights=[1.0, 0.5])
    assert settings == SpectralSettings(levels=1, level_weights=(1.0, 0.5))
    assert hash(settings) == hash(SpectralSettings(levels=1, level_weights=(1.0, 0.5)))


def haar_of_differences(x0: torch.Tensor, x0_hat: torch.Tensor) -> list[torch.Tensor]:
    """The differences of the frame residuals, one [B, C, H, W] per pair of frames."""
    return list((x0 - x0_hat).diff(dim=2).unbind(2))


def each(x: torch.Tensor) -> torch.Tensor:
    return x.abs().flatten(1).mean(1)


@pytest.fixture
def clips() -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """clips(frames): two clips of 2 samples in float64."""

    def make(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        source = torch.Generator().manual_seed(frames)
        x0, x0_hat = torch.randn(2, 2, 3, frames, 4, 5, generator=source, dtype=torch.float64)
        return x0, x0_hat

    return make


def low(clips: tuple[torch.Tensor, torch.Tensor], **knobs: Any) -> torch.Tensor:
    x0, x0_hat = clips
    return GlobalTransform.of(x0, SpectralSettings(bands="low", **knobs)).compare(x0_hat)


def test_low_bands_are_the_approximation_and_the_coarsest_detail(clips):
    a, b, c, d = haar_of_differences(*clips(5))
    slow, slower = each((a + b + c + d) / 2), each((a + b - c - d) / 2)
    torch.testing.assert_close(low(clips(5)), slow + slower)
    torch.testing.assert_close(low(clips(5), level_weights=(3.0, 7.0, 0.5)), 3 * slow + 0.5 * slower)


def test_low_bands_of_an_odd_number_of_residuals(clips):
    a, b, c = haar_of_differences(*clips(4))  # the last one is paired with zero
    pair, tail = (a + b) / math.sqrt(2), c / math.sqrt(2)
    expected = each((pair + tail) / math.sqrt(2)) + each((pair - tail) / math.sqrt(2))
    torch.testing.assert_close(low(clips(4), levels=2), expected)


@pytest.mark.parametrize("frames", [2, 3, 4])
def test_low_bands_of_one_level_are_the_approximation(frames, clips):
    residuals = [*haar_of_differences(*clips(frames)), torch.zeros(2, 3, 4, 5, dtype=torch.float64)]
    pairs = [(a + b) / math.sqrt(2) for a, b in zip(residuals[:-1:2], residuals[1::2], strict=False)]
    expected = each(torch.stack(pairs, 2))
    torch.testing.assert_close(low(clips(frames)), expected)
    torch.testing.assert_close(low(clips(frames), level_weights=(2.0, 5.0)), 2 * expected)


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_low_bands_are_weights_of_zero_for_the_others(levels):
    weights = SpectralSettings(bands="low").level_weights_for(levels)
    expected = {1: (1, 0), 2: (1, 0, 1), 3: (1, 0, 0, 1), 5: (1, 0, 0, 0, 0, 1)}
    assert weights == expected[levels]


def white(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of one level at any resolution: what latents and prediction errors look like."""
    generator = torch.Generator().manual_seed(2)
    x0 = torch.randn(1, 8, 17, height, width, generator=generator)
    return x0, x0 + 0.3 * torch.randn(x0.shape, generator=generator)


def smooth(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A few moving gratings drawn at this resolution, and the same at half their speed."""
    generator = torch.Generator().manual_seed(5)
    row = (torch.arange(height, dtype=torch.float64) + 0.5)[:, None] / height
    column = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    frame = torch.arange(8, dtype=torch.float64)[:, None, None]
    clips = [torch.zeros(1, 1, 8, height, width, dtype=torch.float64) for _ in range(2)]
    for _ in range(12):
        cycles = torch.randint(-5, 6, (2,), generator=generator)
        start, speed = torch.rand(2, dtype=torch.float64, generator=generator)
        for clip, pace in zip(clips, (1.0, 0.5), strict=True):
            phase = cycles[0] * row + cycles[1] * column + start + 0.2 * pace * speed * frame
            clip += torch.cos(2 * math.pi * phase)
    return clips[0], clips[1]


def losses(clips: tuple[torch.Tensor, torch.Tensor], settings: SpectralSettings) -> torch.Tensor:
    x0, x0_hat = clips
    whole = GlobalTransform.of(x0, settings).compare(x0_hat)
    return torch.stack((whole, *LocalTransform.of(x0, settings).compare(x0_hat))).squeeze(1)


@pytest.mark.parametrize("content", [white, smooth])
@pytest.mark.parametrize("size", SIZES[1:])
def test_repaired_losses_do_not_depend_on_resolution(content, size):
    ours, small = (losses(content(*s), REPAIRED) for s in (size, SIZES[0]))
    torch.testing.assert_close(ours, small, rtol=0.05, atol=0)


@pytest.mark.parametrize("size", SIZES[1:])
def test_plain_losses_of_white_content_do_not_depend_on_resolution(size):
    ours, small = (losses(white(*s), SpectralSettings()) for s in (size, SIZES[0]))
    torch.testing.assert_close(ours, small, rtol=0.05, atol=0)


def test_official_amplitude_grows_with_the_square_root_of_the_pixels():
    small, large = (local_loss(*white(*size), norm="backward")[0].item() for size in (SIZES[0], SIZES[-1]))
    assert large / small == pytest.approx(math.sqrt(90 * 160 / 16**2), rel=0.05)
