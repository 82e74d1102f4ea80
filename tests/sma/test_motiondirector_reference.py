"""MotionDirector's own passes over a small network with one temporal and two spatial LoRAs, against its code's numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sma.image_pass import image_pass
from sma.lora import attach
from sma.networks.unet3d import build_unet3d

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
CASE = GOLDEN / "motiondirector" / "tiny_unet_two_videos.json"
pytestmark = pytest.mark.skipif(
    not CASE.is_file(), reason="the folder ../shared/golden with 5 MB of weights is missing"
)
RANK = 4


@pytest.fixture(scope="module")
def case():
    """(network, adapter with the groups temporal, spatial 0, spatial 1, tensors, tolerances)"""
    about = json.loads(CASE.read_text())
    tensors = load_file(CASE.with_suffix(".safetensors"))
    config = json.loads((GOLDEN / "tiny_unet" / "tinyB.json").read_text())["config"]
    network = build_unet3d(config)
    network.load_state_dict(load_file(GOLDEN / "tiny_unet" / "tinyB.safetensors"))
    network.requires_grad_(False).eval()
    groups, values = {"temporal": [], "spatial 0": [], "spatial 1": []}, {}
    for key, entry in about["tensors"].items():
        match = re.fullmatch(r"(temporal|spatial)\.(\d+)\.(up|down)", key)
        if match is None:
            continue
        # The LoRA of the second video wraps that of the first, whose layer it keeps as `linear`.
        site = entry["desc"].removesuffix(".linear")
        group = match[1] if match[1] == "temporal" else f"spatial {int(match[2]) % 2}"
        if match[3] == "up":
            groups[group].append(site)
        values[group, site, match[3]] = tensors[key]
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    adapter = attach(network, names, rank=RANK, alpha=RANK, groups=groups, generator=torch.Generator().manual_seed(0))
    spatial = set(groups["spatial 0"])
    assert spatial == set(groups["spatial 1"])
    adapter.load_state_dict(
        {
            f"{f'{group}/{site}' if site in spatial else site}.{part}": value
            for (group, site, part), value in values.items()
        }
    )
    yield network, adapter, tensors, about
    adapter.detach()


@pytest.fixture
def forward(case):
    network, adapter, tensors, about = case

    def run(*groups: str, frames: int = 5):
        adapter.enable(**{group: group in groups for group in adapter.groups})
        with image_pass(network):
            x = tensors["latents"][:, :, :frames]
            return network(x, torch.tensor([about["params"]["t"]]), tensors["context"])

    return run


@pytest.mark.parametrize(
    ("name", "groups", "frames"),
    [
        ("base_F", (), 5),
        ("base_1", (), 1),
        ("temporal_only_F", ("temporal",), 5),
        ("spatial_1", ("spatial 1",), 1),
        ("both_F", ("temporal", "spatial 1"), 5),
    ],
)
def test_passes_are_those_of_the_reference(case, forward, name, groups, frames):
    _, _, tensors, about = case
    with torch.no_grad():
        answer = forward(*groups, frames=frames)
    torch.testing.assert_close(answer, tensors[name], **about["tolerance"])
    if groups:
        base = tensors["base_F" if frames > 1 else "base_1"]
        assert (tensors[name] - base).abs().max() > 10 * about["tolerance"]["atol"]


def test_one_frame_through_the_temporal_layers_is_another_picture(case, forward):
    """Else the image pass would prove nothing."""
    network, adapter, tensors, about = case
    adapter.enable(**dict.fromkeys(adapter.groups, False))
    with torch.no_grad():
        x = tensors["latents"][:, :, :1]
        through = network(x, torch.tensor([about["params"]["t"]]), tensors["context"])
    assert (through - tensors["base_1"]).abs().max() > 1e-2
    assert not network._forward_pre_hooks


def test_temporal_gradient_is_that_of_the_reference_and_the_frozen_spatial_one_is_none(case, forward):
    _, adapter, tensors, about = case
    adapter.freeze(**{"temporal": False, "spatial 0": True, "spatial 1": True})
    try:
        error = forward("temporal", "spatial 1") - tensors["target"]
        error.square().mean().backward()
    finally:
        adapter.freeze(**dict.fromkeys(adapter.groups, False))
    ups = [value for name, value in adapter.named_parameters(["temporal"]) if name.endswith(".up")]
    sums = torch.stack([value.grad.abs().sum() for value in ups])
    torch.testing.assert_close(sums, tensors["grad_temporal_up_sum"], **about["tolerance"])
    spatial = [*adapter.parameters(["spatial 0"]), *adapter.parameters(["spatial 1"])]
    assert all(value.grad is None for value in spatial)
