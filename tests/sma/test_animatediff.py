"""Our AnimateDiff network against diffusers' own, for the layouts of the three published motion modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sma.lora import is_adaptable
from sma.networks.animatediff import (
    adapter_config_from_weights,
    build_unet_motion,
    frame_positions,
    motion_module_weights,
    unet_motion_config,
)
from sma.roles import family_of, layers_of

UNET2D = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SD15 = {
    "_class_name": "UNet2DConditionModel",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "layers_per_block": 2,
}
# Position tables and mid block of mm_sd_v15, mm_sd_v15_v2 and v3_sd15_mm.
LAYOUTS = {"v1": (24, False), "v2": (32, True), "v3": (32, False)}


def adapter_config(layout: str, **changes: Any) -> dict[str, Any]:
    frames, mid = LAYOUTS[layout]
    return {
        "block_out_channels": [16, 32],
        "motion_layers_per_block": 1,
        "motion_norm_num_groups": 8,
        "motion_max_seq_length": frames,
        "use_motion_mid_block": mid,
    } | changes


def filled(network: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return network.eval()


@pytest.fixture(params=LAYOUTS)
def reference(request) -> tuple[str, nn.Module, nn.Module, nn.Module]:
    """Layout, a 2-D UNet, a motion adapter, and the network diffusers makes of both."""
    from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

    unet = filled(UNet2DConditionModel.from_config(dict(UNET2D)), 1)
    adapter = filled(MotionAdapter(**adapter_config(request.param)), 2)
    return request.param, unet, adapter, UNetMotionModel.from_unet2d(unet, adapter).eval()


def original(adapter: nn.Module, *, prefix: str = "", positions: bool = True) -> dict[str, Tensor]:
    """An adapter's weights as the original repository writes them."""
    tensors = {}
    for name, tensor in adapter.state_dict().items():
        head, _, tail = name.partition(".transformer_blocks.")
        if not tail:
            module, index, rest = (
                name.partition("motion_modules.")[0],
                *name.partition("motion_modules.")[2].split(".", 1),
            )
            tensors[f"{prefix}{module}motion_modules.{index}.temporal_transformer.{rest}"] = tensor
            continue
        block = f"{prefix}{head}.temporal_transformer.transformer_blocks.{tail.split('.')[0]}"
        tail = tail.split(".", 1)[1]
        kind, _, rest = tail.partition(".")
        if kind == "pos_embed":
            if positions:
                for attention in range(2):
                    tensors[f"{block}.attention_blocks.{attention}.pos_encoder.pe"] = tensor
        elif kind == "norm3":
            tensors[f"{block}.ff_norm.{rest}"] = tensor
        elif kind.startswith("norm"):
            tensors[f"{block}.norms.{int(kind[-1]) - 1}.{rest}"] = tensor
        elif kind.startswith("attn"):
            tensors[f"{block}.attention_blocks.{int(kind[-1]) - 1}.{rest}"] = tensor
        else:
            tensors[f"{block}.{tail}"] = tensor
    return tensors


