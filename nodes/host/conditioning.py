"""What a training or an inversion takes of CONDITIONING: refusals in a sentence, before the host or the network would fail."""

from __future__ import annotations

import re
from numbers import Real
from typing import Any

from torch import Tensor, nn

from ...sma.checks import shown
from ...sma.finite import LARGEST, check_finite

# Conditioning that holds for some noise levels or places only: the rest would be denoised without the network.
_PARTIAL = ("start_percent", "end_percent", "area", "mask")
# Conditioning made from pictures, movements or sound of one clip.
_PICTURES = (
    "concat_latent_image",
    "clip_vision_output",
    "reference_latents",
    "context_latents",
    "time_dim_concat",
    "control_video",
    "vace_frames",
    "camera_conditions",
    "pose_video_latent",
    "face_video_pixels",
    "audio_embed",
    "keyframe_idxs",
)
# Where the text enters the networks whose classes have these names; elsewhere it is the first cross-attention of diffusers' blocks.
_TEXT_LAYERS = {
    "WanModel": "text_embedding.0",
    "LTXVModel": "caption_projection.linear_1",
    "HunyuanVideo": "txt_in.input_embedder",
}
# Parts of networks that take the pooled output. Others never see it, and of a text encoder without its last layer it is undefined.
_POOLED_LAYERS = ("vector_in", "label_emb")
_CROSS_ATTENTION = re.compile(r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn2\.to_k")


def check_conditioning(network: nn.Module, positive: list, latent: Tensor) -> None:
    """Nothing where every clip can be conditioned as it is meant.

    The host repeats the rows of one entry up to the samples of a forward, which are noised copies of one clip, so only the first row
    would ever be seen.

    Args:
        network: the bare network of the MODEL.
        positive: CONDITIONING of the training prompts, one entry for all clips or one for each.
        latent: clips [N, C, F, H, W].

    Raises:
        ValueError: another number of entries, stacked prompts, conditioning of a part, pictures of another clip, or what
            :func:`check_text` refuses.
    """
    clips = latent.shape[0]
    if len(positive) not in (1, clips):
        raise ValueError(
            f"There are {len(positive)} prompts and {clips} clips; one prompt for all clips or one for each is needed. "
            "Connect one CLIP Text Encode, or as many as there are clips through Conditioning (Combine)."
        )
    for text, extra in positive:
        check_text(network, text, extra)
        _check_entry(text, extra, latent)
        pictures = [name for name in _PICTURES if name in extra]
        if pictures and len(positive) != clips:
            raise ValueError(
                f"The conditioning holds pictures of one clip ({', '.join(pictures)}) and the latent {clips} clips. "
                "Train one clip, or give each its own conditioning."
            )


def _check_entry(text: Tensor, extra: dict[str, Any], latent: Tensor) -> None:
    if partial := [name for name in _PARTIAL if name in extra]:
        raise ValueError(
            f"The conditioning is limited by {', '.join(partial)}; training draws all noise levels over the whole frame. "
            "Connect the prompt without that."
        )
    if text.shape[0] != 1:
        raise ValueError(
            f"The conditioning stacks {text.shape[0]} prompts, of which the host would use the first; "
            "training needs 1 in each entry. Put them together with Conditioning (Combine)."
        )
    image = extra.get("concat_latent_image")
    if image is not None and image.ndim != 5:
        raise ValueError(
            f"The start image is conditioned as {list(image.shape)}; a video latent [N, C, F, H, W] is needed. "
            "Condition it by the model's own image-to-video node."
        )
    if image is not None and image.shape[2:] != latent.shape[2:]:
        raise ValueError(
            f"The start image is conditioned for {_size(image)} and the clip is {_size(latent)}. "
            "Give both the same length, width and height."
        )


def check_text(network: nn.Module, text: Tensor, extra: dict[str, Any]) -> None:
    """Nothing where an entry of CONDITIONING holds numbers, and the text is as wide as the network takes it.

    The width of networks that are not known is not looked at.

    Raises:
        ValueError: no prompt's shape, NaN, infinite or absurd values, or another width.
    """
    remedy = "Encode the prompt again."
    if text.ndim != 3 or not text.numel():
        raise ValueError(f"The conditioning is {list(text.shape)}; [1, tokens, width] is needed. {remedy}")
    check_finite("The conditioning", text, remedy)
    pooled = any(getattr(network, layer, None) is not None for layer in _POOLED_LAYERS)
    for name, value in extra.items():
        if name == "pooled_output" and not pooled:
            continue
        if isinstance(value, Tensor):
            check_finite(f"The conditioning's {name}", value, remedy)
        elif isinstance(value, Real) and not -LARGEST <= value <= LARGEST:
            raise ValueError(
                f"The conditioning's {name} is {shown(value)}; a number from -{LARGEST:g} to {LARGEST:g} is needed. {remedy}"
            )
    width = _text_width(network)
    if width is not None and text.shape[-1] != width:
        raise ValueError(
            f"The conditioning is {text.shape[-1]} wide and the model takes {width}. "
            "Encode the prompt with the text encoder that belongs to the model."
        )


def _text_width(network: nn.Module) -> int | None:
    kinds = [kind.__name__ for kind in type(network).__mro__]
    known = [_TEXT_LAYERS[kind] for kind in kinds if kind in _TEXT_LAYERS]
    if "LTXVModel" in kinds[1:]:
        return None  # with sound it takes the texts of both side by side
    named = ((name, module) for name, module in network.named_modules() if name)
    layer = next((module for name, module in named if name in known or _CROSS_ATTENTION.fullmatch(name)), None)
    return getattr(layer, "in_features", None)


def _size(latent: Tensor) -> str:
    frames, height, width = latent.shape[2:]
    return f"{frames} latent frames of {width}x{height}"
