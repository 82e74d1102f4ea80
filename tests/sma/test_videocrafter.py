from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sma.networks.unet3d import build_unet3d, unet3d_config_from_weights

CONFIG = {
    "_class_name": "UNet3DVideoCrafterConditionModel",
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "fps_cond": True,
}


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(2, 4, 3, 8, 8, generator=generator),
        "timestep": torch.tensor([10.0, 700.0]),
        "context": torch.randn(2, 5, 32, generator=generator),
    }


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_unet3d(CONFIG | {"fps": 8}).eval()


@torch.no_grad()
def test_the_rate_is_embedded_as_the_timestep_is_and_added_to_it(network):
    """Against a plain UNet3D whose timestep embedding gets the sinusoid of the rate, written out, through the same two layers."""
    weights = network.state_dict()
    own = {name: weights.pop(name) for name in list(weights) if name.startswith("fps_embedding")}
    plain = build_unet3d({name: value for name, value in CONFIG.items() if name != "fps_cond"}).eval()
    plain.load_state_dict(weights)
    angles = 8.0 * torch.tensor([math.exp(-math.log(10000.0) * i / 16) for i in range(16)])
    hidden = own["fps_embedding.linear_1.weight"] @ torch.cat([angles.cos(), angles.sin()])
    hidden = nn.functional.silu(hidden + own["fps_embedding.linear_1.bias"])
    rate = own["fps_embedding.linear_2.weight"] @ hidden + own["fps_embedding.linear_2.bias"]
    assert rate.abs().max() > 0.1
    plain.time_embedding.register_forward_hook(lambda module, args, output: output + rate)
    assert (plain(**inputs()) - network(**inputs())).abs().max() <= 1e-5


@torch.no_grad()
def test_another_rate_is_another_prediction_and_24_is_the_default(network):
    others = [build_unet3d(CONFIG | rate).eval() for rate in ({"fps": 24}, {})]
    for other in others:
        other.load_state_dict(network.state_dict())
    told, default = (other(**inputs()) for other in others)
    assert (told - network(**inputs())).abs().max() > 1e-2
    assert torch.equal(told, default)


def test_its_config_is_read_from_its_weights(network):
    read = unet3d_config_from_weights(network.state_dict())
    assert {name: read.get(name) for name in CONFIG if name not in ("_class_name", "norm_num_groups")} == {
        name: value for name, value in CONFIG.items() if name not in ("_class_name", "norm_num_groups")
    }