def inputs(frames: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(2 * frames, 2, 12, generator=generator)
    return torch.randn(2, 4, frames, 8, 6, generator=generator), torch.tensor([5, 700]), text


@pytest.mark.parametrize("operations", [None, nn])
def test_network_of_two_files_is_that_of_diffusers(reference, operations):
    _, unet, adapter, theirs = reference
    weights = motion_module_weights(adapter.state_dict())
    config = unet_motion_config(unet.config, adapter_config_from_weights(weights), group_norm="diffusers")
    ours = build_unet_motion(config, operations=operations)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(unet.state_dict() | weights)
    for frames in (1, 5):
        with torch.no_grad():
            torch.testing.assert_close(
                ours.train()(*inputs(frames)).sample, theirs(*inputs(frames)).sample, rtol=0, atol=1e-5
            )


def test_config_is_that_of_diffusers(reference):
    _, unet, adapter, theirs = reference
    for config in (adapter.config, adapter_config_from_weights(motion_module_weights(adapter.state_dict()))):
        ours = build_unet_motion(unet_motion_config(unet.config, config), device="meta").config
        layers = {"layers_per_block", "temporal_transformer_layers_per_block"}
        assert {k: v for k, v in ours.items() if k not in layers} == {
            k: v for k, v in theirs.config.items() if k not in layers
        }


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("positions", [True, False])
def test_original_files_give_the_same_weights(reference, prefix, positions):
    layout, _, adapter, _ = reference
    expected = adapter.state_dict()
    found = motion_module_weights(original(adapter, prefix=prefix, positions=positions))
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        if name.endswith("pos_embed.pe") and not positions:
            assert found[name].shape[1] == 32
            torch.testing.assert_close(found[name][:, :24], tensor[:, :24])
        else:
            assert torch.equal(found[name], tensor)
    if positions:
        assert adapter_config_from_weights(found)["motion_max_seq_length"] == LAYOUTS[layout][0]


def test_names_are_those_of_the_original_repository(reference):
    names = list(original(reference[2]))
    assert "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight" in names
    block = "up_blocks.1.motion_modules.1.temporal_transformer.transformer_blocks.0"
    for name in ("attention_blocks.0.to_q.weight", "attention_blocks.1.pos_encoder.pe", "norms.1.bias"):
        assert f"{block}.{name}" in names
    assert f"{block}.ff_norm.weight" in names
    assert f"{block}.ff.net.0.proj.weight" in names


def test_modules_with_several_blocks_or_layers_are_counted():
    from diffusers import MotionAdapter

    config = adapter_config("v2", motion_layers_per_block=[1, 2], motion_transformer_layers_per_block=[2, 1])
    config |= {"motion_mid_block_layers_per_block": 1, "motion_transformer_layers_per_mid_block": [3]}
    adapter = MotionAdapter(**config)
    found = adapter_config_from_weights(motion_module_weights(adapter.state_dict()))
    assert (found["motion_layers_per_block"], found["motion_transformer_layers_per_block"]) == ([1, 2], [2, 1])
    assert found["motion_transformer_layers_per_mid_block"] == 3
    network = build_unet_motion(unet_motion_config(UNET2D | {"layers_per_block": [1, 2]}, found), device="meta")
    assert {name for name in network.state_dict() if "motion_modules" in name} == set(adapter.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_positions_are_real_and_exact_in_any_dtype(dtype):
    from diffusers.models.embeddings import SinusoidalPositionalEmbedding

    network = build_unet_motion(unet_motion_config(UNET2D, adapter_config("v1")), operations=nn, dtype=dtype)
    tables = {name: buffer for name, buffer in network.named_buffers() if name.endswith("pe")}
    # 1 + 1 modules on the way down, 2 + 2 on the way up.
    assert len(tables) == len(dict(network.named_buffers())) == 6
    for table in tables.values():
        assert torch.equal(table, SinusoidalPositionalEmbedding(table.shape[2], 24).pe)
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    with torch.no_grad():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
        sample, timestep, text = inputs(3)
        assert network(sample.to(dtype), timestep, text.to(dtype)).sample.dtype == dtype


def test_position_table_is_that_of_the_paper():
    table = frame_positions(3, 4)
    expected = [[0.0, 1.0, 0.0, 1.0]] + [
        [f(torch.tensor(n * w)).item() for w in (1.0, 0.01) for f in (torch.sin, torch.cos)] for n in (1.0, 2.0)
    ]
    torch.testing.assert_close(table, torch.tensor([expected]))


def test_more_frames_than_the_module_knows_are_refused():
    network = filled(build_unet_motion(unet_motion_config(UNET2D, adapter_config("v1"))), 0)
    with torch.no_grad():
        assert network(*inputs(24)).sample.shape[2] == 24
        with pytest.raises(ValueError, match=r"has 25 frames .* at most 24\. Take 24 frames or fewer\.$"):
            network(*inputs(25))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"block_out_channels": [16, 64]}, r"has widths 16-64 and the base model 16-32\. Choose a motion module"),
        ({"block_out_channels": [16, 32, 32]}, "has widths 16-32-32 and the base model 16-32"),
        ({"motion_layers_per_block": 2}, "has layers per block 2-2 and the base model 1-1"),
        ({"conv_in_channels": 9}, "has input channels 9 and the base model 4"),
    ],
)
def test_motion_modules_of_other_networks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        unet_motion_config(UNET2D, adapter_config("v3", **changes))


