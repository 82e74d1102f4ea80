from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sma.lora import Adapter, attach

# Layers with an input that leaves a remainder at every stride.
LAYERS = {
    "linear": (nn.Linear(5, 7), (2, 3, 5)),
    "linear without bias": (nn.Linear(6, 3, bias=False), (4, 6)),
    "conv1d": (nn.Conv1d(3, 5, 3, stride=2, padding=1, dilation=2), (2, 3, 9)),
    "conv2d": (nn.Conv2d(4, 3, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(2, 1)), (2, 4, 7, 9)),
    "conv2d same": (nn.Conv2d(3, 6, 3, padding="same", dilation=2), (1, 3, 7, 5)),
    "conv3d over time": (nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0)), (2, 3, 5, 3, 4)),
    "conv3d": (nn.Conv3d(2, 5, (3, 3, 2), stride=(1, 2, 1), padding=(1, 0, 1), dilation=(2, 1, 2)), (1, 2, 7, 6, 5)),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fill(adapter: Adapter, seed: int = 1) -> Adapter:
    """Values as if trained; a fresh adapter changes nothing."""
    source = generator(seed)
    with torch.no_grad():
        for name, value in adapter.named_parameters():
            if name.endswith(".up"):
                value.normal_(std=0.3, generator=source)
    return adapter


class Net(nn.Module):
    """[B, 4, F, H, W] -> same: a temporal convolution, then a linear layer over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.temporal = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0))
        self.act = nn.SiLU()
        self.spatial = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial(self.act(self.temporal(x)).movedim(1, -1)).movedim(-1, 1)


GROUPS = {"temporal": ["temporal"], "spatial": ["spatial"]}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().double().requires_grad_(False)


def clip(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 4, 5, 3, 3, generator=generator(9), dtype=dtype)


def attached(net: Net, **changes) -> Adapter:
    options = {"rank": 2, "alpha": 3.0, "groups": GROUPS, "generator": generator()} | changes
    return fill(attach(net, ["temporal", "spatial"], **options))


def update_of(net: Net, adapter: Adapter, x: Tensor) -> Tensor:
    """What the adapter's linear layer alone adds."""
    adapter.enable(temporal=False, spatial=False)
    base = net(x)
    adapter.enable(spatial=True)
    return net(x) - base


def merged(layer: nn.Module, down: Tensor, up: Tensor, scale: float, x: Tensor) -> Tensor:
    """The layer with W + scale * up down, written out."""
    down, up = down.detach().double(), up.detach().double()
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight + scale * up @ down, layer.bias)
    weight = layer.weight + scale * torch.einsum("or,ri...->oi...", up.flatten(1), down)
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    return convolve(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation)


@pytest.mark.parametrize("rank", [1, 2, 32])
@pytest.mark.parametrize("kind", LAYERS)
def test_hooked_forward_equals_the_merged_weight(kind, rank):
    layer, shape = LAYERS[kind]
    network = nn.Sequential(layer).double()
    x = torch.randn(shape, generator=generator(3), dtype=torch.float64)
    base = network(x)
    adapter = fill(attach(network, ["0"], rank=rank, alpha=1.5, generator=generator()))
    (down, up), hooked = adapter.parameters(), network(x)
    adapter.detach()
    sizes = getattr(layer, "in_features", None) or layer.in_channels, getattr(layer, "out_features", None) or len(up)
    assert down.shape[0] == up.shape[1] == min(rank, *sizes)
    torch.testing.assert_close(hooked, merged(layer, down, up, 1.5 / rank, x), rtol=1e-12, atol=1e-12)
    assert (hooked - base).abs().max() > 1e-3 / rank


@pytest.mark.golden_cases("motiondirector/lora_linear_r*", 2)
def test_linear_layer_and_its_gradients_match_motion_director(golden, case):
    case = golden(case)
    inputs, outputs, rank, scale = (case.params[name] for name in ("fin", "fout", "r", "scale"))
    network = nn.Sequential(nn.Linear(inputs, outputs, bias=case.params["bias"]))
    network.load_state_dict({f"0.{key}": case.tensors[key] for key in ("weight", "bias") if key in case.tensors})
    options = {"init": "normal_1_over_r", "dropout": 0.1, "generator": generator()}
    adapter = attach(network, ["0"], rank=rank, alpha=scale * rank, **options)
    assert adapter.layers["0"].rank == case.scalars["effective_rank"]
    adapter.load_state_dict({f"0.{key}": case.tensors[key] for key in ("down", "up")})
    y = network(case.tensors["x"])
    torch.testing.assert_close(y, case.tensors["y"], **case.close)
    y.square().mean().backward()
    down, up = adapter.parameters()
    torch.testing.assert_close(down.grad, case.tensors["grad_down"], **case.close)
    torch.testing.assert_close(up.grad, case.tensors["grad_up"], **case.close)


