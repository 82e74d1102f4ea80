"""LoRA files between us and the programs they are written for, both ways: diffusers' pipelines and PEFT themselves, on tiny networks, and
the published rules of diffusion-pipe and musubi-tuner.

The ids of the tests are the cells of the table of who reads what.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sma.files import save_lora
from sma.lora_formats import to_format
from sma.lora_reading import read_lora
from sma.lora_scales import PEFT_CONFIG

peft = pytest.importorskip("peft", reason="diffusers loads LoRAs through PEFT, which is not installed")

WAN = {
    **{
        f"self_attn.{ours}": [f"attn1.{theirs}"]
        for ours, theirs in zip("qkvo", ("to_q", "to_k", "to_v", "to_out.0"), strict=True)
    },
    **{
        f"cross_attn.{ours}": [f"attn2.{theirs}"]
        for ours, theirs in zip("qkvo", ("to_q", "to_k", "to_v", "to_out.0"), strict=True)
    },
    "ffn.0": ["ffn.net.0.proj"],
    "ffn.2": ["ffn.net.2"],
}
START_IMAGE = {"cross_attn.k_img": ["attn2.add_k_proj"], "cross_attn.v_img": ["attn2.add_v_proj"]}
LTX = [f"attn{index}.{layer}" for index in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")]
LTX += ["ff.net.0.proj", "ff.net.2"]
# Of a fused layer, in the order of its rows.
HUNYUAN = {
    "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"],
    "double_blocks.0.img_attn.proj": ["transformer_blocks.0.attn.to_out.0"],
    "double_blocks.0.txt_attn.qkv": [f"transformer_blocks.0.attn.add_{x}_proj" for x in "qkv"],
    "double_blocks.0.txt_attn.proj": ["transformer_blocks.0.attn.to_add_out"],
    "double_blocks.0.img_mlp.0": ["transformer_blocks.0.ff.net.0.proj"],
    "double_blocks.0.img_mlp.2": ["transformer_blocks.0.ff.net.2"],
    "double_blocks.0.txt_mlp.0": ["transformer_blocks.0.ff_context.net.0.proj"],
    "double_blocks.0.txt_mlp.2": ["transformer_blocks.0.ff_context.net.2"],
    "single_blocks.0.linear1": [
        *(f"single_transformer_blocks.0.attn.to_{x}" for x in "qkv"),
        "single_transformer_blocks.0.proj_mlp",
    ],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
}
# Our layer -> diffusers' layers that together are it.
LAYERS = {
    "wan": {
        f"blocks.{n}.{ours}": [f"blocks.{n}.{theirs}" for theirs in names]
        for n in (0, 1)
        for ours, names in WAN.items()
    },
    "wan i2v": {
        f"blocks.{n}.{ours}": [f"blocks.{n}.{theirs}" for theirs in names]
        for n in (0, 1)
        for ours, names in (WAN | START_IMAGE).items()
    },
    "ltx": {f"transformer_blocks.{n}.{name}": [f"transformer_blocks.{n}.{name}"] for n in (0, 1) for name in LTX},
    "hunyuan": HUNYUAN,
    # Their names are diffusers' own.
    "animatediff": {
        f"{block}.motion_modules.0.{name}": [f"{block}.motion_modules.0.{name}"]
        for block in ("down_blocks.0", "mid_block", "up_blocks.1")
        for name in ("proj_in", *(f"transformer_blocks.0.{name}" for name in LTX))
    },
    "unet3d": {
        f"{block}.0.{name}": [f"{block}.0.{name}"]
        for block in ("down_blocks.0.temp_attentions", "mid_block.attentions", "mid_block.temp_attentions")
        for name in ("proj_in", *(f"transformer_blocks.0.{name}" for name in LTX))
    },
}
COMPONENTS = dict.fromkeys(LAYERS, "transformer") | {"animatediff": "unet", "unet3d": "unet"}
# diffusers has no LoRA loader for UNet3DConditionModel.
LOADED_BY_DIFFUSERS = [family for family in LAYERS if family != "unet3d"]
# The same layers, in the same order, in Tencent's network, which musubi-tuner and diffusion-pipe train.
TENCENT = [
    "double_blocks.0.img_attn_qkv",
    "double_blocks.0.img_attn_proj",
    "double_blocks.0.txt_attn_qkv",
    "double_blocks.0.txt_attn_proj",
    "double_blocks.0.img_mlp.fc1",
    "double_blocks.0.img_mlp.fc2",
    "double_blocks.0.txt_mlp.fc1",
    "double_blocks.0.txt_mlp.fc2",
    "single_blocks.0.linear1",
    "single_blocks.0.linear2",
]


def network_of(family: str) -> nn.Module:
    """diffusers' network, random and small, no two widths alike."""
    import diffusers

    torch.manual_seed(0)
    if family.startswith("wan"):
        vision = {"image_dim": 20, "added_kv_proj_dim": 24} if family == "wan i2v" else {}
        return diffusers.WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
            **vision,
        )
    if family == "ltx":
        return diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=2,
            caption_channels=16,
        )
    if family == "animatediff":
        return diffusers.UNetMotionModel(
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=12,
            num_attention_heads=4,
            norm_num_groups=8,
            motion_num_attention_heads=4,
            use_motion_mid_block=True,
        )
    if family == "unet3d":
        return diffusers.UNet3DConditionModel(
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=12,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    return diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
        mlp_ratio=2.0,
    )


