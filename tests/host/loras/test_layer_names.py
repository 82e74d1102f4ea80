"""The table of layer names against the networks themselves: the host's and diffusers', built without weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> weight shape of the linear and convolution layers."""
    layers = {name: m for name, m in network.named_modules() if hasattr(m, "in_features") or hasattr(m, "kernel_size")}
    return {name: tuple(layer.weight.shape) for name, layer in layers.items()}


def build(family: str) -> tuple[nn.Module, nn.Module]:
    """The host's network and diffusers', of the same settings."""
    import comfy.ldm.hunyuan_video.model
    import comfy.ldm.lightricks.model
    import comfy.ldm.wan.model
    import comfy.ops
    import diffusers

    others = {"operations": comfy.ops.disable_weight_init, "device": "meta", "dtype": torch.float32}
    with torch.device("meta"):
        if family in ("Wan t2v", "Wan i2v"):
            kind, channels = family.removeprefix("Wan "), 36 if family == "Wan i2v" else 16
            image = {"image_dim": 1280, "added_kv_proj_dim": 128} if kind == "i2v" else {}
            return comfy.ldm.wan.model.WanModel(
                model_type=kind, dim=128, ffn_dim=64, num_heads=1, num_layers=2, in_dim=channels, text_dim=32, **others
            ), diffusers.WanTransformer3DModel(
                num_attention_heads=1,
                attention_head_dim=128,
                in_channels=channels,
                text_dim=32,
                ffn_dim=64,
                num_layers=2,
                **image,
            )
        if family == "Wan VACE":
            return comfy.ldm.wan.model.VaceWanModel(
                dim=128,
                ffn_dim=64,
                num_heads=1,
                num_layers=2,
                text_dim=32,
                vace_layers=2,
                vace_in_dim=96,
                **others,
            ), diffusers.WanVACETransformer3DModel(
                num_attention_heads=1,
                attention_head_dim=128,
                text_dim=32,
                ffn_dim=64,
                num_layers=2,
                vace_layers=[0, 1],
                vace_in_channels=96,
            )
        if family == "LTX-Video":
            settings = {"num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 2, "caption_channels": 32}
            settings["cross_attention_dim"] = 64
            return (
                comfy.ldm.lightricks.model.LTXVModel(**settings, **others),
                diffusers.LTXVideoTransformer3DModel(**settings),
            )
        return comfy.ldm.hunyuan_video.model.HunyuanVideo(
            in_channels=16,
            out_channels=16,
            patch_size=[1, 2, 2],
            vec_in_dim=768,
            context_in_dim=32,
            hidden_size=128,
            mlp_ratio=4.0,
            num_heads=1,
            depth=2,
            depth_single_blocks=2,
            axes_dim=[16, 56, 56],
            theta=256,
            qkv_bias=True,
            guidance_embed=True,
            byt5=False,
            meanflow=False,
            use_cond_type_embedding=False,
            vision_in_dim=None,
            meanflow_sum=False,
            **others,
        ), diffusers.HunyuanVideoTransformer3DModel(
            in_channels=16,
            out_channels=16,
            num_attention_heads=1,
            attention_head_dim=128,
            num_layers=2,
            num_single_layers=2,
            num_refiner_layers=2,
            text_embed_dim=32,
            pooled_projection_dim=768,
            guidance_embeds=True,
        )


@pytest.mark.parametrize("family", ["Wan t2v", "Wan i2v", "Wan VACE", "LTX-Video", "HunyuanVideo"])
def test_diffusers_names_are_those_of_its_network_and_lead_back(host, family):
    names = host.module("sma.layer_names")
    ours, theirs = (shapes_of(network) for network in build(family))
    found = {}
    for module, shape in ours.items():
        parts = names.parts_of(module, "diffusers", shape)
        assert parts, module
        for part in parts:
            rows = sum(end - start for start, end in part.rows) or shape[0]
            assert part.name not in found
            found[part.name] = (rows, *shape[1:])
            assert module in names.ours_of(part.name)
    assert found == theirs
    places = names.spellings(ours)
    for name in theirs:
        for spelt in (name, name.replace(".", "_")):
            place = places[spelt]
            part = next(p for p in names.parts_of(place.module, "diffusers", ours[place.module]) if p.name == name)
            assert place.rows == part.rows


def test_hunyuans_original_names_are_those_that_diffusers_converts(host):
    """diffusers' own converter of original LoRAs is the witness: our name, their original, its diffusers."""
    from diffusers.loaders.lora_conversion_utils import _convert_hunyuan_video_lora_to_diffusers as convert

    names = host.module("sma.layer_names")
    ours = shapes_of(build("HunyuanVideo")[0])
    for module, shape in ours.items():
        # The converter knows the real model's width alone, and confuses the factors of what it splits or turns round.
        if "linear1" in module or "qkv" in module or "adaLN" in module:
            continue
        original, diffusers = names.theirs_of(module, "original"), names.theirs_of(module, "diffusers")
        (converted,) = convert({f"{original}.lora_A.weight": torch.zeros(4, *shape[1:])})
        assert converted == f"transformer.{diffusers}.lora_A.weight", module


def test_hunyuans_original_names_are_those_that_the_host_converts(host):
    """So are the names of all layers, the fused ones too, by the host's own conversion of original checkpoints."""
    import comfy.supported_models

    names = host.module("sma.layer_names")
    ours = shapes_of(build("HunyuanVideo")[0])
    originals = {f"{names.theirs_of(module, 'original')}.weight": 0 for module in ours}
    assert len(originals) == len(ours)
    converted = comfy.supported_models.HunyuanVideo({}).process_unet_state_dict(originals)
    assert list(converted) == [f"{module}.weight" for module in ours]