def test_gradients_equal_finite_differences(net):
    adapter, x = attached(net), clip()

    def loss() -> Tensor:
        return net(x).square().mean()

    loss().backward()
    for name, value in adapter.named_parameters():
        flat = value.data.view(-1)
        for index in range(0, flat.numel(), 5):
            middle, results = flat[index].item(), []
            for step in (1e-4, -1e-4):
                flat[index] = middle + step
                results.append((loss().item(), flat[index].item()))  # the step as float32 holds it
            flat[index] = middle
            (high, above), (low, below) = results
            expected = pytest.approx((high - low) / (above - below), rel=1e-5, abs=1e-8)
            assert value.grad.view(-1)[index].item() == expected, name


@pytest.mark.parametrize("init", ["kaiming", "normal_1_over_r"])
def test_fresh_adapter_changes_nothing_and_is_drawn_from_the_generator_alone(net, init):
    x, base = clip(), net(clip())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    states = []
    for seed in (0, 0, 1):
        adapter = attach(net, ["temporal", "spatial"], rank=2, alpha=2, init=init, generator=generator(seed))
        assert torch.equal(net(x), base)
        states.append(adapter.state_dict())
        adapter.detach()
    assert torch.equal(torch.get_rng_state(), before)
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name])
        assert torch.equal(states[0][name], states[2][name]) == name.endswith(".up")


def test_initial_values_have_the_documented_spread():
    network = nn.Sequential(nn.Conv3d(40, 64, (3, 3, 1)), nn.Linear(300, 64))
    for init in ("kaiming", "normal_1_over_r"):
        adapter = attach(network, ["0", "1"], rank=128, alpha=1, init=init, generator=generator())
        for layer, rank, fan_in in ((adapter.layers["0"], 40, 40 * 9), (adapter.layers["1"], 64, 300)):
            assert layer.rank == rank
            if init == "kaiming":
                bound = math.sqrt(6 / ((1 + 5) * fan_in))
                assert 0.99 * bound < layer.down.abs().max() <= bound
                assert layer.down.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
            else:
                assert layer.down.std().item() == pytest.approx(1 / rank, rel=0.03)
                assert layer.down.abs().max() > 3 / rank
            assert abs(layer.down.mean()) < 0.05 * layer.down.std()


@pytest.mark.parametrize("chosen", GROUPS)
def test_only_the_enabled_group_acts_gets_gradients_and_moves(net, chosen):
    adapter, x = attached(net), clip()
    everything = net(x)
    adapter.enable(temporal=False, spatial=False)
    base = net(x)
    adapter.detach()
    assert torch.equal(base, net(x))
    alone = fill(attach(net, GROUPS[chosen], rank=2, alpha=3.0, generator=generator()))
    alone.load_state_dict({name: value for name, value in adapter.state_dict().items() if name.startswith(chosen)})
    expected = net(x)
    alone.detach()

    adapter = attached(net)
    before = adapter.state_dict()
    adapter.enable(**{group: group == chosen for group in GROUPS})
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)
    assert not torch.allclose(expected, everything)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.01, weight_decay=0.1)
    net(x).square().mean().backward()
    optimizer.step()
    for name, value in adapter.named_parameters():
        assert (value.grad is not None) == name.startswith(chosen)
        assert torch.equal(value, before[name]) != name.startswith(chosen)
    adapter.enable(temporal=True, spatial=True)
    assert not torch.allclose(net(x), expected)


def test_enabling_an_unknown_group_is_refused_and_switches_nothing(net):
    adapter, x = attached(net), clip()
    before = net(x)
    with pytest.raises(ValueError, match="no group 'motion'; it has 'temporal', 'spatial'"):
        adapter.enable(temporal=False, motion=True)
    assert torch.equal(net(x), before)


def test_dropout_acts_in_training_only_on_the_updates_output(net):
    adapter, x = attached(net, dropout=0.3), clip()
    whole = update_of(net, adapter, x)
    assert torch.equal(update_of(net, adapter, x), whole)
    adapter.train()
    dropped = update_of(net, adapter, x)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.7, rtol=1e-9, atol=1e-12)
    share = 1 - kept.double().mean().item()
    assert share == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / kept.numel()))
    adapter.train(False)
    assert torch.equal(update_of(net, adapter, x), whole)


