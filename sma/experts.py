"""Models that come as two networks, one for high noise and one for low: the noise levels that each serves.

Wan 2.2 (Wan-Video/Wan2.2, configs of t2v_A14B and i2v_A14B) hands over from its high noise to its low noise network where the timestep,
a thousand times the shifted sigma, falls below 0.875 (text-to-video) or 0.9 (image-to-video) of 1000.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from .checks import check_option

Expert = Literal["high noise", "low noise"]

# Sigma of the hand-over by what the network starts from.
T2V_BOUNDARY, I2V_BOUNDARY = 0.875, 0.9


def boundary_of(variant: str) -> float:
    """The sigma at which Wan 2.2 hands over, for a network that :func:`~.roles.variant_of` calls this."""
    return I2V_BOUNDARY if "i2v" in variant.split() else T2V_BOUNDARY


def level_of(sigma: float, sigma_at: Callable[[float], float]) -> float:
    """The noise level 0..1 at which a schedule that rises with the level reaches a sigma."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sigma_at(middle) < sigma else (low, middle)
    return high


def expert_levels(
    expert: Expert, boundary: float, level_range: tuple[float, float], sigma_at: Callable[[float], float]
) -> tuple[float, float]:
    """The part of a range of noise levels that an expert serves.

    Args:
        expert: which of the two.
        boundary: sigma, within 0 to 1, at and above which the high noise expert works.
        level_range: noise levels asked for, shares 0..1 of the schedule.
        sigma_at: the schedule, noise level -> sigma.

    Raises:
        ValueError: unknown expert, a boundary outside 0 to 1, or no level left.
    """
    check_option("expert", expert, Expert)
    if not 0 < boundary < 1:
        raise ValueError(f"The boundary of the experts is sigma {boundary}; it must lie between 0 and 1.")
    between = level_of(boundary, sigma_at)
    served = (between, 1.0) if expert == "high noise" else (0.0, between)
    low, high = max(level_range[0], served[0]), min(level_range[1], served[1])
    if low >= high:
        raise ValueError(
            f"The {expert} expert serves noise levels {served[0]:.3g} to {served[1]:.3g} and {level_range[0]:.3g} to "
            f"{level_range[1]:.3g} are asked for, so none is left. Widen noise_low to noise_high."
        )
    return low, high
