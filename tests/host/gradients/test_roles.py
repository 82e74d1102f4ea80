"""The roles of sma/roles.py on the host's own networks."""

from __future__ import annotations

import pytest
import torch

NATIVE = {"wan": "Wan", "wan_i2v": "Wan", "wan_5b": "Wan", "ltx": "LTX-Video", "hunyuan": "HunyuanVideo"}


@pytest.mark.parametrize("family", NATIVE)
def test_every_role_of_the_family_finds_its_layers(load, family):
    case = load(family)
    roles = case.host.module("sma.roles")

    def job(denoiser):
        network = denoiser.network
        found = roles.family_of(network)
        return found, {role: roles.layers_of(network, role) for role in (*found.roles, "motion", "everything")}

    found, layers = case.inside(job)
    assert found.name == NATIVE[family]
    assert sum(len(layers[role]) for role in found.roles) == len(layers["everything"])
    assert set(layers["motion"]) == {name for role in found.motion for name in layers[role]}
    assert all(layers.values())


def wan(**changes):
    from comfy.ldm.wan.model import WanModel

    small = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30}
    large = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
    return WanModel, (large if changes.pop("large", False) else small) | changes


def vace():
    from comfy.ldm.wan.model import VaceWanModel

    return VaceWanModel, wan()[1] | {"vace_layers": 15, "vace_in_dim": 96}


def camera():
    from comfy.ldm.wan.model import CameraWanModel

    return CameraWanModel, wan(large=True, model_type="camera_2.2", in_dim=36)[1]


def ltx():
    from comfy.ldm.lightricks.model import LTXVModel

    return LTXVModel, {}


def ltx_2():
    from comfy.ldm.lightricks.av_model import LTXAVModel

    return LTXAVModel, {}


def hunyuan():
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    sizes = {"hidden_size": 3072, "num_heads": 24, "depth": 20, "depth_single_blocks": 40, "context_in_dim": 4096}
    channels = {"in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2], "vec_in_dim": 768, "mlp_ratio": 4.0}
    plain = dict.fromkeys(("byt5", "meanflow", "use_cond_type_embedding", "meanflow_sum"), False)
    rest = {"axes_dim": [16, 56, 56], "theta": 256, "qkv_bias": True, "guidance_embed": True, "vision_in_dim": None}
    return HunyuanVideo, sizes | channels | plain | rest


@pytest.mark.parametrize(
    "layout, found",
    [
        (lambda: wan(), "Wan 2.1 t2v, 30 blocks, 21 latent frames (81 frames), 120 of 307 modules adapted"),
        (
            lambda: wan(large=True),
            "Wan 2.1 or 2.2 t2v, 40 blocks, 21 latent frames (81 frames), 160 of 407 modules adapted",
        ),
        (
            lambda: wan(large=True, model_type="i2v", in_dim=36),
            "Wan 2.1 i2v, 40 blocks, 21 latent frames (81 frames), 160 of 489 modules adapted",
        ),
        (
            lambda: wan(large=True, in_dim=36),
            "Wan 2.2 i2v, 40 blocks, 21 latent frames (81 frames), 160 of 407 modules adapted",
        ),
        (
            lambda: wan(dim=3072, ffn_dim=14336, num_heads=24, in_dim=48, out_dim=48),
            "Wan 2.2 ti2v, 30 blocks, 21 latent frames (81 frames), 120 of 307 modules adapted",
        ),
        (vace, "Wan VACE, 30 blocks, 21 latent frames (81 frames), 120 of 474 modules adapted"),
        (camera, "Wan i2v with camera control, 40 blocks, 21 latent frames (81 frames), 160 of 410 modules adapted"),
        (ltx, "LTX-Video, 28 blocks, 21 latent frames (161 frames), 112 of 287 modules adapted"),
        (ltx_2, "LTX-Video 2, 48 blocks, 21 latent frames (161 frames), 192 of 1394 modules adapted"),
        (hunyuan, "HunyuanVideo t2v, 60 blocks, 21 latent frames (81 frames), 160 of 344 modules adapted"),
    ],
)
def test_networks_of_real_size_are_told_as_they_are(host, layout, found):
    import comfy.ops

    build, sizes = layout()
    network = build(**sizes, operations=comfy.ops.disable_weight_init, device="meta", dtype=torch.bfloat16)
    roles = host.module("sma.roles")
    frames = 1 + 20 * roles.family_of(network).temporal
    said = roles.describe(network, roles.layers_of(network, "motion"), 21, frames)
    assert said == f"{found}, attention joint over space and time"
