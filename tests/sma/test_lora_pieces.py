"""Updates of layers that another program has in parts, put together to one update of the fused layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sma.layer_names import spellings
from sma.lora_dora import dora_weight
from sma.lora_keys import parse, zero_parts
from sma.lora_reading import read_lora

QKV, LINEAR1, LAST = "double_blocks.0.img_attn.qkv", "single_blocks.3.linear1", "final_layer.adaLN_modulation.1"
MODULES = {QKV: (18, 6), LINEAR1: (28, 6), LAST: (12, 6)}
PARTS = {"to_q": (0, 6), "to_k": (6, 12), "to_v": (12, 18)}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(names: list[str], *, same: bool = False, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    tensors = {}
    for index, name in enumerate(names):
        stem = f"transformer.transformer_blocks.0.attn.{name}"
        tensors[f"{stem}.lora_A.weight"] = draw(2, 6, seed=0 if same else index).to(dtype)
        tensors[f"{stem}.lora_B.weight"] = draw(6, 2, seed=10 + index).to(dtype)
        if not same:
            tensors[f"{stem}.alpha"] = torch.tensor(1.0 + index)
    return tensors


@pytest.mark.parametrize("names", [["to_q", "to_k", "to_v"], ["to_k"], ["to_v", "to_q"]])
@pytest.mark.parametrize("same", [False, True])
def test_each_part_lands_on_its_rows(names, same):
    tensors = attention(names, same=same)
    reading = read_lora(tensors, MODULES)
    expected = torch.zeros(18, 6, dtype=torch.float64)
    for name in names:
        stem = f"transformer.transformer_blocks.0.attn.{name}"
        scale = float(tensors[f"{stem}.alpha"]) / 2 if not same else 1.0
        expected[slice(*PARTS[name])] = scale * tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
    update = reading.updates[QKV]
    assert torch.allclose(update.scale * update.up @ update.down, expected, rtol=1e-12)
    # Parts with one down keep their rank; the report has the file's in any case.
    assert update.rank == (2 if same else 2 * len(names))
    assert (reading.ranks, reading.unmatched, len(reading.keys[QKV])) == ([2], (), len(tensors))


def test_a_part_that_is_zero_is_told_from_those_that_are_not():
    tensors = attention(["to_q", "to_k", "to_v"])
    zero = {key for key in tensors if ".to_k." in key}
    tensors["transformer.transformer_blocks.0.attn.to_k.lora_B.weight"].zero_()
    assert read_lora(tensors, MODULES).zero == zero


def test_half_precision_parts_of_different_scales_are_not_rounded_again():
    tensors = attention(["to_q", "to_k", "to_v"], dtype=torch.bfloat16)
    update = read_lora(tensors, MODULES).updates[QKV]
    for index, (name, rows) in enumerate(PARTS.items()):
        up = tensors[f"transformer.transformer_blocks.0.attn.{name}.lora_B.weight"].float() * ((1.0 + index) / 2)
        column = 2 * sorted(PARTS).index(name)
        assert torch.equal((update.scale * update.up)[slice(*rows), column : column + 2], up)


def test_the_last_part_of_a_single_block_is_the_rest_and_halves_are_swapped():
    stem = "transformer.single_transformer_blocks.3"
    tensors = {f"{stem}.proj_mlp.lora_A.weight": draw(2, 6), f"{stem}.proj_mlp.lora_B.weight": draw(10, 2, seed=1)}
    tensors |= {"transformer.norm_out.linear.lora_A.weight": draw(2, 6, seed=2)}
    tensors |= {"transformer.norm_out.linear.lora_B.weight": draw(12, 2, seed=3)}
    updates = read_lora(tensors, MODULES).updates
    assert torch.equal(updates[LINEAR1].up[18:], draw(10, 2, seed=1)) and not updates[LINEAR1].up[:18].any()
    assert torch.equal(updates[LAST].up, torch.cat([draw(12, 2, seed=3)[6:], draw(12, 2, seed=3)[:6]]))


def test_magnitudes_of_all_parts_are_one_dora_and_of_some_unknown():
    tensors = {key: value for key, value in attention(["to_q", "to_k", "to_v"]).items() if "alpha" not in key}
    for index, name in enumerate(PARTS):
        tensors[f"transformer.transformer_blocks.0.attn.{name}.lora_magnitude_vector"] = draw(6, seed=20 + index).abs()
    reading = read_lora(tensors, MODULES)
    dora, weight = reading.doras[QKV], draw(18, 6, seed=30)
    whole = dora_weight(weight, dora.update.down, dora.update.up, dora.update.scale, dora.magnitude)
    for name, (start, end) in PARTS.items():
        stem = f"transformer.transformer_blocks.0.attn.{name}"
        down, up = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
        part = dora_weight(weight[start:end], down, up, 1.0, tensors[f"{stem}.lora_magnitude_vector"])
        assert torch.allclose(whole[start:end], part, rtol=1e-12)
    some = {key: value for key, value in tensors.items() if "to_v" not in key}
    reading = read_lora(some, MODULES)
    assert (reading.doras, reading.updates, reading.unmatched) == ({}, {}, tuple(sorted(some)))


def test_dora_gives_every_output_its_length_and_leaves_a_row_of_zeros():
    weight, magnitude = draw(5, 4), draw(5, seed=1).abs()
    weight[2] = 0
    up = draw(5, 2, seed=2)
    up[2] = 0
    changed = dora_weight(weight, draw(2, 4, seed=3), up, 0.7, magnitude)
    assert torch.allclose(changed.norm(dim=1)[[0, 1, 3, 4]], magnitude[[0, 1, 3, 4]])
    assert not changed[2].any()
    assert dora_weight(weight.bfloat16(), draw(2, 4, seed=3), up, 0.7, magnitude).dtype == torch.bfloat16


def test_a_layer_that_is_updated_twice_is_taken_once():
    tensors = attention(["to_q"])
    tensors |= {f"diffusion_model.{QKV}.lora_A.weight": draw(2, 6), f"diffusion_model.{QKV}.lora_B.weight": draw(18, 2)}
    reading = read_lora(tensors, MODULES)
    assert len(reading.keys[QKV]) + len(reading.unmatched) == len(tensors)
    assert len(reading.unmatched) > 0


def test_no_name_means_two_places():
    """All spellings, with underscores too, of networks that share a block's name."""
    places = spellings(MODULES)
    assert {place.module for place in places.values()} == set(MODULES)
    assert places["transformer_blocks_0_attn_to_k"].rows == ((6, 12),)
    assert places["double_blocks_0_img_attn_qkv"] == places[QKV]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a.lora_A.weight", ("a", "down")),
        ("a.lora_B.default.weight", ("a", "up")),
        ("a.lora_B", ("a", "up")),
        ("a.lora_B.bias", None),
        ("a.lora_A.weight_scale", None),
        ("a.lora_magnitude_vector.default.weight", ("a", "magnitude")),
        ("a.lora_mid.weight", ("a", "mid")),
        ("a.alpha", ("a", "alpha")),
        ("a.lora_A.alpha", ("a", "alpha")),
        ("a_lora.alpha", ("a", "alpha")),
        ("a.b1.weight", ("a", "b1")),
        ("a.hada_t1", ("a", "hada_t1")),
        ("a.lokr_w2_b", ("a", "lokr_w2_b")),
        ("a.weight", None),
    ],
)
def test_what_a_key_says(key, expected):
    assert parse(key) == expected


