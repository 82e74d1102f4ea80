from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from sma.networks.unet3d import build_unet3d
from sma.roles import (
    FAMILIES,
    ROLES,
    check_frames,
    describe,
    family_of,
    family_of_layers,
    in_blocks,
    layers_of,
    matching,
    variant_of,
)
from sma.sprites.model import UNET_CONFIG

SITES = Path(__file__).parents[1] / "golden" / "motiondirector" / "lora_file_order_zeroscope.json"


def tree(names: Iterable[str], leaf: type[nn.Module] = nn.Linear) -> nn.Module:
    """A network of linear layers with these names, in this order."""
    root = nn.Module()
    for name in names:
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module._modules[parent]
        module.add_module(last, leaf(1, 1))
    return root


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return build_unet3d(UNET_CONFIG, device="meta")


@pytest.fixture
def wan() -> nn.Module:
    """Two blocks named as in the host's Wan, image-to-video layers included."""
    names = ["patch_embedding", "text_embedding.0", "head.head"]
    for block in range(2):
        names += [f"blocks.{block}.{attn}.{x}" for attn in ("self_attn", "cross_attn") for x in ("q", "k", "v", "o")]
        names += [f"blocks.{block}.cross_attn.k_img", f"blocks.{block}.ffn.0", f"blocks.{block}.ffn.2"]
    network = tree(names)
    for block in range(2):
        network.get_submodule(f"blocks.{block}.self_attn").add_module("norm_q", nn.LayerNorm(1))
    return network


def below(network: nn.Module, class_name: str) -> set[str]:
    """Linear and convolution layers inside modules of a class."""
    return {
        f"{outer}.{inner}"
        for outer, module in network.named_modules()
        if type(module).__name__ == class_name
        for inner, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d)
    }


def test_motion_layers_of_a_unet3d_are_exactly_those_that_see_several_frames(unet):
    transformers, convolutions = below(unet, "TemporalTransformer"), below(unet, "TemporalConvolution")
    motion = layers_of(unet, "motion")
    assert set(motion) == transformers | convolutions
    assert set(layers_of(unet, "temporal convolution")) == convolutions
    assert {type(unet.get_submodule(name)) for name in convolutions} == {nn.Conv3d}
    assert not set(motion) & below(unet, "SpatialTransformer")


def test_role_counts_of_the_sprites_network(unet):
    counts = {role: len(layers_of(unet, role)) for role in FAMILIES[0].roles}
    # 1 + 2 + 1 transformers of either kind in down, up and mid blocks; 8 residual blocks with 4 temporal convolutions each.
    assert counts == {
        "temporal attention": 4 * 10,
        "temporal q, k, v": 4 * 6,
        "temporal feed-forward": 4 * 2,
        "temporal convolution": 8 * 4,
        "temporal input": 10 + 2,
        "spatial attention": 4 * 4,
        "cross-attention": 4 * 4,
        "feed-forward": 4 * 2,
    }
    assert len(layers_of(unet, "motion")) == 40 + 8 + 32 + 12
    assert set(layers_of(unet, "temporal q, k, v")) < set(layers_of(unet, "temporal attention"))
    everything = layers_of(unet, "everything")
    assert len(everything) == len(set(everything)) == sum(counts.values()) - 4 * 6


def test_layers_come_in_the_networks_order(unet, wan):
    for network in (unet, wan):
        order = {name: index for index, (name, _) in enumerate(network.named_modules())}
        for role in ("motion", "everything"):
            indices = [order[name] for name in layers_of(network, role)]
            assert indices == sorted(indices)


