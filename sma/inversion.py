"""Inversion: the noise from which a deterministic sampler would make a given clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from .checks import check_whole
from .residuals import at_least_float32

# (steps done, x after this step, its clean estimate x0_hat); what it raises ends the run, which is how a user cancels.
OnStep = Callable[[int, Tensor, Tensor], None]


def _ignore(step: int, x: Tensor, x0_hat: Tensor) -> None:
    pass


def ddim_timesteps(timesteps: int, steps: int, steps_offset: int = 1) -> list[int]:
    """Ascending t_i = i k + offset with k = timesteps // steps, diffusers' "leading" spacing: 50 of 1000 gives 1, 21, ..., 981.

    Raises:
        ValueError: steps < 1, or so many that they leave the schedule.
    """
    check_whole("steps", steps, 1)
    stride = timesteps // steps
    last = (steps - 1) * stride + steps_offset
    if stride == 0 or last >= timesteps:
        raise ValueError(
            f"steps is {steps}; with an offset of {steps_offset} the model's {timesteps} noise levels hold at most "
            f"{timesteps - steps_offset}. Use fewer steps."
        )
    return list(range(steps_offset, last + 1, stride))


def ddim_invert(
    predict_noise: Callable[[Tensor, int], Tensor],
    x0: Tensor,
    alphas_cumprod: Tensor,
    *,
    steps: int,
    steps_offset: int = 1,
    final_alpha: float | None = None,
    refinements: int = 0,
    on_step: OnStep = _ignore,
) -> Tensor:
    """Runs DDIM (arXiv 2010.02502) backwards, from a clean clip to the noise it could have come from.

    For each t of :func:`ddim_timesteps`, with ab the cumulative alphas, a = ab[t - k] or ``final_alpha`` before the first step:
    e = eps_hat(x, t); x <- sqrt(ab[t]) (x - sqrt(1 - a) e) / sqrt(a) + sqrt(1 - ab[t]) e.
    The step of MotionDirector, VMC, SMA, Tune-A-Video, ControlVideo, MotionInversion and DMT: the network is asked about the level it
    goes to, with the latent it comes from. Sampling asks it with the latent of that level, so the way back only comes close.

    Args:
        predict_noise: (x [B, C, F, H, W] of variance about 1, t) -> eps_hat; further channels, a learned variance, are ignored.
        x0: clean clip [B, C, F, H, W].
        alphas_cumprod: [T], falling.
        steps: of about T // steps noise levels each.
        steps_offset: the first t, diffusers' ``steps_offset``.
        final_alpha: alpha of the clean clip. None: ab[0], as with ``set_alpha_to_one`` false; samplers that end fully clean want 1.
        refinements: fixed-point iterations per step (arXiv 2312.12540): ask again with the latent just found, at one more network call
            each. As they converge, sampling over the same steps returns the clip. 0: as published.
        on_step: called after every step.

    Returns:
        x_T, at least float32.

    Raises:
        ValueError: steps that do not fit the schedule.
    """
    check_whole("refinements", refinements, 0)
    x = at_least_float32(x0)
    a_from = float(alphas_cumprod[0]) if final_alpha is None else final_alpha
    for step, t in enumerate(ddim_timesteps(len(alphas_cumprod), steps, steps_offset), 1):
        a_to = float(alphas_cumprod[t])
        start = guess = x
        for _ in range(refinements + 1):
            noise_hat = _mean(predict_noise(guess, t), x)
            x0_hat = (start - (1 - a_from) ** 0.5 * noise_hat) / a_from**0.5
            guess = a_to**0.5 * x0_hat + (1 - a_to) ** 0.5 * noise_hat
        x, a_from = guess, a_to
        on_step(step, x, x0_hat)
    return x


def ddim_sample(
    predict_noise: Callable[[Tensor, int], Tensor],
    x_T: Tensor,
    alphas_cumprod: Tensor,
    *,
    steps: int,
    steps_offset: int = 1,
    final_alpha: float | None = None,
    on_step: OnStep = _ignore,
) -> Tensor:
    """DDIM (arXiv 2010.02502, eq. 12 without noise) down the timesteps that :func:`ddim_invert` climbs; the arguments are the same.

    Returns:
        The clean clip, at least float32.
    """
    x = at_least_float32(x_T)
    timesteps = ddim_timesteps(len(alphas_cumprod), steps, steps_offset)
    levels = [float(alphas_cumprod[0]) if final_alpha is None else final_alpha]
    levels += [float(alphas_cumprod[t]) for t in timesteps]
    for step, (t, (a_to, a_from)) in enumerate(reversed(list(zip(timesteps, pairwise(levels), strict=True))), 1):
        noise_hat = _mean(predict_noise(x, t), x)
        x0_hat = (x - (1 - a_from) ** 0.5 * noise_hat) / a_from**0.5
        x = a_to**0.5 * x0_hat + (1 - a_to) ** 0.5 * noise_hat
        on_step(step, x, x0_hat)
    return x


def flow_invert(
    predict_velocity: Callable[[Tensor, float], Tensor],
    x0: Tensor,
    sigmas: Sequence[float],
    *,
    refinements: int = 0,
    on_step: OnStep = _ignore,
) -> Tensor:
    """Euler steps up the rectified-flow ODE (arXiv 2209.03003), x <- x + (s_to - s_from) v(x, s_to), from a clean clip to noise.

    With x_s = (1 - s) x0 + s n the velocity is n - x0. The network is asked at the level it goes to, as in :func:`ddim_invert`: the
    one that Euler sampling will ask it at on the way back, and never at s = 0, where most were not trained.

    Args:
        predict_velocity: (x [B, C, F, H, W], sigma) -> v.
        x0: clean clip [B, C, F, H, W].
        sigmas: rising, the first one the clip's own (0), the last usually 1.
        refinements: fixed-point iterations per step, see :func:`ddim_invert`.
        on_step: called after every step.

    Returns:
        x at the last sigma, at least float32: the noise itself where that is 1.
    """
    check_whole("refinements", refinements, 0)
    x = at_least_float32(x0)
    for step, (s_from, s_to) in enumerate(pairwise(sigmas), 1):
        start = guess = x
        for _ in range(refinements + 1):
            velocity = predict_velocity(guess, s_to)
            guess = start + (s_to - s_from) * velocity
        x = guess
        on_step(step, x, x - s_to * velocity)
    return x


def _mean(prediction: Tensor, x: Tensor) -> Tensor:
    return prediction[:, : x.shape[1]]
