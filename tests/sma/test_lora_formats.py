"""LoRA files of other programs, written and read: golden key tables, shapes, and the same update on the way out and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sma.lora_formats import LowRank, to_animatediff, to_format, updates_of
from sma.lora_reading import read_lora
from sma.networks.animatediff import diffusers_name

GOLDEN = Path(__file__).parents[1] / "golden" / "motiondirector"
WAN = [f"blocks.{block}.self_attn.{x}" for block in (0, 11) for x in "qkvo"] + ["blocks.0.ffn.0", "blocks.0.ffn.2"]
UNET3D = [
    "transformer_in.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.temp_attentions.0.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.0.temp_attentions.0.proj_in",
]
CONVOLUTION = "down_blocks.0.temp_convs.0.conv1.2"
ANIMATEDIFF = [
    "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.motion_modules.0.transformer_blocks.0.attn2.to_out.0",
    "mid_block.motion_modules.0.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.3.motion_modules.2.transformer_blocks.0.ff.net.2",
]
SPATIAL = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shapes(names: list[str]) -> dict[str, tuple[int, ...]]:
    """A weight shape per module, no two alike, so that nothing can fit by accident."""
    return {
        name: (5 + index, 20 + index, 3, 1, 1) if ".conv" in name else (5 + index, 20 + index)
        for index, name in enumerate(names)
    }


def ours(modules: dict[str, tuple[int, ...]], *, rank: int = 4, alpha: float | None = 2.0) -> dict[str, Tensor]:
    tensors = {}
    for index, (name, (out, *inputs)) in enumerate(modules.items()):
        key = f"diffusion_model.{name}"
        tensors[f"{key}.lora_A.weight"] = draw(rank, *inputs, seed=2 * index)
        tensors[f"{key}.lora_B.weight"] = draw(out, rank, *[1] * (len(inputs) - 1), seed=2 * index + 1)
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def product(update: LowRank) -> Tensor:
    return update.scale * update.up.flatten(1) @ update.down.flatten(1)


def assert_same_updates(a: dict[str, LowRank], b: dict[str, LowRank]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(product(a[name]), product(b[name])), name


@pytest.mark.parametrize("alpha", [4.0, 2.0, None])
@pytest.mark.parametrize(
    ("names", "format", "reported"),
    [
        (WAN, "comfyui", "ComfyUI"),
        (WAN, "kohya", "kohya"),
        ([*UNET3D, CONVOLUTION], "comfyui", "ComfyUI"),
        ([*UNET3D, CONVOLUTION], "diffusers", "diffusers"),
        ([*UNET3D, CONVOLUTION], "kohya", "kohya"),
        ([*ANIMATEDIFF, SPATIAL], "diffusers", "diffusers"),
        (ANIMATEDIFF, "animatediff", "AnimateDiff-Evolved"),
    ],
)
def test_written_and_read_back_every_format_holds_the_same_updates(names, format, reported, alpha):
    modules = shapes(names)
    lora = ours(modules, alpha=alpha)
    export = to_format(lora, format)
    assert (export.written, export.left_out) == (len(names), 0)
    assert all(tensor.is_contiguous() for tensor in export.tensors.values())
    reading = read_lora(export.tensors, modules)
    assert reading.format == reported
    assert (reading.unmatched, reading.misshaped, reading.text_encoder) == ((), (), ())
    assert sorted(key for keys in reading.keys.values() for key in keys) == sorted(export.tensors)
    assert list(reading.updates) == list(modules)
    assert reading.ranks == [4]
    # Powers of two as scales: folding them into a factor is exact.
    assert_same_updates(reading.updates, updates_of(lora))


@pytest.mark.parametrize("alpha", [4.0, None])
def test_comfyui_format_is_the_lora_as_it_is_without_an_alpha_that_changes_nothing(alpha):
    lora = ours(shapes(WAN), alpha=alpha)
    export = to_format(lora, "comfyui")
    assert list(export.tensors) == [key for key in lora if not key.endswith(".alpha")]
    assert all(tensor is lora[key] for key, tensor in export.tensors.items())


def test_comfyui_format_has_a_scale_in_up():
    lora = ours(shapes(WAN), alpha=2.8)
    tensors = to_format(lora, "comfyui").tensors
    assert not [key for key in tensors if key.endswith("alpha")]
    for name in WAN:
        down, up = (f"diffusion_model.{name}.lora_{side}.weight" for side in "AB")
        assert tensors[down] is lora[down]
        torch.testing.assert_close(tensors[up], 0.7 * lora[up], rtol=1e-6, atol=0)


def test_comfyui_format_keeps_what_is_not_ours():
    """As core's trainer has it: other suffixes and norms. And DoRA, whose parts must not part."""
    stem = "diffusion_model.double_blocks.0.img_attn.qkv"
    dora = "diffusion_model.double_blocks.0.txt_attn.qkv"
    lora = {
        f"{stem}.lora_down.weight": draw(2, 6, seed=0),
        f"{stem}.lora_up.weight": draw(18, 2, seed=1),
        f"{stem}.alpha": torch.tensor(1.0),
        "diffusion_model.double_blocks.0.norm.w_norm": draw(6, seed=2),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0),
        "blocks.0.ffn.0.lora_A.weight": draw(2, 6, seed=3),
        f"{dora}.lora_A.weight": draw(2, 6, seed=4),
        f"{dora}.lora_B.weight": draw(18, 2, seed=5),
        f"{dora}.alpha": torch.tensor(1.0),
        f"{dora}.dora_scale": draw(18, 1, seed=6),
    }
    export = to_format(lora, "comfyui")
    assert list(export.tensors) == list(lora)
    assert all(tensor is lora[key] for key, tensor in export.tensors.items())
    assert export.written == 3


