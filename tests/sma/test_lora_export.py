"""What goes in and out of an adapter: files, states, and what is refused at its door."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from sma.lora import Adapter, attach

NAMES = ["inner.0", "inner.2"]
GROUPS = {"spatial": ["inner.2"], "temporal": ["inner.0"]}
PREFIX = "diffusion_model."


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network() -> nn.Module:
    """[B, 3, F, H, W] -> [B, 5, F, H, W]."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv3d(3, 6, (3, 1, 1), padding=(1, 0, 0)), nn.SiLU(), nn.Conv3d(6, 5, 1))
    return nn.ModuleDict({"inner": inner}).requires_grad_(False)


def answer(network: nn.Module) -> Tensor:
    return network["inner"](torch.randn(2, 3, 5, 3, 2, generator=generator(7)))


def attached(network: nn.Module, seed: int = 0, **changes) -> Adapter:
    options = {"names": NAMES, "rank": 4, "alpha": 3.0, "groups": GROUPS, "generator": generator(seed)} | changes
    adapter = attach(network, **options)
    with torch.no_grad():
        for value in adapter.parameters():
            value.normal_(std=0.4, generator=options["generator"])
    return adapter


def untouched(network: nn.Module) -> bool:
    return not any(module._forward_hooks for module in network.modules())


def written_out(network: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
    """The answer of a network without hooks, every LoRA of a file merged as its readers do: W + alpha / rank * B A."""
    merged = {name: value.clone() for name, value in network.state_dict().items()}
    for name in {key.removeprefix(PREFIX).rsplit(".lora_")[0] for key in tensors if ".lora_" in key}:
        down, up = (tensors[f"{PREFIX}{name}.lora_{side}.weight"] for side in "AB")
        scale = float(tensors[f"{PREFIX}{name}.alpha"]) / len(down)
        merged[f"{name}.weight"] += scale * torch.einsum("or,ri...->oi...", up.flatten(1), down)
    x = torch.randn(2, 3, 5, 3, 2, generator=generator(7))
    return torch.func.functional_call(network["inner"], {k.removeprefix("inner."): v for k, v in merged.items()}, x)


def test_export_holds_every_layer_under_the_files_keys(network):
    adapter = attached(network)
    tensors = adapter.export(PREFIX)
    sides = ("lora_A.weight", "lora_B.weight", "alpha")
    assert list(tensors) == [f"{PREFIX}{name}.{side}" for name in NAMES for side in sides]
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in tensors.values())
    first, second = (float(tensors[f"{PREFIX}{name}.alpha"]) for name in NAMES)
    assert (first, second) == (3 / 4 * 3, 3.0)  # inner.0 has 3 channels to adapt, so its rank is 3 of the 4 asked for
    assert tensors[f"{PREFIX}inner.0.lora_A.weight"].shape == (3, 3, 3, 1, 1)
    assert tensors[f"{PREFIX}inner.2.lora_B.weight"].shape == (5, 4, 1, 1, 1)
    hooked = answer(network)
    adapter.detach()
    torch.testing.assert_close(written_out(network, tensors), hooked, rtol=1e-5, atol=1e-5)
    assert (hooked - answer(network)).abs().max() > 0.1


def test_export_has_no_alpha_where_the_scale_is_1(network):
    """Loaders do not scale without one, and some refuse a file that has one. Clamped ranks included."""
    adapter = attached(network, alpha=4.0)
    tensors = adapter.export(PREFIX)
    assert list(tensors) == [f"{PREFIX}{name}.lora_{side}.weight" for name in NAMES for side in "AB"]
    hooked = answer(network)
    adapter.detach()
    other = attached(network, seed=5, alpha=3.0)
    other.load_export(tensors, PREFIX)
    torch.testing.assert_close(answer(network), hooked, rtol=1e-5, atol=1e-5)


def test_export_of_one_group_holds_that_group_alone(network):
    adapter = attached(network)
    tensors = adapter.export(PREFIX, ["temporal"])
    assert {key.split(".lora_")[0].removesuffix(".alpha") for key in tensors} == {PREFIX + "inner.0"}
    adapter.enable(spatial=False)
    hooked = answer(network)
    adapter.detach()
    torch.testing.assert_close(written_out(network, tensors), hooked, rtol=1e-5, atol=1e-5)
    assert list(adapter.export(PREFIX, (name for name in GROUPS))) == list(adapter.export(PREFIX))
    with pytest.raises(ValueError, match="no group 'motion'"):
        adapter.export(PREFIX, ["motion"])


def test_exported_values_are_copies(network):
    adapter = attached(network)
    tensors, state = adapter.export(PREFIX), adapter.state_dict()
    with torch.no_grad():
        for value in adapter.parameters():
            value.zero_()
    assert all(tensor.abs().sum() > 0 for tensor in (*tensors.values(), *state.values()))


@pytest.mark.parametrize("alpha", [3.0, 0.7, 40.0])
def test_export_read_into_an_adapter_of_another_alpha_acts_the_same(network, alpha):
    adapter = attached(network)
    expected, tensors = answer(network), adapter.export(PREFIX)
    adapter.detach()
    other = attached(network, seed=5, alpha=alpha)
    assert not torch.allclose(answer(network), expected, atol=1e-3)
    other.load_export(tensors, PREFIX)
    torch.testing.assert_close(answer(network), expected, rtol=1e-5, atol=1e-6)
    if alpha == 3.0:
        assert torch.equal(answer(network), expected)


