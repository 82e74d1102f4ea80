from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sma.networks.unet3d import SWAPPABLE, build_unet3d

CONFIG = {
    "_class_name": "UNet3DConditionModel",
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}


def host_like_operations() -> SimpleNamespace:
    """Subclasses that count their calls, as a host's cast-and-offload layers intercept theirs."""
    calls: list[str] = []

    def counting(base: type[nn.Module]) -> type[nn.Module]:
        def forward(self: nn.Module, *args: torch.Tensor) -> torch.Tensor:
            calls.append(base.__name__)
            return base.forward(self, *args)

        return type(base.__name__, (base,), {"forward": forward})

    return SimpleNamespace(calls=calls, **{name: counting(getattr(nn, name)) for name in SWAPPABLE})


def inputs(frames: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(2, 4, frames, 4, 6, generator=generator)
    return sample, torch.tensor([5, 700]), torch.randn(2, 2, 12, generator=generator)


@torch.no_grad()
def test_swapped_operations_keep_keys_and_results_and_are_used() -> None:
    plain = build_unet3d(CONFIG)
    operations = host_like_operations()
    swapped = build_unet3d(CONFIG, operations=operations)
    assert list(plain.state_dict()) == list(swapped.state_dict())
    swapped.load_state_dict(plain.state_dict())
    assert torch.equal(plain(*inputs()).sample, swapped(*inputs()).sample)
    assert {"Linear", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm"} <= set(operations.calls)
    assert not [
        name for name, module in swapped.named_modules() if type(module) in (nn.Linear, nn.Conv2d, nn.GroupNorm)
    ]


def test_no_buffer_is_left_uninitialised_by_a_build_without_weights() -> None:
    network = build_unet3d(CONFIG, operations=nn)
    assert set(dict(network.named_buffers())) == set()
    assert not [name for name, parameter in network.named_parameters() if parameter.is_meta]


def test_keys_and_forward_are_those_of_diffusers_own_class() -> None:
    from diffusers import UNet3DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = UNet3DConditionModel(**{k: v for k, v in CONFIG.items() if not k.startswith("_")}).eval()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    network = build_unet3d(CONFIG)
    network.load_state_dict(reference.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network.train()(*inputs()).sample, reference(*inputs()).sample)


def test_training_mode_draws_no_randomness() -> None:
    network = build_unet3d(CONFIG).train()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(network(*inputs()).sample, network(*inputs()).sample)


@pytest.mark.parametrize("operations", [None, nn])
def test_dtype_is_that_asked_for(operations: object) -> None:
    network = build_unet3d(CONFIG, operations=operations, dtype=torch.float64)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