@pytest.mark.parametrize(
    ("host", "first"),
    [
        ("double_blocks.3.img_attn.qkv", "double_blocks.3.img_attn_qkv"),
        ("double_blocks.3.txt_mlp.2", "double_blocks.3.txt_mlp.fc2"),
        ("single_blocks.11.linear1", "single_blocks.11.linear1"),
        # Core knows these by its own names alone.
        ("time_in.in_layer", "time_in.in_layer"),
    ],
)
@pytest.mark.parametrize("parts", [(".lora_A.weight", ".lora_B.weight"), (".diff",)])
def test_comfyui_format_has_hunyuans_first_names_where_core_knows_them(host, first, parts):
    tensors = to_format({f"diffusion_model.{host}{suffix}": torch.ones(2, 2) for suffix in parts}, "comfyui").tensors
    assert list(tensors) == [f"diffusion_model.{first}{suffix}" for suffix in parts]


def test_differences_of_whole_weights_go_where_the_format_can_hold_them():
    """As VMC trains them; kohya's format has them as LyCORIS writes them."""
    lora = {f"diffusion_model.{name}.diff": draw(*shape, seed=0) for name, shape in shapes(WAN).items()}
    export = to_format(lora, "comfyui")
    assert (export.written, list(export.tensors)) == (len(WAN), list(lora))
    export = to_format(lora, "kohya")
    assert export.written == len(WAN)
    assert list(export.tensors) == [f"lora_unet_{name.replace('.', '_')}.diff" for name in WAN]
    assert all(torch.equal(*pair) for pair in zip(export.tensors.values(), lora.values(), strict=True))
    for format, title in (("diffusers", "diffusers"), ("animatediff", "AnimateDiff-Evolved")):
        with pytest.raises(
            ValueError,
            match=f"differences of the whole weights of 10 layers, .* {title} format .* Save it in the ComfyUI or kohya",
        ):
            to_format(lora, format)
    both = to_format(lora | ours(shapes(["blocks.4.ffn.0"])), "kohya")
    assert both.written == len(WAN) + 1
    assert len(both.tensors) == len(WAN) + 3


def test_kohya_and_diffusers_keys():
    lora = ours(shapes(["mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_out.0"]), rank=2, alpha=1.0)
    stem = "mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_out.0"
    kohya, diffusers = to_format(lora, "kohya").tensors, to_format(lora, "diffusers").tensors
    underscored = "lora_unet_mid_block_temp_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert list(kohya) == [f"{underscored}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")]
    assert float(kohya[f"{underscored}.alpha"]) == 1.0
    assert list(diffusers) == [f"unet.{stem}.lora_A.weight", f"unet.{stem}.lora_B.weight"]
    assert torch.equal(diffusers[f"unet.{stem}.lora_B.weight"], 0.5 * lora[f"diffusion_model.{stem}.lora_B.weight"])


