"""A LoRA of diffusers' UNetMotionModel in the files that diffusers and AnimateDiff-Evolved load."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sma.lora import attach
from sma.lora_formats import to_format
from sma.lora_reading import read_lora
from sma.networks.animatediff import diffusers_name
from sma.roles import layers_of


@pytest.fixture
def network() -> nn.Module:
    """Motion modules on every level and in the mid block, as mm_sd_v15_v2 has them."""
    from diffusers import UNetMotionModel

    torch.manual_seed(0)
    network = UNetMotionModel(
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
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def answer(network: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 5, 8, 8, generator=generator)
    text = torch.randn(5, 2, 12, generator=generator)
    with torch.no_grad():
        return network(x, torch.tensor([700]), encoder_hidden_states=text).sample


def trained(network: nn.Module, roles: tuple[str, ...] = ("motion",)) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    names = [name for role in roles for name in layers_of(network, role)]
    adapter = attach(network, names, rank=4, alpha=2.0, generator=generator)
    with torch.no_grad():
        for name, value in adapter.named_parameters():
            if name.endswith(".up"):
                value.normal_(std=0.2, generator=generator)
    hooked = answer(network)
    adapter.detach()
    return hooked, adapter.export("diffusion_model.")


@pytest.mark.parametrize("roles", [("motion",), ("motion", "spatial attention", "feed-forward")])
def test_diffusers_loads_it_as_it_was_trained(network, roles):
    pytest.importorskip("peft", reason="diffusers loads LoRAs through PEFT, which is not installed")
    base = answer(network)
    hooked, lora = trained(network, roles)
    export = to_format(lora, "diffusers")
    network.load_lora_adapter(dict(export.tensors), prefix="unet", adapter_name="motion")
    adapted = [name for name, module in network.named_modules() if hasattr(module, "lora_A") and module.lora_A]
    assert len(adapted) == export.written == len(lora) // 3
    torch.testing.assert_close(answer(network), hooked, rtol=0, atol=1e-5)
    assert (hooked - base).abs().max() > 1e-2


def test_animatediff_evolved_patches_what_was_trained(network):
    """Its rule, written out on the network's weights under their original names: W += up @ down."""
    base = answer(network)
    hooked, lora = trained(network)
    export = to_format(lora, "animatediff")
    assert (export.written, export.left_out) == (len(lora) // 3, 0)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    patched = 0
    for key, down in export.tensors.items():
        assert "temporal" in key  # the loader drops other keys
        if ".down." not in key:
            continue
        name = key.replace("processor.", "").replace("_lora", "").replace("down.", "")
        name = diffusers_name(name)
        weights[name] += export.tensors[key.replace(".down.", ".up.")] @ down
        patched += 1
    assert patched == export.written
    network.load_state_dict(weights)
    torch.testing.assert_close(answer(network), hooked, rtol=0, atol=1e-5)
    assert (hooked - base).abs().max() > 1e-2


def test_a_written_file_names_every_motion_layer_of_the_network(network):
    _, lora = trained(network)
    modules = {
        name: tuple(m.weight.shape) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    }
    for format in ("comfyui", "diffusers", "kohya", "animatediff"):
        reading = read_lora(to_format(lora, format).tensors, modules)
        assert list(reading.updates) == layers_of(network, "motion"), format
        assert reading.unmatched == ()


def test_spatial_layers_are_left_out_of_animatediff_evolveds_file(network):
    _, lora = trained(network, ("motion", "spatial attention"))
    export = to_format(lora, "animatediff")
    assert export.written == len(layers_of(network, "motion"))
    assert export.left_out == len(layers_of(network, "spatial attention"))