def test_unet3d_roles_cover_motion_directors_sites_in_its_order():
    sites = json.loads(SITES.read_text())
    temporal, spatial = ([site["module"] for site in sites[kind]] for kind in ("temporal", "spatial"))
    assert (len(temporal), len(spatial)) == (170, 96)
    others = ["down_blocks.0.temp_convs.0.conv1.2", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"]
    others += ["down_blocks.0.attentions.0.proj_in", "down_blocks.0.resnets.0.conv1", "time_embedding.linear_1"]
    network = tree([*temporal, *spatial, *others])

    def chosen(*roles: str) -> list[str]:
        wanted = {name for role in roles for name in layers_of(network, role)}
        return [name for name, _ in network.named_modules() if name in wanted]

    in_order = [name for name, _ in network.named_modules()]
    ours = chosen("temporal attention", "temporal feed-forward", "temporal input")
    assert ours == sorted(temporal, key=in_order.index)
    assert chosen("spatial attention", "feed-forward") == sorted(spatial, key=in_order.index)
    assert set(layers_of(network, "motion")) == {*temporal, others[0]}
    assert layers_of(tree([*temporal, others[0]]), "motion")[:10] == temporal[:10]


def test_roles_of_wan(wan):
    family = family_of(wan)
    assert family.name == "Wan"
    expected = [f"blocks.{block}.self_attn.{x}" for block in range(2) for x in "qkvo"]
    assert layers_of(wan, "self-attention") == layers_of(wan, "motion") == expected
    image = [f"blocks.{block}.cross_attn.k_img" for block in range(2)]
    cross = [name.replace("self", "cross") for name in expected]
    assert layers_of(wan, "cross-attention") == [*cross[:4], image[0], *cross[4:], image[1]]
    assert layers_of(wan, "feed-forward") == [f"blocks.{block}.ffn.{x}" for block in range(2) for x in (0, 2)]
    assert len(layers_of(wan, "everything")) == 2 * (4 + 5 + 2)


def test_every_offered_role_is_of_some_family():
    assert ROLES[0] == "motion"
    assert ROLES[-1] == "everything"
    assert set(ROLES[1:-1]) == {role for family in FAMILIES for role in family.roles}
    assert len(set(ROLES)) == len(ROLES)
    for family in FAMILIES:
        assert set(family.motion) <= set(family.roles)


def test_role_of_another_family_is_refused_with_those_there_are(unet, wan):
    with pytest.raises(ValueError, match="UNet3D has no 'self-attention' layers; it has temporal attention, .* Choose"):
        layers_of(unet, "self-attention")
    with pytest.raises(ValueError, match="Wan has no 'temporal convolution' layers; it has self-attention, cross-att"):
        layers_of(wan, "temporal convolution")


def test_role_that_nothing_plays_is_refused_by_its_name():
    network = tree(["down_blocks.0.temp_convs.0.conv1.2", "conv_in"])
    with pytest.raises(ValueError, match=r"0 of 2 modules match the role 'cross-attention' of UNet3D, which are named"):
        layers_of(network, "cross-attention")


def test_network_of_no_known_family_is_refused_but_open_to_patterns():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    for role in ("motion", "everything"):
        with pytest.raises(
            ValueError,
            match=r"Sequential is no video network of a known family \(UNet3D, AnimateDiff, Wan, LTX-Video, HunyuanVideo\)",
        ):
            layers_of(network, role)
    assert matching(network, r"\d") == ["0", "2"]


def test_pattern_must_match_the_whole_name_of_an_adaptable_layer(unet):
    names = matching(unet, r"transformer_in\..*\.to_q")
    assert names == [f"transformer_in.transformer_blocks.0.attn{index}.to_q" for index in (1, 2)]
    every = matching(unet, ".*")
    assert {type(unet.get_submodule(name)) for name in every} == {nn.Linear, nn.Conv2d, nn.Conv3d}
    assert len(every) == sum(isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d) for layer in unet.modules())
    with pytest.raises(
        ValueError, match=rf"0 of {len(every)} modules match 'to_q', which are named like '.+'\. Choose"
    ):
        matching(unet, "to_q")


def test_bad_regular_expression_is_refused(unet):
    with pytest.raises(ValueError, match=r"'\(attn' is not a regular expression that can be read"):
        matching(unet, "(attn")


def test_layers_that_pool_or_upsample_by_a_kernel_are_no_choice():
    network = nn.Sequential(nn.MaxPool2d(2), nn.ConvTranspose2d(1, 1, 2), nn.Unfold(2), nn.Conv2d(1, 1, 1))
    assert matching(network, ".*") == ["3"]
    with pytest.raises(ValueError, match=r"0 of 0 modules match '\.\*'\. Choose other layers"):
        matching(network[:3], ".*")


