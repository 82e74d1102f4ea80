"""Which member of its family a network is, read off the shapes of its weights."""

from __future__ import annotations

import math

from torch import nn

# Width of the 14B networks; the 1.3B one, which only Wan 2.1 has, is 1536 wide.
_WAN_14B = 5120
# An image-to-video Wan takes the noised latent, the start image's latent and a mask of 4 channels.
_WAN_MASK = 4
# Parts that only some members have, as the host knows them apart -> what those are called.
_WAN_PARTS = {
    "vace_patch_embedding": "VACE",
    "control_adapter": "i2v with camera control",
    "casual_audio_encoder": "S2V",
    "audio_proj": "HuMo",
    "face_adapter": "Animate",
    "patch_embedding_pose": "SCAIL",
    "patch_embedding_global": "WanDancer",
}


def wan(network: nn.Module) -> str:
    """``"2.1 t2v"``, ``"2.1 i2v"``, ``"2.2 i2v"``, ``"2.2 ti2v"`` or, as both have the same layout, ``"2.1 or 2.2 t2v"``; a member with
    parts of its own is called by them, such as ``"VACE"``."""
    children = dict(network.named_children())
    for part, name in _WAN_PARTS.items():
        if part in children:
            return name
    embedding, head = network.get_submodule("patch_embedding"), network.get_submodule("head.head")
    width, inputs = embedding.weight.shape[:2]
    outputs = head.weight.shape[0] // math.prod(embedding.weight.shape[2:])
    if outputs == 48:
        return "2.2 ti2v"
    if inputs == outputs:
        return "2.1 or 2.2 t2v" if width >= _WAN_14B else "2.1 t2v"
    if inputs == 2 * outputs + _WAN_MASK:
        # Wan 2.2 dropped the branch that reads the start image through CLIP.
        return "2.1 i2v" if hasattr(network, "img_emb") and network.img_emb is not None else "2.2 i2v"
    return f"variant of {inputs} input channels"


def ltx(network: nn.Module) -> str:
    """``"2"``, which makes sound as well, or ``""``."""
    return "2" if "audio_patchify_proj" in dict(network.named_children()) else ""


def hunyuan(network: nn.Module) -> str:
    """``"1.5"``, ``"t2v"`` or ``"i2v"``."""
    if "vision_in" in dict(network.named_children()):
        return "1.5"
    patch = network.get_submodule("img_in.proj").weight.shape
    outputs = network.get_submodule("final_layer.linear").weight.shape[0] // math.prod(patch[2:])
    return "t2v" if patch[1] == outputs else "i2v"