@pytest.mark.parametrize(
    ("parts", "zero"),
    [
        ({"lokr_w1": 1.0, "lokr_w2": 1.0, "alpha": 0.0}, ""),
        ({"lokr_w1": 1.0, "lokr_w2_a": 1.0, "lokr_w2_b": 1.0, "alpha": 0.0}, "all"),
        ({"lokr_w1": 0.0, "lokr_w2": 1.0}, "all"),
        ({"a1": 0.0, "a2": 1.0, "b1": 1.0, "b2": 1.0}, ""),
        ({"a1": 0.0, "a2": 1.0, "b1": 1.0, "b2": 0.0}, "all"),
        ({"diff": 0.0, "diff_b": 1.0}, "diff"),
        ({"diff": 1.0, "diff_b": 0.0}, "diff_b"),
        ({"diff": 0.0, "hada_w1_a": 1.0, "hada_w1_b": 1.0}, "diff"),
        ({"down": 1.0, "up": 0.0, "mid": 1.0}, "all"),
        ({"down": 1.0, "up": 0.0, "dora_scale": 1.0}, ""),
        ({"oft_blocks": 1.0, "alpha": 0.0}, ""),
        ({"oft_blocks": 0.0}, "all"),
        ({"set_weight": 0.0}, ""),
        ({"something": 0.0}, ""),
    ],
)
def test_which_parts_change_nothing(parts, zero):
    tensors = {part: torch.full((2, 2), value) for part, value in parts.items()}
    assert zero_parts(tensors) == (set(parts) if zero == "all" else {zero} - {""})
