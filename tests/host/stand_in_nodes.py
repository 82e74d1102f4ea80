"""Nodes for tests alone: conditioning as the text and image encoders of native video models give it, without those encoders.

The host builds T5-XXL, UMT5, Llama and CLIP-H at their full size whatever a file holds. A test server gets this file in custom_nodes.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

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


NODE_CLASS_MAPPINGS = {"StandInTextEncode": StandInTextEncode, "StandInVisionEncode": StandInVisionEncode}
