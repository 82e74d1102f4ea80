"""Inversion as a sampler: the host's guider loads, patches and conditions the MODEL, and the clip runs up the noise levels inside."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...sma.inversion import OnStep, ddim_invert, ddim_timesteps, flow_invert
from .conditioning import check_text
from .inputs import ask, check_latent, kind_of

# Of flow models' levels: the even spacing, before the model's shift, that their workflows sample with.
_FLOW_SCHEDULER = "simple"


def invert(
    model: Any, latent: Tensor, positive: list, *, steps: int, refinements: int = 0, on_step: OnStep | None = None
) -> Tensor:
    """The noise from which the host's samplers would make a clip, without guidance.

    In units of the host's NOISE: of about unit variance, and where a sampler starts an empty latent from it, the start is the inverted clip.
    That is the x of variance 1 for eps and v models (x_s / sqrt(1 + s^2)), and x_s / s for flow models, at the highest level s inverted
    to. In the model's own latent scaling: it is not a latent that a VAE could decode.

    eps and v models climb the levels of DDIM's leading spacing with offset 1, core's ``ddim_uniform``, from the clean clip (alpha 1,
    where core's samplers end); flow models those of core's ``simple`` scheduler. No gradient, and the MODEL is left as after sampling.

    Args:
        model: the host's MODEL of an eps, v, x0 or flow network.
        latent: video latents [N, C, F, H, W] as VAE Encode gives them, see :func:`~.noise.video_samples`.
        positive: CONDITIONING; the papers take that of an empty prompt.
        steps, refinements, on_step: as :func:`~...sma.inversion.ddim_invert` has them.

    Raises:
        ValueError: wrong channel count, an empty latent, conditioning that is not the model's, or a model of another prediction.
    """
    check_latent(latent, model.get_model_object("latent_format").latent_channels)
    for text, extra in positive:
        check_text(model.get_model_object("diffusion_model"), text, extra)
    schedule = model.get_model_object("model_sampling")
    if kind_of(schedule) == "flow":
        levels = comfy.samplers.calculate_sigmas(schedule, _FLOW_SCHEDULER, steps)
    else:
        levels = schedule.sigmas[ddim_timesteps(len(schedule.sigmas), steps)].flip(0)
        levels = torch.cat([levels, levels.new_zeros(1)])
    sampler = _InversionSampler(steps, refinements, on_step)
    guider = _Guider(model)
    guider.set_conds(positive)
    guider.sample(torch.zeros_like(latent), latent, sampler, levels, seed=0)
    return sampler.inverted.to(comfy.model_management.intermediate_device())


class _Guider(comfy.samplers.CFGGuider):
    def set_conds(self, positive: list) -> None:
        self.inner_set_conds({"positive": positive})


class _InversionSampler(comfy.samplers.Sampler):
    def __init__(self, steps: int, refinements: int, on_step: OnStep | None) -> None:
        self.steps = steps
        self.options: dict[str, Any] = {"refinements": refinements}
        if on_step is not None:
            self.options["on_step"] = on_step
        # What the guider returns has been through the latent format, and noise is not a latent.
        self.inverted: Tensor

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        schedule = model_wrap.inner_model.model_sampling
        clip = latent_image

        def slope(x_s: Tensor, sigma: float) -> Tensor:
            """d x_s / d s: the noise of eps, v and x0 networks, the velocity of flow ones."""
            x0_hat = ask(model_wrap, x_s, x_s.new_full(x_s.shape[:1], sigma), extra_args)
            return (x_s - x0_hat.float()) / sigma

        if kind_of(schedule) == "flow":
            x = flow_invert(slope, clip, sigmas.flip(0).tolist(), **self.options)
            # The host multiplies noise by sigma, some models also by a factor of their own.
            self.inverted = x / schedule.noise_scaling(sigmas[:1], torch.ones_like(x), torch.zeros_like(x))
        else:
            table = schedule.sigmas.tolist()
            alphas_cumprod = 1 / (1 + schedule.sigmas.cpu().double() ** 2)  # not every device has float64

            def predict_noise(x: Tensor, t: int) -> Tensor:
                return slope(x * (1 + table[t] ** 2) ** 0.5, table[t])

            self.inverted = ddim_invert(
                predict_noise, clip, alphas_cumprod, steps=self.steps, final_alpha=1.0, **self.options
            )
        return latent_image