def pipeline_of(family: str, network: nn.Module):
    """diffusers' pipeline around nothing but the network."""
    import diffusers

    pipeline = {
        "wan": diffusers.WanPipeline,
        "wan i2v": diffusers.WanImageToVideoPipeline,
        "ltx": diffusers.LTXPipeline,
        "hunyuan": diffusers.HunyuanVideoPipeline,
        "animatediff": diffusers.AnimateDiffPipeline,
    }[family]
    parts = dict.fromkeys(
        name
        for name, parameter in inspect.signature(pipeline).parameters.items()
        if parameter.default is inspect.Parameter.empty
    )
    return pipeline(**parts | {COMPONENTS[family]: network})


def lora_for(family: str, network: nn.Module, scale: float = 1.0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A LoRA of ours with several ranks, and what it adds to each of diffusers' weights."""
    generator = torch.Generator().manual_seed(3)
    tensors, added = {}, {}
    for index, (ours, names) in enumerate(LAYERS[family].items()):
        weights = [network.get_submodule(name).weight for name in names]
        rows = [len(weight) for weight in weights]
        rank = (4, 2, 4, 3)[index % 4]
        down = torch.randn(rank, weights[0].shape[1], generator=generator)
        up = torch.randn(sum(rows), rank, generator=generator)
        tensors[f"diffusion_model.{ours}.lora_A.weight"] = down
        tensors[f"diffusion_model.{ours}.lora_B.weight"] = up
        if scale != 1.0:
            tensors[f"diffusion_model.{ours}.alpha"] = torch.tensor(scale * rank)
        added |= dict(zip(names, (scale * up @ down).split(rows), strict=True))
    return tensors, added


def saved(tensors: Mapping[str, Tensor], folder: Path) -> str:
    """The path of a file, as Save Motion LoRA writes it."""
    path = folder / "motion.safetensors"
    save_lora(tensors, {"base_model": "test", "rank": 4}, path)
    return str(path)


def assert_adapted(network: nn.Module, added: Mapping[str, Tensor]) -> None:
    """PEFT's layers are those that were to be adapted, all of them, and each adds what it should."""
    layers = {name: module for name, module in network.named_modules() if getattr(module, "lora_A", None)}
    assert layers.keys() == added.keys()
    for name, layer in layers.items():
        (adapter,) = layer.lora_A
        torch.testing.assert_close(layer.get_delta_weight(adapter), added[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.7])
@pytest.mark.parametrize(
    ("family", "format"),
    [(family, "diffusers") for family in LOADED_BY_DIFFUSERS]
    + [(family, "comfyui") for family in ("wan", "wan i2v", "ltx")],
)
def test_diffusers_pipeline_applies_it(tmp_path, family, format, scale):
    network = network_of(family)
    lora, added = lora_for(family, network, scale)
    export = to_format(lora, format)
    assert export.written == len(LAYERS[family])
    pipeline_of(family, network).load_lora_weights(saved(export.tensors, tmp_path))
    assert_adapted(network, added)


@pytest.mark.parametrize("scale", [1.0, 0.7])
@pytest.mark.parametrize("family", LAYERS)
def test_peft_applies_it(family, scale):
    network = network_of(family)
    lora, added = lora_for(family, network, scale)
    tensors = {
        key.removeprefix(f"{COMPONENTS[family]}."): value for key, value in to_format(lora, "diffusers").tensors.items()
    }
    ranks = {f"^{key[: -len('.lora_A.weight')]}": len(value) for key, value in tensors.items() if "lora_A" in key}
    config = peft.LoraConfig(target_modules=list(added), r=4, lora_alpha=4, rank_pattern=ranks, alpha_pattern=ranks)
    peft.inject_adapter_in_model(config, network)
    result = peft.set_peft_model_state_dict(network, tensors)
    assert result.unexpected_keys == []
    assert not [key for key in result.missing_keys if "lora_" in key]
    assert_adapted(network, added)


def test_diffusers_names_hunyuans_layers_as_we_do():
    """Its own reading of the original names, for which it takes the real width for granted."""
    from diffusers import HunyuanVideoPipeline

    width = 3072
    outputs = {"qkv": 3 * width, "mlp.0": 4 * width, "linear1": 7 * width}
    inputs = {"mlp.2": 4 * width, "linear2": 5 * width}
    generator = torch.Generator().manual_seed(0)
    lora = {}
    for name in HUNYUAN:
        out, into = (
            next((size for end, size in sizes.items() if name.endswith(end)), width) for sizes in (outputs, inputs)
        )
        lora[f"diffusion_model.{name}.lora_A.weight"] = torch.randn(1, into, generator=generator)
        lora[f"diffusion_model.{name}.lora_B.weight"] = torch.randn(out, 1, generator=generator)
    theirs = HunyuanVideoPipeline.lora_state_dict(dict(to_format(lora, "comfyui").tensors))
    ours = to_format(lora, "diffusers").tensors
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("family", ["wan", "wan i2v", "ltx", "hunyuan"])
def test_diffusion_pipe_finds_a_parameter_for_every_key(family):
    """Its rule (models/base.py): without the prefix and with the adapter's name, a key must be a parameter of the network under PEFT."""
    lora, _ = lora_for(family, network_of(family), scale=0.7)
    layers = TENCENT if family == "hunyuan" else LAYERS[family]
    parameters = {f"{layer}.lora_{side}.default.weight" for layer in layers for side in "AB"}
    keys = [
        re.sub(r"\.weight$", ".default.weight", re.sub(r"^(transformer|diffusion_model)\.", "", key))
        for key in to_format(lora, "comfyui").tensors
    ]
    assert sorted(keys) == sorted(parameters)


@pytest.mark.parametrize("family", ["wan", "wan i2v", "hunyuan"])
def test_musubi_tuner_knows_every_key(family):
    """Its rule (networks/lora.py): the name of a linear layer inside a block, underscores for dots; dim from lora_down, alpha beside it."""
    lora, _ = lora_for(family, network_of(family), scale=0.7)
    layers = TENCENT if family == "hunyuan" else LAYERS[family]
    names = ["lora_unet_" + layer.replace(".", "_") for layer in layers]
    tensors = to_format(lora, "kohya").tensors
    assert sorted(tensors) == sorted(
        f"{name}.{part}" for name in names for part in ("lora_down.weight", "lora_up.weight", "alpha")
    )
    for name, ours in zip(names, LAYERS[family], strict=True):
        down, up = (tensors[f"{name}.lora_{side}.weight"] for side in ("down", "up"))
        key = f"diffusion_model.{ours}"
        expected = 0.7 * lora[f"{key}.lora_B.weight"] @ lora[f"{key}.lora_A.weight"]
        torch.testing.assert_close(tensors[f"{name}.alpha"] / len(down) * up @ down, expected, rtol=0, atol=1e-5)


SETTINGS = [
    {"r": 4, "lora_alpha": 4},
    {"r": 4, "lora_alpha": 2, "rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_q": 6}},
    {"r": 4, "lora_alpha": 8, "use_rslora": True},
]