def test_description_counts_what_is_adapted(unet, wan):
    names = layers_of(wan, "motion")
    assert describe(wan, names, 5, 17) == (
        "Wan 2.1 t2v, 2 blocks, 5 latent frames (17 frames), 8 of 25 modules adapted, attention joint over space and time"
    )
    assert describe(unet, iter(layers_of(unet, "motion")), 8, 8).startswith("UNet3D, 8 latent frames, 92 of ")
    assert (
        describe(nn.Sequential(nn.Linear(1, 1)), ["0"], 2, 2) == "Sequential, 2 latent frames, 1 of 1 modules adapted"
    )


@torch.no_grad()
def test_frames_meet_only_in_the_motion_layers_of_a_unet3d():
    torch.manual_seed(0)
    network = build_unet3d(UNET_CONFIG)
    x = torch.randn(1, 12, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, :, -1] += 1

    def first_frame(sample: torch.Tensor) -> torch.Tensor:
        return network(sample, torch.tensor([500]), torch.zeros(1, 2, 32))[:, :, 0]

    motion = [network.get_submodule(name) for name in layers_of(network, "motion")]
    for layer in motion:
        nn.init.normal_(layer.weight, std=0.05)
    assert (first_frame(x) - first_frame(changed)).abs().max() > 1e-3
    for layer in motion:
        nn.init.zeros_(layer.weight)
    assert (first_frame(x) - first_frame(changed)).abs().max() < 1e-6


@pytest.mark.parametrize(
    "names, family",
    [
        (["down_blocks.0.temp_attentions.0.transformer_blocks.0.attn1.to_q"], "UNet3D"),
        (["mid_block.motion_modules.0.transformer_blocks.0.attn2.to_out.0"], "AnimateDiff"),
        (["blocks.0.self_attn.q", "blocks.0.no_such_layer"], "Wan"),
        (["transformer_blocks.3.attn1.to_k"], "LTX-Video"),
        (["single_blocks.0.linear1"], "HunyuanVideo"),
    ],
)
def test_the_family_of_a_file_is_read_from_its_layer_names(names, family):
    assert family_of_layers(names).name == family


def test_unknown_layer_names_belong_to_no_family():
    assert family_of_layers(["conv_in", "head"]) is None


def wan_of(inputs: int, outputs: int, *, width: int = 8, image_branch: bool = False) -> nn.Module:
    """What tells one Wan from another."""
    network = tree(["blocks.0.self_attn.q"])
    network.get_submodule("blocks.0.self_attn").add_module("norm_q", nn.LayerNorm(1))
    network.add_module("patch_embedding", nn.Conv3d(inputs, width, (1, 2, 2), device="meta"))
    network.add_module("head", nn.Module())
    network.head.add_module("head", nn.Linear(width, 4 * outputs, device="meta"))
    network.img_emb = nn.Linear(1, 1) if image_branch else None
    return network


@pytest.mark.parametrize(
    "network, variant",
    [
        (wan_of(16, 16, width=1536), "2.1 t2v"),
        (wan_of(16, 16, width=5120), "2.1 or 2.2 t2v"),
        (wan_of(36, 16, image_branch=True), "2.1 i2v"),
        (wan_of(36, 16), "2.2 i2v"),
        (wan_of(48, 48), "2.2 ti2v"),
        (wan_of(52, 16), "variant of 52 input channels"),
    ],
)
def test_members_of_the_wan_family_are_told_apart_by_their_shapes(network, variant):
    assert variant_of(network) == variant
    assert describe(network, ["blocks.0.self_attn.q"], 2, 5).startswith(f"Wan {variant}, 1 blocks, 2 latent frames")


@pytest.mark.parametrize("inputs, image_reader, variant", [(16, False, "t2v"), (33, False, "i2v"), (65, True, "1.5")])
def test_members_of_the_hunyuan_family_are_told_apart(inputs, image_reader, variant):
    network = tree(["double_blocks.0.img_attn.qkv", "txt_in.individual_token_refiner.blocks.0.norm1", "img_in.x"])
    network.img_in.add_module("proj", nn.Conv3d(inputs, 8, (1, 2, 2), device="meta"))
    network.add_module("final_layer", nn.Module())
    network.final_layer.add_module("linear", nn.Linear(8, 4 * 16, device="meta"))
    if image_reader:
        network.add_module("vision_in", nn.Module())
    assert family_of(network).name == "HunyuanVideo"
    assert variant_of(network) == variant


