from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sma.networks.unet3d import SWAPPABLE, build_unet3d
from sma.networks.unet3d_transformers import write_out_attention
from sma.sprites.model import UNET_CONFIG

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

# Widths that no head divides, other depths, and every value away from its default.
UNEVEN = {
    "in_channels": 4,
    "out_channels": 5,
    "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["CrossAttnUpBlock3D", "UpBlock3D", "CrossAttnUpBlock3D"],
    "block_out_channels": [12, 20, 28],
    "layers_per_block": 1,
    "downsample_padding": 0,
    "mid_block_scale_factor": 1.7,
    "act_fn": "mish",
    "norm_num_groups": 4,
    "norm_eps": 1e-4,
    "cross_attention_dim": 10,
    "attention_head_dim": 6,
    "time_cond_proj_dim": 7,
}
PADDED = {"downsample_padding": 1, "layers_per_block": 3, "act_fn": "gelu", "time_cond_proj_dim": None}


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
    assert torch.equal(plain(*inputs()), swapped(*inputs()))
    assert {"Linear", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm"} <= set(operations.calls)
    assert not [
        name for name, module in swapped.named_modules() if type(module) in (nn.Linear, nn.Conv2d, nn.GroupNorm)
    ]


def test_no_buffer_is_left_uninitialised_by_a_build_without_weights() -> None:
    network = build_unet3d(CONFIG, operations=nn)
    assert set(dict(network.named_buffers())) == set()
    assert not [name for name, parameter in network.named_parameters() if parameter.is_meta]


def pair(config: dict, std: float = 0.15) -> tuple[nn.Module, nn.Module]:
    """diffusers' own network and ours with its random weights, both in float64."""
    from diffusers import UNet3DConditionModel

    reference = UNet3DConditionModel.from_config(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    network = build_unet3d(config, dtype=torch.float64).train()
    network.load_state_dict(reference.state_dict())
    return reference, network


@pytest.mark.parametrize(
    ("config", "size"),
    [(UNET_CONFIG, (8, 8)), (CONFIG, (4, 6)), (UNEVEN, (13, 9)), (UNEVEN, (16, 8)), (UNEVEN | PADDED, (11, 16))],
    ids=["sprites", "small", "odd size", "even size", "other depth"],
)
def test_forward_and_gradients_are_those_of_diffusers_own_class(config: dict, size: tuple[int, int]) -> None:
    reference, network = pair(config)
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(2, config["in_channels"], 3, *size, generator=generator, dtype=torch.float64)
    context = torch.randn(2, 5, config["cross_attention_dim"], generator=generator, dtype=torch.float64)
    width = config.get("time_cond_proj_dim")
    condition = torch.randn(2, width, generator=generator, dtype=torch.float64) if width else None
    sample.requires_grad_()
    answers, gradients = [], []
    for unet in (reference, network):
        answer = unet(sample, torch.tensor([5, 700]), context, timestep_cond=condition)
        answers.append(answer if isinstance(answer, torch.Tensor) else answer.sample)
        parameters = dict(unet.named_parameters())
        loss = (
            answers[-1] * torch.linspace(-1, 1, answers[-1].numel(), dtype=torch.float64).view_as(answers[-1])
        ).sum()
        found = torch.autograd.grad(loss, [sample, *parameters.values()])
        gradients.append(dict(zip(["sample", *parameters], found, strict=True)))
    theirs, ours = (answer.detach() for answer in answers)
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * float(theirs.abs().max()))
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-10 * float(gradient.abs().max()))


def test_keys_and_first_weights_are_those_of_diffusers_own_class() -> None:
    from diffusers import UNet3DConditionModel

    states = []
    for build in (UNet3DConditionModel.from_config, build_unet3d):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            states.append(build(UNEVEN).state_dict())
    theirs, ours = states
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_silent_config_is_the_published_networks() -> None:
    from diffusers import UNet3DConditionModel

    with torch.device("meta"):
        reference = UNet3DConditionModel()
    shapes = {key: value.shape for key, value in reference.state_dict().items()}
    assert {key: value.shape for key, value in build_unet3d({}, device="meta").state_dict().items()} == shapes


def test_written_out_attention_is_attention() -> None:
    _, network = pair(CONFIG)
    sample, timestep, context = inputs()
    arguments = (sample.double(), timestep, context.double())
    with torch.no_grad():
        kernel = network(*arguments)
        write_out_attention(network)
        written = network(*arguments)
    assert not torch.equal(kernel, written)
    torch.testing.assert_close(written, kernel, rtol=0, atol=1e-12 * float(kernel.abs().max()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"down_block_types": ["DownBlock2D", "DownBlock3D"]},
            r"down_block_types \['DownBlock2D'.*a list of DownBlock3D and Cross",
        ),
        ({"up_block_types": ["UpBlock3D"]}, r"up_block_types \['UpBlock3D'\]; it must be 2 blocks"),
        ({"attention_head_dim": [8, 8]}, r"attention_head_dim \[8, 8\]; it must be a whole number from 1 to 65536"),
        ({"attention_head_dim": 9}, "attention_head_dim 9; it must be at most 8, the narrowest level"),
        ({"norm_num_groups": None}, "norm_num_groups None; it must be a whole number"),
        ({"norm_num_groups": 3}, "norm_num_groups 3; it must be a divisor of 8, 16"),
        ({"num_attention_heads": 4}, "num_attention_heads 4; it must be empty"),
        ({"act_fn": "tanh"}, "act_fn 'tanh'; it must be one of silu, swish"),
        ({"downsample_padding": 2}, "downsample_padding 2; it must be 0 or 1"),
        ({"block_out_channels": []}, r"block_out_channels \[\]; it must be widths of 1 to 65536"),
        ({"layers_per_block": 10**9}, "layers_per_block 1000000000; it must be a whole number from 1 to 65536"),
        ({"layers_per_block": 17}, "layers_per_block 17; it must be at most 16"),
        ({"block_out_channels": [32] * 10**6}, "it must be widths of 1 to 65536, 16 at most"),
        ({"act_fn": ["silu"]}, "act_fn .*; it must be one of"),
        ({"norm_eps": float("inf")}, "norm_eps inf; it must be a number above 0 and below 1e6"),
        ({"mid_block_scale_factor": 0}, "mid_block_scale_factor 0; it must be a number above 0"),
    ],
)
def test_a_value_that_it_does_not_know_is_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_unet3d(CONFIG | change, device="meta")


def test_training_mode_draws_no_randomness() -> None:
    network = build_unet3d(CONFIG).train()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(network(*inputs()), network(*inputs()))


@pytest.mark.parametrize("operations", [None, nn])
def test_dtype_is_that_asked_for(operations: object) -> None:
    network = build_unet3d(CONFIG, operations=operations, dtype=torch.float64)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
