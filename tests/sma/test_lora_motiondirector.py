"""MotionDirector's unnamed lists of tensors, matched with a text-to-video UNet by order and shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sma.lora import is_adaptable
from sma.lora_motiondirector import read_motiondirector
from sma.networks.unet3d import build_unet3d

GOLDEN = Path(__file__).parents[1] / "golden" / "motiondirector"


def zeroscope() -> dict[str, list[dict]]:
    return json.loads((GOLDEN / "lora_file_order_zeroscope.json").read_text())


@pytest.fixture(scope="module")
def network() -> dict[str, tuple[int, ...]]:
    """Names and weight shapes of ZeroScope's UNet, in its own module order."""
    unet = build_unet3d({"cross_attention_dim": 1024, "attention_head_dim": 64}, device="meta")
    return {name: tuple(layer.weight.shape) for name, layer in unet.named_modules() if is_adaptable(layer)}


def pt_list(rows: list[dict], copies: int = 1) -> list[Tensor]:
    tensors = []
    for index, row in enumerate(rows):
        for copy in range(copies):
            tensors.append(torch.full((row["out"], 1), float(index)))
            tensors.append(torch.full((1, row["in"]), float(copy)))
    return tensors


@pytest.mark.parametrize(("kind", "count"), [("temporal", 170), ("spatial", 96)])
def test_motiondirectors_lists_go_to_the_layers_of_the_golden_order(network, kind, count):
    rows = zeroscope()[kind]
    reading = read_motiondirector(pt_list(rows), network)
    assert len(reading.updates) == count
    assert list(reading.updates) == [row["module"] for row in rows]
    assert [float(update.up[0, 0]) for update in reading.updates.values()] == list(range(count))
    assert {update.scale for update in reading.updates.values()} == {1.0}
    assert reading.format == f"MotionDirector {kind}"


def test_spatial_loras_of_several_videos_are_told_apart(network):
    tensors = pt_list(zeroscope()["spatial"], copies=3)
    with pytest.raises(ValueError, match="holds 3 spatial LoRAs, one per training video; exactly one can be worn"):
        read_motiondirector(tensors, network)
    reading = read_motiondirector(tensors, network, video=2)
    assert len(reading.updates) == 96
    assert all(bool((update.down == 2.0).all()) for update in reading.updates.values())
    with pytest.raises(ValueError, match="video is 3; this MotionDirector file holds 3 spatial LoRAs. Use 0 to 2"):
        read_motiondirector(tensors, network, video=3)


def test_lists_of_another_network_are_refused(network):
    rows = zeroscope()["temporal"]
    with pytest.raises(
        ValueError, match="holds 169 unnamed pairs and the model has 170 temporal and 96 spatial layers"
    ):
        read_motiondirector(pt_list(rows[:-1]), network)
    swapped = pt_list([rows[1], *rows[8:9], *rows[2:8], rows[0], *rows[9:]])
    with pytest.raises(ValueError, match=r"170 unnamed pairs .* \(transformer_in.*\) is \[.*\], which does not fit"):
        read_motiondirector(swapped, network)
    for tensors in ([], [torch.ones(2, 2)]):
        with pytest.raises(ValueError, match="unnamed pairs"):
            read_motiondirector(tensors, network)
    with pytest.raises(ValueError, match="the model has 0 temporal and 0 spatial layers"):
        read_motiondirector(pt_list(rows), {"blocks.0.self_attn.q": (8, 8)})