def test_an_image_model_with_hunyuans_blocks_is_no_video_model():
    flux = tree(["double_blocks.0.img_attn.qkv", "single_blocks.0.linear1", "txt_in", "img_in"])
    with pytest.raises(ValueError, match="no video network"):
        family_of(flux)


def test_variants_are_of_known_families_only(unet):
    assert variant_of(unet) == variant_of(nn.Linear(1, 1)) == ""


FRAMES = [
    ("Wan", 16, 17),
    ("Wan", 14, 13),
    ("Wan", 15, 17),
    ("Wan", 81, 81),
    ("Wan", 2, 5),
    ("LTX-Video", 16, 17),
    ("LTX-Video", 100, 97),
    ("HunyuanVideo", 128, 129),
    ("UNet3D", 16, 16),
    ("AnimateDiff", 2, 2),
]


@pytest.mark.parametrize("name, frames, legal", FRAMES)
def test_legal_frame_counts(name, frames, legal):
    (family,) = (family for family in FAMILIES if family.name == name)
    assert family.nearest_frames(frames) == legal
    assert family.nearest_frames(legal) == legal


def test_sizes_are_multiples_of_what_the_vae_and_the_network_fold():
    multiples = {family.name: family.size_multiple for family in FAMILIES}
    assert multiples == {"UNet3D": 8, "AnimateDiff": 8, "Wan": 16, "LTX-Video": 32, "HunyuanVideo": 16}
    (wan,) = (family for family in FAMILIES if family.name == "Wan")
    assert [wan.nearest_side(pixels) for pixels in (480, 718, 3)] == [480, 720, 16]


def test_blocks_narrow_down_the_chosen_layers(wan):
    names = layers_of(wan, "motion")
    assert in_blocks(wan, names, " ") == names
    assert in_blocks(wan, names, "1") == [f"blocks.1.self_attn.{x}" for x in "qkvo"]
    assert in_blocks(wan, names, "0-1") == in_blocks(wan, names, "1, 0 ") == names
    assert in_blocks(wan, [*names, "head.head"], "0,1") == names


def test_blocks_of_several_lists_are_numbered_through():
    names = [f"double_blocks.{n}.img_attn.qkv" for n in range(2)] + [f"single_blocks.{n}.linear1" for n in range(3)]
    network = tree([*names, "txt_in.individual_token_refiner.blocks.0.norm1"])
    assert in_blocks(network, names, "1-2") == ["double_blocks.1.img_attn.qkv", "single_blocks.0.linear1"]


@pytest.mark.parametrize(
    "ranges, message",
    [
        ("0-9", "Blocks '0-9' go up to 9 and the network has 0 to 1. Choose among these."),
        ("1-0", "'1-0' in blocks '1-0' is no rising range; write it like 0-9, 20-29."),
        ("0,,1", "'' in blocks '0,,1' is no rising range"),
        ("first", "'first' in blocks 'first' is no rising range"),
        ("-1", "'-1' in blocks '-1' is no rising range"),
    ],
)
def test_blocks_that_are_none_are_refused(wan, ranges, message):
    with pytest.raises(ValueError, match=message):
        in_blocks(wan, layers_of(wan, "motion"), ranges)


def test_blocks_are_refused_where_there_are_none_or_none_is_left(unet, wan):
    with pytest.raises(ValueError, match="UNet3D has no numbered blocks; leave blocks empty"):
        in_blocks(unet, layers_of(unet, "motion"), "0-1")
    with pytest.raises(ValueError, match="None of the 1 chosen layers lies in blocks '0'. Choose"):
        in_blocks(wan, ["blocks.1.ffn.0"], "0")


def test_clips_longer_than_a_motion_module_places_are_refused(wan):
    network = tree([f"motion_modules.{n}.transformer_blocks.0.{x}" for n in range(2) for x in ("attn1", "pos_embed")])
    for n, length in enumerate((32, 24)):
        position = network.get_submodule(f"motion_modules.{n}.transformer_blocks.0.pos_embed")
        position.register_buffer("pe", torch.zeros(1, length, 4))
    check_frames(network, 24)
    with pytest.raises(
        ValueError, match="The clip has 25 frames and this AnimateDiff model places at most 24. Shorten"
    ):
        check_frames(network, 25)
    for open_ended in (wan, nn.Linear(1, 1)):
        check_frames(open_ended, 1000)
