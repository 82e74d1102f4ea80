from __future__ import annotations

import pytest

from sma.experts import boundary_of, expert_levels, level_of


def shifted(shift: float):
    """Flow schedules of native video models: level 1 is pure noise."""
    return lambda level: shift * level / (1 + (shift - 1) * level)


@pytest.mark.parametrize("shift", [1.0, 5.0, 8.0, 12.0])
@pytest.mark.parametrize("sigma", [0.01, 0.5, 0.875, 0.9, 0.999])
def test_the_level_of_a_sigma_is_the_inverse_of_the_schedule(shift, sigma):
    level = level_of(sigma, shifted(shift))
    assert level == pytest.approx(sigma / (shift - (shift - 1) * sigma), abs=1e-12)
    assert shifted(shift)(level) >= sigma - 1e-15


def test_sigmas_outside_the_schedule_are_at_its_ends():
    assert level_of(0.0, shifted(8.0)) == pytest.approx(0.0, abs=1e-12)
    assert level_of(2.0, shifted(8.0)) == 1.0


def test_the_experts_share_the_levels_between_them():
    schedule = shifted(8.0)
    high = expert_levels("high noise", 0.875, (0.01, 0.99), schedule)
    low = expert_levels("low noise", 0.875, (0.01, 0.99), schedule)
    assert (low[0], high[1]) == (0.01, 0.99)
    assert low[1] == high[0] == pytest.approx(0.875 / (8 - 7 * 0.875))


def test_a_narrower_range_stays_narrower():
    schedule = shifted(1.0)
    assert expert_levels("high noise", 0.5, (0.6, 0.7), schedule) == (0.6, 0.7)
    assert expert_levels("low noise", 0.5, (0.1, 0.2), schedule) == (0.1, 0.2)


def test_impossible_choices_are_refused():
    schedule = shifted(1.0)
    with pytest.raises(ValueError, match="low noise expert serves noise levels 0 to 0.5 and 0.5 to 0.9 are asked for"):
        expert_levels("low noise", 0.5, (0.5, 0.9), schedule)
    with pytest.raises(ValueError, match="The boundary of the experts is sigma 1.5; it must lie between 0 and 1"):
        expert_levels("low noise", 1.5, (0.0, 1.0), schedule)
    with pytest.raises(ValueError, match="Unknown expert 'both'; use one of high noise, low noise"):
        expert_levels("both", 0.5, (0.0, 1.0), schedule)


@pytest.mark.parametrize(
    "variant, sigma", [("2.2 i2v", 0.9), ("2.1 or 2.2 t2v", 0.875), ("2.2 ti2v", 0.875), ("", 0.875)]
)
def test_image_to_video_hands_over_earlier(variant, sigma):
    assert boundary_of(variant) == sigma
