"""Training as a sampler: the host's guider prepares conditioning, loads the weights and applies its patches; the loop runs inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.samplers
import torch
from torch import Tensor, nn

from ...sma.prediction import Kind
from .attention import differentiable_attention
from .compiled import uncompiled
from .conditioning import check_conditioning
from .gradients import differentiable
from .inputs import ask, check_latent, check_mask, check_patches, kind_of


@dataclass(frozen=True)
class HostDenoiser:
    """The host's model as the training loop sees it.

    Attributes:
        denoisers: for each clip of the latent, (x_t [B, C, F, H, W], sigma [B]) -> x0_hat under its prompt, with gradient to whatever
            is hooked on ``network``.
        network: the bare diffusion model; its module names follow ``diffusion_model.`` in LoRA files.
        kind: what the network predicts.
        sigma_at: noise level 0..1 (clean..noise) -> sigma.
        clip: the latent [N, C, F, H, W] in the model's own scaling.
        frames: video frames that the latent frames stand for.
        mask: where to learn, [N, 1, F, H, W] in 0..1, or None.
    """

    denoisers: tuple[Callable[[Tensor, Tensor], Tensor], ...]
    network: nn.Module
    kind: Kind
    sigma_at: Callable[[float], float]
    clip: Tensor
    frames: int
    mask: Tensor | None

    @property
    def denoise(self) -> Callable[[Tensor, Tensor], Tensor]:
        """That of the first clip."""
        return self.denoisers[0]


def run_in_training(
    model: Any,
    latent: Tensor,
    positive: list,
    job: Callable[[HostDenoiser], Any],
    *,
    seed: int,
    noise_mask: Tensor | None = None,
    checkpoint: bool = True,
) -> Any:
    """Runs ``job`` with the MODEL loaded, conditioned and differentiable, and returns what it returns.

    The MODEL is the same afterwards: same parameter objects, no hooks, in or out of an exception. The host's cancel passes through.

    Args:
        model: the host's MODEL (a ModelPatcher).
        latent: video latents [N, C, F, H, W] as VAE Encode gives them.
        positive: CONDITIONING of the training prompts: one entry for all clips, or as many as there are clips, in their order.
        job: does the training; called once.
        seed: handed to the host's samplers and hooks.
        noise_mask: the latent's own mask, of any size the host accepts.
        checkpoint: run transformer blocks again in backward instead of keeping their activations.

    Raises:
        ValueError: no video latent, wrong channel count, or conditioning, a patch or a prediction type we cannot train with.
    """
    check_latent(latent, model.get_model_object("latent_format").latent_channels)
    check_conditioning(model.get_model_object("diffusion_model"), positive, latent)
    check_patches(model)
    if noise_mask is not None:
        check_mask(noise_mask)
        noise_mask = noise_mask.float()  # the host resizes no other numbers
    kind_of(model.get_model_object("model_sampling"))
    sampler = _TrainingSampler(job, checkpoint)
    sigmas = torch.tensor([1.0, 0.0])  # the host wants some; ours are drawn per step
    with _staying(model) as loaded:
        guider = _Guider(loaded)
        guider.set_conds(positive)
        guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, denoise_mask=noise_mask, seed=seed)
    return sampler.result


@contextmanager
def _staying(model: Any) -> Iterator[Any]:
    """A MODEL whose weights stay in their place: itself, or for the time of the training a second copy of a dynamically placed one.

    Dynamically placed weights live in buffers that are used again before backward reads them.
    """
    if not model.is_dynamic():
        yield model
        return
    if model.cached_patcher_init is None:
        raise ValueError(
            "The model's weights are placed dynamically and its loader cannot load them otherwise, which training needs. "
            "Load it with a core loader (where ComfyUI still knows it, --disable-dynamic-vram helps as well)."
        )
    kept = getattr(model, "non_dynamic_delegate_model", None)
    try:
        copy = model.get_non_dynamic_delegate()
        yield copy
    finally:
        # The host would keep it for as long as the MODEL.
        model.non_dynamic_delegate_model = kept


class _Guider(comfy.samplers.CFGGuider):
    def set_conds(self, positive: list) -> None:
        self.inner_set_conds({"positive": positive})


class _TrainingSampler(comfy.samplers.Sampler):
    def __init__(self, job: Callable[[HostDenoiser], Any], checkpoint: bool) -> None:
        self.job = job
        self.checkpoint = checkpoint
        self.result: Any = None

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        # Nodes run in inference mode, where nothing can be differentiated.
        inner, options = model_wrap.inner_model, extra_args["model_options"]["transformer_options"]
        trainable = differentiable(inner, checkpoint=self.checkpoint)
        attention = differentiable_attention(inner, options)
        with torch.inference_mode(False), torch.enable_grad(), uncompiled(inner), trainable, attention:
            # The host would average over several prompts; each clip is denoised under its own.
            prompts = _normal(model_wrap.conds["positive"])
            schedule = inner.model_sampling

            def sigma_at(level: float) -> float:
                # Beyond these shares some schedules answer 0 or 1e9.
                return float(schedule.percent_to_sigma(min(max(1.0 - level, 1e-4), 1.0 - 1e-4)))

            network = inner.diffusion_model
            clip = latent_image.clone()
            mask = None if denoise_mask is None else denoise_mask[:, :1].clone()
            given = mask is not None and _is_given_what_is_masked(inner, clip)

            def denoiser_of(index: int) -> Callable[[Tensor, Tensor], Tensor]:
                entry = prompts[min(index, len(prompts) - 1)]
                own, own_mask = clip[index : index + 1], mask if mask is None else mask[index : index + 1]
                whole = given or _is_told_of_frames(entry, clip.shape[2])

                def denoise(x_t: Tensor, sigma: Tensor) -> Tensor:
                    if whole and x_t.shape[2] != clip.shape[2]:
                        raise ValueError(
                            "The model is told about every frame of the clip (by a start image, a control video or a mask), so it cannot be "
                            "shown one frame alone. Remove that, or train one adapter; VACE models are always told."
                        )
                    model_wrap.conds = {"positive": [entry]}
                    if not given:
                        return ask(model_wrap, x_t, sigma, extra_args).float()
                    x0_hat = ask(model_wrap, x_t * own_mask + own * (1 - own_mask), sigma, extra_args).float()
                    return x0_hat * own_mask + own * (1 - own_mask)

                return denoise

            frames = 1 + (clip.shape[2] - 1) * getattr(inner.latent_format, "temporal_downscale_ratio", 1)
            denoisers = tuple(denoiser_of(index) for index in range(clip.shape[0]))
            self.result = self.job(HostDenoiser(denoisers, network, kind_of(schedule), sigma_at, clip, frames, mask))
        return latent_image


def _is_given_what_is_masked(model: comfy.model_base.BaseModel, clip: Tensor) -> bool:
    """Whether a model sees the clip itself outside its mask and is told so, as LTX-Video is; others see it noised like the rest."""
    sigma = torch.full(clip.shape[:1], 0.5, device=clip.device)
    seen = model.scale_latent_inpaint(x=clip, sigma=sigma, noise=torch.ones_like(clip), latent_image=clip)
    return torch.equal(seen, clip)


def _is_told_of_frames(entry: dict[str, Any], frames: int) -> bool:
    """Whether a prepared prompt holds something of the clip's own length, [..., F, H, W], as what image-to-video models see beside the noise,
    and VACE models also where nothing is connected."""
    tensors = (getattr(cond, "cond", None) for cond in entry["model_conds"].values())
    return any(isinstance(tensor, Tensor) and tensor.ndim >= 5 and tensor.shape[-3] == frames for tensor in tensors)


def _normal(value: Any) -> Any:
    """Conditioning with every inference tensor replaced by a normal copy; the host's COND wrappers are rebuilt around them."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_normal(item) for item in value)
    if hasattr(value, "_copy_with"):
        return value._copy_with(_normal(value.cond))
    return value