def config_for(family: str, settings: Mapping[str, object]):
    """PEFT's, for the layers of the family, with values that are not 0."""
    names = [name for names in LAYERS[family].values() for name in names]
    return peft.LoraConfig(target_modules=names, init_lora_weights=False, **settings)


def modules_of(family: str, network: nn.Module) -> dict[str, tuple[int, int]]:
    """Our names of the layers -> shapes of their weights."""
    weights = {ours: [network.get_submodule(name).weight for name in names] for ours, names in LAYERS[family].items()}
    return {ours: (sum(map(len, parts)), parts[0].shape[1]) for ours, parts in weights.items()}


def assert_read(reading, expected: Mapping[str, Tensor], keys: int) -> None:
    """Every key is understood, and every layer gets what the peer adds to it."""
    assert (reading.unmatched, reading.misshaped, reading.text_encoder) == ((), (), ())
    assert sum(map(len, reading.keys.values())) == keys
    assert reading.updates.keys() == expected.keys()
    for name, update in reading.updates.items():
        torch.testing.assert_close(update.scale * update.up @ update.down, expected[name], rtol=0, atol=1e-5)


def added_by_peft(network: nn.Module, family: str) -> dict[str, Tensor]:
    """What PEFT's adapter adds to each of our layers."""

    def delta(name: str) -> Tensor:
        layer = network.get_submodule(name)
        return layer.get_delta_weight(next(iter(layer.lora_A))).detach()

    return {ours: torch.cat([delta(name) for name in names]) for ours, names in LAYERS[family].items()}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("family", LOADED_BY_DIFFUSERS)