def test_animatediff_evolved_finds_every_key_of_the_golden_table():
    """`saved` is what AnimateDiff-MotionDirector writes, `loaded_as` the weight AnimateDiff-Evolved patches with it."""
    table = json.loads((GOLDEN / "animatediff_keys.json").read_text())["temporal"]
    originals = list(dict.fromkeys(row["loaded_as"].removesuffix(".weight") for row in table))
    modules = shapes([diffusers_name(name) for name in originals])
    assert [to_animatediff(name) for name in modules] == originals
    written = to_format(ours(modules), "animatediff").tensors
    assert sorted(written) == sorted(row["saved"] for row in table)
    for row in table:
        assert as_animatediff_evolved_reads(row["saved"]) == row["loaded_as"]
    reading = read_lora(written, modules)
    assert (reading.unmatched, list(reading.updates)) == ((), list(modules))
    assert reading.format == "AnimateDiff-Evolved"
    # What a run trained, before it was saved.
    trained = {row["trained"]: written[row["saved"]] for row in table}
    assert_same_updates(read_lora(trained, modules).updates, reading.updates)


def as_animatediff_evolved_reads(key: str) -> str:
    """Its rule: drop "processor.", "_lora", "up." and "down."; a "0." follows "to_out." where there is none."""
    for part in ("processor.", "_lora", "up.", "down."):
        key = key.replace(part, "")
    return key if "to_out.0." in key else key.replace("to_out.", "to_out.0.")


def test_every_key_of_animatediff_motiondirectors_spatial_file_is_understood():
    golden = json.loads((GOLDEN / "animatediff_keys.json").read_text())
    names = [key.removesuffix(".lora_up.weight") for key in golden["spatial_in"] if key.endswith("lora_up.weight")]
    modules = shapes(names)
    modules["down_blocks.0.attentions.0.proj_in"] = (7, 9, 1, 1)
    saved = golden["spatial_saved"]
    assert len(saved) == 2 * (len(names) - 1)  # the port loses proj_out on saving
    tensors = {}
    for key in saved:
        name = key.replace("processor.", "").split("_lora.")[0]
        name = name if name in modules else f"{name}.0"
        out, inputs, *kernel = modules[name]
        tensors[key] = torch.ones(out, 3, *kernel) if ".up." in key else torch.ones(3, inputs, *kernel)
    reading = read_lora(tensors, modules)
    assert (reading.unmatched, reading.misshaped) == ((), ())
    assert set(reading.updates) == set(names) - {"down_blocks.0.attentions.0.proj_out"}
    assert reading.format == "AnimateDiff-MotionDirector spatial"


def test_animatediffs_own_motion_loras_are_read():
    stem = "down_blocks.1.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor.to_out_lora"
    module = "down_blocks.1.motion_modules.0.transformer_blocks.0.attn2.to_out.0"
    tensors = {f"module.{stem}.down.weight": torch.ones(2, 6), f"module.{stem}.up.weight": torch.ones(4, 2)}
    reading = read_lora(tensors, {module: (4, 6)})
    assert list(reading.updates) == [module]
    assert reading.updates[module].scale == 1.0


def test_layers_outside_motion_modules_and_convolutions_are_left_out_and_counted():
    modules = shapes([*ANIMATEDIFF, SPATIAL, "down_blocks.0.motion_modules.0.conv"])
    export = to_format(ours(modules), "animatediff")
    assert (export.written, export.left_out) == (len(ANIMATEDIFF), 2)
    assert len(export.tensors) == 2 * len(ANIMATEDIFF)


@pytest.mark.parametrize(
    ("names", "format", "message"),
    [
        (
            [*WAN, "blocks.0.audio.q"],
            "diffusers",
            r"1 of 11 layers have no name in diffusers, for example blocks.0.audio.q\.",
        ),
        (WAN, "animatediff", "0 of 10 layers lie in motion modules: this LoRA is for Wan"),
        (
            ["a.b"],
            "diffusers",
            "for an unknown network; the diffusers format has names for UNet3D, AnimateDiff, Wan, LTX-Video and Hun",
        ),
        (WAN, "onnx", "Unknown format 'onnx'; use one of comfyui, diffusers, kohya, animatediff"),
    ],
)
def test_formats_without_names_for_a_network_are_refused(names, format, message):
    with pytest.raises(ValueError, match=message):
        to_format(ours(shapes(names)), format)


