"""What a training takes from the graph: refusals in a sentence, before the host would fail or train something else."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import torch
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from torch import Tensor

from ...sma.finite import check_finite
from ...sma.prediction import Kind

# The key of the callbacks of the host's node.
_SPARSE_ATTENTION = "block_sparse_attention"

# What of a host model_sampling makes a prediction kind.
_RECKONING = ("calculate_input", "calculate_denoised")


def check_patches(model: Any) -> None:
    """Nothing where the network of a MODEL runs in every step, and attends by what the training chooses.

    Raises:
        ValueError: a node made the model answer some steps from earlier ones, or puts its own attention back before every step.
    """
    if any(_SPARSE_ATTENTION in by_key for by_key in model.callbacks.values()):
        raise ValueError(
            "The model computes attention block-sparse (Block Sparse Attention), which has no gradient. "
            "Connect the MODEL from before that node."
        )
    if "easycache" in model.model_options.get("transformer_options", {}):
        raise ValueError(
            "The model answers some steps from earlier ones (EasyCache, LazyCache), through which nothing can be learned. "
            "Connect the MODEL from before that node."
        )


def check_latent(latent: Tensor, channels: int) -> None:
    """Nothing where a latent can be trained on.

    Args:
        latent: as VAE Encode gives it.
        channels: that the model takes.

    Raises:
        ValueError: no video latent, one with sound, wrong channel count, no place or frame in it, NaN, or an empty latent.
    """
    if latent.is_nested:
        raise ValueError(
            "The latent holds sound beside the video; training needs the video latent alone. "
            "Connect the VAE Encode of the clip."
        )
    if latent.ndim != 5:
        raise ValueError(
            f"The latent is {list(latent.shape)}; training needs a video latent [N, C, F, H, W]. "
            "Take a video model, and encode the clip with the VAE that belongs to it."
        )
    if latent.shape[1] != channels:
        raise ValueError(
            f"The latent has {latent.shape[1]} channels and the model takes {channels}. "
            "Encode the clip with the VAE that belongs to the model."
        )
    if not latent.numel():
        raise ValueError(f"The latent is {list(latent.shape)}, without any value. Encode the clip again.")
    check_finite("The latent", latent, "Encode the clip again.")
    if not latent.any():
        raise ValueError("The latent is empty: all its values are 0. Connect the VAE Encode of the clip.")


def check_mask(mask: Tensor) -> None:
    """Nothing where a latent's mask holds values that the host can fit to a video.

    Raises:
        ValueError: it has none, none from 0 to 1, or is no picture or video.
    """
    if not 2 <= mask.ndim <= 5:
        raise ValueError(
            f"The latent's noise mask is {list(mask.shape)}; it needs a height and a width. Draw one, or remove it."
        )
    if mask.numel() == 0:
        raise ValueError(f"The latent's noise mask is {list(mask.shape)}, without any value. Draw one, or remove it.")
    # What a resizing adds beyond the range is no reason to stop.
    values = mask.float()
    if not bool(((values > -0.1) & (values < 1.1)).all()):
        raise ValueError("The latent's noise mask holds values that are not from 0 to 1. Draw it again.")


def ask(model_wrap: Any, x: Tensor, sigma: Tensor, extra_args: dict[str, Any]) -> Tensor:
    """The answer of a guider to noised clips [B, C, F, H, W], one by one where the host's network takes no more at a time.

    The host writes the attention mask of HunyuanVideo's prompt into a table for one sample, and fails on several.

    Raises:
        ValueError: the conditioning holds other things for each of them.
    """
    held = [entry["model_conds"] for entry in model_wrap.conds["positive"]]
    alone = isinstance(model_wrap.inner_model.diffusion_model, HunyuanVideo) and any(
        "attention_mask" in c for c in held
    )
    if not alone or x.shape[0] == 1:
        return model_wrap(x, sigma, **extra_args)
    for name, tensor in ((name, getattr(cond, "cond", None)) for conds in held for name, cond in conds.items()):
        if isinstance(tensor, Tensor) and tensor.ndim and tensor.shape[0] > 1:
            raise ValueError(
                f"HunyuanVideo takes a prompt with padding for one video at a time, and its {name} holds {tensor.shape[0]}. "
                "Set batch_size to 1, or take one clip."
            )
    samples = zip(x.split(1), sigma.split(1), strict=True)
    return torch.cat([model_wrap(clip, level, **extra_args) for clip, level in samples])


def kind_of(model_sampling: Any) -> Kind:
    """The prediction kind of a host model_sampling object.

    Raises:
        ValueError: a parameterisation that is none of eps, v, flow, x0.
    """
    sampling = comfy.model_sampling
    kinds = ((sampling.CONST, "flow"), (sampling.X0, "x0"), (sampling.V_PREDICTION, "v"), (sampling.EPS, "eps"))
    for base, kind in kinds:
        # Subclasses (EDM, LCM, v of EPS) may predict otherwise; what counts is how they do it.
        if all(getattr(type(model_sampling), name, None) is getattr(base, name) for name in _RECKONING):
            return kind
    own = next(base.__name__ for base in type(model_sampling).__mro__ if vars(base).keys() & set(_RECKONING))
    raise ValueError(f"The model predicts by {own}, which cannot be trained here. Use an eps, v, flow or x0 model.")
