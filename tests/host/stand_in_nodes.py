"""Nodes for tests alone: conditioning as the text and image encoders of native video models give it, without those encoders; films
as VideoHelperSuite's Load Video gives them; and a node that computes layers without calling them.

The host builds T5-XXL, UMT5, Llama and CLIP-H at their full size whatever a file holds. A test server gets this file in custom_nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import islice
from types import SimpleNamespace

import av
import numpy as np
import torch

WIDTH = 32  # of the conditioning that the models of tiny_models.py take
TOKENS = 6


def numbers(text: str, *shape: int) -> torch.Tensor:
    """Random numbers that belong to a text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditioning(text: str, family: str) -> list:
    """CONDITIONING with what a family's network needs beside the text: LTX an integer mask, HunyuanVideo a pooled vector."""
    extra = {
        "wan": {},
        "ltx": {"attention_mask": torch.ones(1, TOKENS, dtype=torch.long)},
        "hunyuan": {"pooled_output": numbers(f"pooled {text}", 1, 768)},
    }
    return [[numbers(text, 1, TOKENS, WIDTH), extra[family]]]


class StandInTextEncode:
    CATEGORY = "tests"
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"multiline": True}), "family": (["wan", "ltx", "hunyuan"],)}}

    def encode(self, text, family):
        return (conditioning(text, family),)


class StandInVisionEncode:
    """What Wan 2.1 image-to-video reads of its start image."""

    CATEGORY = "tests"
    RETURN_TYPES = ("CLIP_VISION_OUTPUT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def encode(self, image):
        text = str(image[0].sum().item())
        return (SimpleNamespace(penultimate_hidden_states=numbers(text, 1, 7, 1280)),)


class StandInFused:
    """Computes Wan's self-attention in its own way, as nodes do that are made for speed: from the weights, without calling a layer."""

    CATEGORY = "tests"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        fused = model.clone()
        for index, block in enumerate(model.model.diffusion_model.blocks):
            fused.add_object_patch(f"diffusion_model.blocks.{index}.self_attn.forward", computing(block.self_attn))
        return (fused,)


def computing(attention):
    """A forward of Wan's self-attention that reads its weights."""

    def forward(x, *_, **__):
        q, k, v = (layer.weight.to(x) for layer in (attention.q, attention.k, attention.v))
        return torch.nn.functional.linear((x @ q.T) * (x @ k.T) + x @ v.T, attention.o.weight.to(x))

    return forward


class _ImageOrLatent(str):
    """A socket type that is unequal to all but these two, by which VideoHelperSuite gives either."""

    def __ne__(self, other):
        return other not in ("IMAGE", "LATENT")

    __hash__ = str.__hash__


class _UnreadSound(Mapping):
    """Sound that is read from the file where it is asked for, and not before."""

    def __getitem__(self, key):
        raise AssertionError("nobody asked for the sound")

    def __iter__(self):
        raise AssertionError("nobody asked for the sound")

    def __len__(self):
        return 2


class StandInLoadVideo:
    """Outputs of VideoHelperSuite's Load Video: frames of one size, their count, sound and a dictionary of numbers."""

    CATEGORY = "tests"
    RETURN_TYPES = (_ImageOrLatent("IMAGE"), "INT", "AUDIO", "VHS_VIDEOINFO")
    RETURN_NAMES = ("IMAGE", "frame_count", "audio", "video_info")
    FUNCTION = "load_video"

    @classmethod
    def INPUT_TYPES(cls):
        number = ("INT", {"default": 0})
        required = {"video": ("STRING",), "custom_width": number, "custom_height": number, "frame_load_cap": number}
        return {"required": {**required, "alpha": ("BOOLEAN", {"default": False})}}

    def load_video(self, video, custom_width, custom_height, frame_load_cap, alpha):
        import folder_paths  # of the host, which other users of this file have not started yet

        with av.open(folder_paths.get_annotated_filepath(video)) as container:
            fps = float(container.streams.video[0].average_rate)
            frames = [
                frame.reformat(custom_width, custom_height, "rgba" if alpha else "rgb24").to_ndarray()
                for frame in islice(container.decode(video=0), frame_load_cap)
            ]
        images = torch.from_numpy(np.stack(frames).astype(np.float32) / 255)
        info = {"source_fps": fps, "loaded_fps": fps, "loaded_frame_count": len(images)}
        return (images, len(images), _UnreadSound(), info)


class StandInVideoInfo:
    CATEGORY = "tests"
    RETURN_TYPES = ("FLOAT",)
    FUNCTION = "rate"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"video_info": ("VHS_VIDEOINFO",)}}

    def rate(self, video_info):
        return (video_info["loaded_fps"],)


NODE_CLASS_MAPPINGS = {
    "StandInLoadVideo": StandInLoadVideo,
    "StandInVideoInfo": StandInVideoInfo,
    "StandInTextEncode": StandInTextEncode,
    "StandInVisionEncode": StandInVisionEncode,
    "StandInFused": StandInFused,
}