@pytest.mark.parametrize("key", ["diffusion_model.a.lora_up.weight", "a.lora_A.weight", "a.diff"])
def test_only_loras_of_ours_are_converted(key):
    with pytest.raises(ValueError, match=r"are not as Train Motion LoRA writes them, for example \['.+'\]; only such"):
        to_format(ours(shapes(WAN)) | {key: torch.ones(2, 2)}, "kohya")


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "transformer.", "unet.", "base_model.model.", "pipe.dit."])
@pytest.mark.parametrize(
    ("down", "up"),
    [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_A", ".lora_B"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora_A.motion.weight", ".lora_B.motion.weight"),
        (".lora_down.weight", ".lora_up.weight"),
        (".lora.down.weight", ".lora.up.weight"),
        ("_lora.down.weight", "_lora.up.weight"),
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ],
)
def test_prefixes_and_suffixes_in_use(prefix, down, up):
    name = "blocks.3.self_attn.k"
    tensors = {f"{prefix}{name}{down}": draw(2, 6, seed=0), f"{prefix}{name}{up}": draw(4, 2, seed=1)}
    reading = read_lora(tensors, {name: (4, 6)})
    assert torch.equal(product(reading.updates[name]), draw(4, 2, seed=1) @ draw(2, 6, seed=0))
    assert reading.unmatched == ()


def test_diffusers_names_of_wan_layers():
    names = {
        "attn1.to_q": "self_attn.q",
        "attn2.to_out.0": "cross_attn.o",
        "ffn.net.0.proj": "ffn.0",
        "ffn.net.2": "ffn.2",
    }
    modules = shapes([f"blocks.1.{name}" for name in names.values()])
    tensors = ours({f"blocks.1.{name}": modules[f"blocks.1.{own}"] for name, own in names.items()}, alpha=None)
    tensors = {key.replace("diffusion_model.", "transformer."): value for key, value in tensors.items()}
    reading = read_lora(tensors, modules)
    assert (list(reading.updates), reading.format, reading.unmatched) == (list(modules), "diffusers", ())


def test_linear_layers_stored_as_convolutions_and_flat_convolutions_fit():
    modules = {"linear": (5, 6), "conv": (5, 6, 3, 3)}
    tensors = {
        "linear.lora_down.weight": draw(2, 6, 1, 1, seed=0),
        "linear.lora_up.weight": draw(5, 2, 1, 1, seed=1),
        "conv.lora_down.weight": draw(2, 54, seed=2),
        "conv.lora_up.weight": draw(5, 2, seed=3),
    }
    updates = read_lora(tensors, modules).updates
    assert updates["linear"].down.shape == (2, 6)
    assert (updates["conv"].down.shape, updates["conv"].up.shape) == ((2, 6, 3, 3), (5, 2, 1, 1))


def test_strange_keys_are_sorted_by_what_is_wrong_with_them():
    modules = shapes(WAN)
    tensors = ours(modules, alpha=None) | {
        "diffusion_model.blocks.77.self_attn.q.lora_A.weight": torch.ones(2, 3),
        "diffusion_model.blocks.77.self_attn.q.lora_B.weight": torch.ones(3, 2),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 2),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": torch.ones(2, 2),
        "diffusion_model.blocks.0.ffn.0.dora_scale": torch.ones(5, 1),
        "diffusion_model.blocks.0.self_attn.q.diff_b": torch.ones(5),
    }
    tensors["diffusion_model.blocks.0.ffn.2.lora_B.weight"] = torch.ones(3, 4)
    reading = read_lora(tensors, modules)
    assert set(reading.updates) == set(WAN) - {"blocks.0.ffn.0", "blocks.0.ffn.2"}
    assert [str(wrong) for wrong in reading.misshaped] == [
        "diffusion_model.blocks.0.ffn.2.lora_B.weight is [3, 4], which does not fit the layer's weight [14, 29]"
    ]
    assert len(reading.text_encoder) == 2
    assert sorted(reading.unmatched) == [
        "diffusion_model.blocks.0.ffn.0.dora_scale",
        "diffusion_model.blocks.0.ffn.0.lora_A.weight",
        "diffusion_model.blocks.0.ffn.0.lora_B.weight",
        "diffusion_model.blocks.0.self_attn.q.diff_b",
        "diffusion_model.blocks.77.self_attn.q.lora_A.weight",
        "diffusion_model.blocks.77.self_attn.q.lora_B.weight",
    ]
    assert "blocks.77.self_attn.q" in reading.layers