def test_what_diffusers_saves_is_read(tmp_path, family, settings):
    from diffusers.training_utils import _collate_lora_metadata

    network, component = network_of(family), COMPONENTS[family]
    modules = modules_of(family, network)
    network.add_adapter(config_for(family, settings))
    type(pipeline_of(family, network)).save_lora_weights(
        tmp_path,
        **{f"{component}_lora_layers": peft.get_peft_model_state_dict(network)},
        **_collate_lora_metadata({component: network}),
    )
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    assert_read(read_lora(tensors, modules, metadata), added_by_peft(network, family), len(tensors))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("family", LAYERS)
def test_what_peft_saves_is_read(tmp_path, family, settings):
    network = network_of(family)
    modules = modules_of(family, network)
    peft.get_peft_model(network, config_for(family, settings)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    metadata = {PEFT_CONFIG: (tmp_path / PEFT_CONFIG).read_text()}
    assert_read(read_lora(tensors, modules, metadata), added_by_peft(network, family), len(tensors))


@pytest.mark.parametrize("family", ["wan", "wan i2v", "ltx", "hunyuan"])
def test_what_diffusion_pipe_saves_is_read(family):
    """Its prefixes: ``transformer.`` for HunyuanVideo (models/hunyuan_video.py), ``diffusion_model.`` for the others."""
    network = network_of(family)
    lora, _ = lora_for(family, network)
    prefix, layers = ("transformer.", TENCENT) if family == "hunyuan" else ("diffusion_model.", LAYERS[family])
    tensors = {
        f"{prefix}{layer}.lora_{side}.weight": lora[f"diffusion_model.{ours}.lora_{side}.weight"]
        for layer, ours in zip(layers, LAYERS[family], strict=True)
        for side in "AB"
    }
    assert_read(read_lora(tensors, modules_of(family, network)), products(lora), len(tensors))


@pytest.mark.parametrize("family", ["wan", "wan i2v", "hunyuan"])
def test_what_musubi_tuner_saves_is_read(family):
    network = network_of(family)
    lora, _ = lora_for(family, network, scale=0.7)
    tensors = {}
    for layer, ours in zip(TENCENT if family == "hunyuan" else LAYERS[family], LAYERS[family], strict=True):
        theirs, key = "lora_unet_" + layer.replace(".", "_"), f"diffusion_model.{ours}"
        tensors[f"{theirs}.lora_down.weight"] = lora[f"{key}.lora_A.weight"]
        tensors[f"{theirs}.lora_up.weight"] = lora[f"{key}.lora_B.weight"]
        tensors[f"{theirs}.alpha"] = lora[f"{key}.alpha"]
    assert_read(read_lora(tensors, modules_of(family, network)), products(lora, 0.7), len(tensors))


def products(lora: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    return {
        key.removeprefix("diffusion_model.").removesuffix(".lora_A.weight"): scale
        * lora[key.replace("lora_A", "lora_B")]
        @ value
        for key, value in lora.items()
        if key.endswith(".lora_A.weight")
    }