def test_files_without_a_motion_module_are_refused():
    with pytest.raises(ValueError, match="None of the file's 1 tensors is of an AnimateDiff motion module"):
        motion_module_weights({"conv_in.weight": torch.zeros(1)})
    half = motion_module_weights({"up_blocks.0.motion_modules.0.transformer_blocks.0.norm1.weight": torch.ones(8)})
    with pytest.raises(ValueError, match="has no down blocks, so it is not whole"):
        adapter_config_from_weights(half)


@pytest.mark.parametrize("layout, modules", [("v1", 20), ("v2", 21), ("v3", 20)])
def test_roles_at_the_size_of_sd15(layout, modules):
    adapter = adapter_config(layout, block_out_channels=[320, 640, 1280, 1280], motion_layers_per_block=2)
    network = build_unet_motion(unet_motion_config(SD15, adapter), device="meta")
    assert family_of(network).name == "AnimateDiff"
    motion = layers_of(network, "motion")
    blocks = {
        f"{outer}.{inner}"
        for outer, transformer in network.named_modules()
        if type(transformer).__name__ == "AnimateDiffTransformer3D"
        for inner, layer in transformer.named_modules()
        if isinstance(layer, nn.Linear)
    }
    projections = {name for name in blocks if name.endswith((".proj_in", ".proj_out"))}
    assert set(motion) == blocks - projections
    assert set(layers_of(network, "temporal projection")) == projections
    assert (len(motion), len(projections)) == (10 * modules, 2 * modules)
    # 6 + 1 + 9 spatial transformers; their projections are 1x1 convolutions.
    image_sites = {
        "spatial attention": 16 * 4,
        "cross-attention": 16 * 4,
        "feed-forward": 16 * 2,
        "spatial projection": 16 * 2,
    }
    assert {role: len(layers_of(network, role)) for role in image_sites} == image_sites
    assert all(is_adaptable(network.get_submodule(name)) for name in layers_of(network, "everything"))


@pytest.mark.parametrize("operations", [None, nn])
def test_every_layer_is_given_its_input_by_position(operations):
    network = filled(build_unet_motion(unet_motion_config(UNET2D, adapter_config("v2")), operations=operations), 0)
    given = []
    for layer in network.modules():
        if is_adaptable(layer):
            layer.register_forward_hook(lambda layer, arguments, output: given.append(arguments[0].shape[0]))
    with torch.no_grad():
        network(*inputs(2))
    assert len(given) == sum(is_adaptable(layer) for layer in network.modules())


@torch.no_grad()
def test_frames_meet_only_in_the_motion_modules():
    network = filled(build_unet_motion(unet_motion_config(UNET2D, adapter_config("v2"))), 4)
    sample, timestep, text = inputs(4)
    text = torch.zeros_like(text)
    changed = sample.clone()
    changed[:, :, -1] += 1

    def first_frame(x: Tensor) -> Tensor:
        return network(x, timestep, text).sample[:, :, 0]

    assert (first_frame(sample) - first_frame(changed)).abs().max() > 1e-3
    for name, layer in network.named_modules():
        if name.endswith("proj_out") and "motion_modules" in name:
            nn.init.zeros_(layer.weight)
    torch.testing.assert_close(first_frame(sample), first_frame(changed), rtol=0, atol=1e-5)