def test_dropout_mask_follows_the_seed_and_differs_between_layers():
    network = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    nn.init.zeros_(network[0].weight)
    nn.init.zeros_(network[1].weight)
    adapter = fill(attach(network, ["0", "1"], rank=2, alpha=2, dropout=0.5, generator=generator())).train()
    x, masks = torch.randn(8, 16, generator=generator()), {}
    for seed in (4, 4, 5):
        adapter.dropout_seed = seed
        first = network[0](x)
        mask = torch.stack([first != 0, network[1](x) != 0])
        assert torch.equal(masks.setdefault(seed, mask), mask)
        assert not torch.equal(mask[0], mask[1])
    assert not torch.equal(masks[4][0], masks[5][0])
    assert not torch.equal(masks[4][1], masks[5][0])  # neighbouring seeds share no layer's mask


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_block_recomputes_the_same_dropout_mask(net, reentrant):
    adapter, gradients = attached(net, dropout=0.4).train(), []
    adapter.dropout_seed = 11
    for use_checkpoint in (False, True):
        x = clip().requires_grad_()  # a reentrant checkpoint needs an input with a gradient
        y = checkpoint(net, x, use_reentrant=reentrant) if use_checkpoint else net(x)
        (y**3).mean().backward()
        gradients.append([x.grad, *(value.grad for value in adapter.parameters())])
        for value in adapter.parameters():
            value.grad = None
    (x_plain, *plain), (x_recomputed, *recomputed) = gradients
    # The order in which a reentrant checkpoint adds up the input's gradient is free: it may differ in the last bit.
    torch.testing.assert_close(x_recomputed, x_plain, rtol=1e-12, atol=1e-12)
    for value, again in zip(plain, recomputed, strict=True):
        assert torch.equal(value, again)
        assert value.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_update_follows_the_networks_dtype_and_trains_in_float32(net, dtype):
    adapter, x = attached(net), clip()
    exact = net(x)
    half = net.to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    torch.testing.assert_close(half.double(), exact, rtol=0, atol=0.05)
    half.float().square().mean().backward()
    assert {value.dtype for value in adapter.parameters()} == {torch.float32}
    assert {value.grad.dtype for value in adapter.parameters()} == {torch.float32}


def test_layers_that_only_look_like_linear_ones_are_adapted():
    class Quantised(nn.Module):
        in_features, out_features = 3, 2

        def forward(self, x: Tensor) -> Tensor:
            return x[..., :2] * 2

    network, x = nn.Sequential(Quantised()), torch.randn(4, 3, generator=generator())
    adapter = fill(attach(network, ["0"], rank=1, alpha=2, generator=generator()))
    down, up = adapter.parameters()
    torch.testing.assert_close(network(x), x[:, :2] * 2 + 2 * x @ (up @ down).T)


def test_detach_leaves_no_trace_in_the_network(net):
    x, base, keys = clip(), net(clip()), list(net.state_dict())
    parameters = [id(parameter) for parameter in net.parameters()]
    seen: list[int] = []
    net.temporal.register_forward_hook(lambda module, args, output: seen.append(1))
    first, second = attached(net), attached(net, alpha=5.0)
    both = net(x)
    first.detach()
    only_second = net(x)
    second.detach()
    assert not torch.allclose(both, only_second)
    assert torch.equal(net(x), base)
    assert len(seen) == 3  # a hook of somebody else stays
    assert [len(module._forward_hooks) for module in net.modules()] == [0, 1, 0, 0]
    assert [id(parameter) for parameter in net.parameters()] == parameters
    assert list(net.state_dict()) == keys
    second.detach()  # once more is no error


class Fused(nn.Linear):
    """A layer that also does what comes after it, as newer hosts' do."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        y = super().forward(input)
        return y if residual is None else y + residual


def test_a_layer_that_is_asked_for_more_than_its_product_is_refused_by_name():
    network = nn.ModuleDict({"down": Fused(5, 5)})
    adapter = fill(attach(network, ["down"], rank=2, alpha=2.0, generator=generator()))
    x, layer = torch.randn(3, 5, generator=generator()), network["down"]
    plain = layer(x)
    assert torch.equal(layer(x, None), plain) and torch.equal(layer(x, residual=None), plain)
    assert torch.equal(layer(input=x), plain)
    for call in (lambda: layer(x, residual=x), lambda: layer(x, x), lambda: layer(input=x, residual=x)):
        with pytest.raises(ValueError, match="down is called with (residual|argument 2) beside its input.* Leave this"):
            call()
    adapter.enable(all=False)
    assert torch.equal(layer(x, residual=x), F.linear(x, layer.weight, layer.bias) + x)