def test_file_without_alpha_is_read_as_unscaled(network):
    adapter = attached(network)
    tensors = {key: value for key, value in adapter.export(PREFIX).items() if not key.endswith("alpha")}
    adapter.detach()
    unscaled = tensors | {f"{PREFIX}{name}.alpha": torch.tensor(rank) for name, rank in zip(NAMES, (3, 4), strict=True)}
    other = attached(network, seed=5)
    other.load_export(tensors, PREFIX)
    hooked = answer(network)
    other.detach()
    torch.testing.assert_close(hooked, written_out(network, unscaled), rtol=1e-5, atol=1e-5)


def test_file_of_other_layers_is_refused(network):
    adapter = attached(network)
    tensors, before = adapter.export(PREFIX), adapter.state_dict()
    strange = tensors | {f"{PREFIX}inner.9.lora_B.weight": torch.zeros(2, 2)}
    for bad in (strange, adapter.export("unet."), adapter.export(PREFIX, ["temporal"]), {}):
        with pytest.raises(ValueError, match="tensor names differ"):
            adapter.load_export(bad, PREFIX)
    assert all(torch.equal(value, before[name]) for name, value in adapter.state_dict().items())


def test_state_goes_back_in_exactly(network):
    adapter = attached(network)
    expected, state = answer(network), adapter.state_dict()
    adapter.detach()
    other = attached(network, seed=5)
    identities = [id(value) for value in other.parameters()]
    other.load_state_dict(state)
    assert torch.equal(answer(network), expected)
    assert [id(value) for value in other.parameters()] == identities
    assert all(value.requires_grad for value in other.parameters())


def test_state_of_other_layers_or_rank_is_refused_whole(network):
    adapter = attached(network)
    before = adapter.state_dict()
    half = {name: value * 2 for name, value in before.items() if name.startswith("inner.0")}
    with pytest.raises(ValueError, match=r"2 tensor names differ .* 'inner.2.down'. Choose the layers"):
        adapter.load_state_dict(half)
    with pytest.raises(ValueError, match=r"1 tensor names differ .* 'inner.5.up'"):
        adapter.load_state_dict(before | {"inner.5.up": torch.zeros(1)})
    wider = half | {"inner.2.down": torch.zeros(5, 6, 1, 1, 1), "inner.2.up": torch.zeros(5, 5, 1, 1, 1)}
    with pytest.raises(ValueError, match=r"inner.2.down is \[5, 6, 1, 1, 1\] in the state and \[4, 6, 1, 1, 1\] here"):
        adapter.load_state_dict(wider)
    assert all(torch.equal(value, before[name]) for name, value in adapter.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": []}, "0 modules were selected"),
        ({"names": ["inner.0", "inner.7"], "groups": None}, "1 of 2 names are no modules of the network.*'inner.7'"),
        ({"names": ["inner.0", "inner.1"], "groups": None}, "inner.1 is a SiLU; LoRA needs a linear or convolution"),
        ({"names": [*NAMES, "inner.0"], "groups": None}, "'inner.0' is selected 2 times and in groups 2 times"),
        ({"groups": {"a": ["inner.0"]}}, "'inner.2' is selected 1 times and in groups 0 times"),
        ({"groups": {"a": [*NAMES, "inner.2"]}}, "'inner.2' is selected 1 times and in groups 2 times"),
        ({"groups": GROUPS | {"b": ["inner.9"]}}, "'inner.9' is selected 0 times and in groups 1 times"),
        ({"rank": 0}, "rank is 0; it must be at least 1"),
        ({"rank": 2.5}, "rank is 2.5; it must be a whole number"),
        ({"alpha": 0.0}, "alpha is 0.0; it must be above 0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"alpha": math.inf}, "alpha is inf"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"init": "zeros"}, "Unknown init 'zeros'; use one of kaiming, normal_1_over_r"),
    ],
)
def test_bad_input_is_refused_and_leaves_no_hook(network, changes, message):
    with pytest.raises(ValueError, match=message):
        attached(network, **changes)
    assert untouched(network)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "groups=2 and padding_mode='zeros'; LoRA needs groups=1"),
        (nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), "groups=1 and padding_mode='circular'"),
        (nn.ConvTranspose2d(4, 4, 3), "1 is a ConvTranspose2d; LoRA needs a linear or convolution layer"),
        (nn.MaxPool2d(2), "1 is a MaxPool2d; LoRA needs a linear or convolution layer"),
        (nn.Embedding(3, 4), "1 is a Embedding; LoRA needs a linear or convolution layer"),
    ],
)
def test_layers_without_a_low_rank_form_are_refused(layer, message):
    network = nn.Sequential(nn.Linear(4, 4), layer)
    with pytest.raises(ValueError, match=message):
        attach(network, ["0", "1"], rank=2, alpha=2, generator=generator())
    assert untouched(network)


def test_convolution_that_pads_by_itself_is_refused_when_it_runs():
    class Causal(nn.Conv3d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.pad(x, (0, 0, 0, 0, 2, 0)))

    network = nn.Sequential(Causal(3, 3, (3, 1, 1)))
    attach(network, ["0"], rank=2, alpha=2, generator=generator())
    # One frame would come out of the update, and broadcast over three.
    with pytest.raises(ValueError, match=r"0 answers \[1, 3, 3, 2, 2\] where its settings give \[1, 3, 1, 2, 2\]"):
        network(torch.zeros(1, 3, 3, 2, 2))
