"""Layers that learn nothing: a run whose gradient is cut off is refused, what takes no part is said, nothing else is disturbed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sma.lora import attach
from sma.losses import MotionLoss, WeightedTerm
from sma.plan import SPATIAL, TEMPORAL, dual_path
from sma.training import Phase, TrainingSettings, train


class Attending(nn.Module):
    """[B, 3, F, H, W] -> same. Frames attend to each other by ``attention``, then to ``tokens`` of a text of their own."""

    def __init__(self, attention=F.scaled_dot_product_attention, tokens: int = 4) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({f"{part}_{name}": nn.Linear(8, 8) for part in ("self", "text") for name in "qkvo"})
            for _ in range(2)
        )
        # Of a picture that may be left out, and of an output that nobody reads, as in some last blocks.
        self.picture, self.unread = nn.Linear(8, 8), nn.Linear(8, 8)
        self.attention = attention
        source = torch.Generator().manual_seed(1)
        for parameter in self.requires_grad_(False).parameters():
            parameter.normal_(std=0.3, generator=source)
        self.text = torch.randn(1, tokens, 8, generator=source)

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x.movedim(1, -1).flatten(1, 3))
        for block in self.blocks:
            for part, source in (("self", h), ("text", self.text.expand(len(h), -1, -1))):
                q = block[f"{part}_q"](h)
                k, v = (block[f"{part}_{name}"](source) for name in "kv")
                h = h + block[f"{part}_o"](self.attention(q, k, v))
        self.unread(h)
        return self.out(h).unflatten(1, x.shape[2:]).movedim(-1, 1)


def cut(q, k, v):
    return F.scaled_dot_product_attention(q.detach(), k.detach(), v.detach())


def rounded(q, k, v):
    """Differentiable to autograd, with a slope of 0, as emulated low precision."""
    return (F.scaled_dot_product_attention(q, k, v) * 64).round() / 64


def layers(network: nn.Module, *ends: str) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name.endswith(ends)]


def run(network: nn.Module, names: list[str], *, phases=None, groups=None, kind="lora", steps=1, loss=None, **settings):
    source = torch.Generator().manual_seed(0)
    adapter = attach(network, names, rank=2, alpha=2.0, generator=source, groups=groups, kind=kind)
    clip = torch.randn(1, 3, 4, 3, 2, generator=torch.Generator().manual_seed(2))
    settings = TrainingSettings(kind="flow", sigma_at=float, steps=steps, **settings)
    calls = []

    def denoise(x_t, sigma):
        calls.append(x_t)
        return x_t - sigma.view(-1, 1, 1, 1, 1) * network(x_t)

    try:
        return train(denoise, clip, phases or [Phase(loss)], adapter, settings), adapter, calls
    finally:
        adapter.detach()


@pytest.mark.parametrize("attention", [cut, rounded])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_attention_without_gradient_is_refused_by_the_layers_name(plain_loss, attention, kind):
    network = Attending(attention)
    names = layers(network, "_q", "_k", "_v", "_o")
    message = (
        "12 of 16 layers change the model's answer and get no gradient, for example blocks.0.self_q: .* leave these"
    )
    with pytest.raises(ValueError, match=message):
        run(network, names, kind=kind, loss=plain_loss)


def test_it_is_refused_too_where_only_those_layers_learn(plain_loss):
    network = Attending(cut)
    with pytest.raises(ValueError, match="No adapter layer .* or remove what replaces the model's attention"):
        run(network, layers(network, "self_q", "self_k"), loss=plain_loss)
    # Where blocks run again in backward the answer has a gradient whatever they hold.
    network.out.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="4 of 4 layers change the model's answer and get no gradient"):
        run(network, layers(network, "self_q", "self_k"), loss=plain_loss)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_group_that_sits_out_at_first_is_looked_at_when_it_learns(plain_loss, dropout):
    """The second group's layers are cut off; whether or not it rests, the first phase in which it learns finds that."""
    network = Attending(cut)
    spatial = ["into", *layers(network, "self_v")]
    groups = {TEMPORAL: ["out"], SPATIAL.replace("{clip}", "0"): spatial}
    resting = {SPATIAL: dropout} if dropout else {}
    with pytest.raises(ValueError, match="2 of 3 layers .* for example blocks.0.self_v"):
        run(
            network,
            ["out", *spatial],
            phases=dual_path(plain_loss),
            groups=groups,
            steps=12,
            group_dropout=resting,
        )


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_layers_that_do_not_matter_are_said_and_the_run_goes_on(plain_loss, kind):
    """One token alone: its query and key change nothing. A picture that is not there, an output that nobody reads."""
    network = Attending(tokens=1)
    names = layers(network, "_q", "_k", "_v", "_o", "picture", "unread")
    result, adapter, _ = run(network, names, kind=kind, steps=3, loss=plain_loss)
    without = {name for name in names if name.endswith(("text_q", "text_k", "picture", "unread"))}
    assert set(result.idle) == without and len(without) == 6
    fresh = attach(network, names, rank=2, alpha=2.0, kind=kind, generator=torch.Generator().manual_seed(0))
    values, last = fresh.state_dict(), "up" if kind == "lora" else "diff"
    moved = {key for key in names if not torch.equal(result.state.adapter[f"{key}.{last}"], values[f"{key}.{last}"])}
    assert moved == set(names) - without


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_layers_before_one_that_starts_at_zero_learn_from_the_second_step_on(plain_loss, kind):
    network = Attending()
    network.out.weight.zero_()
    names = [*layers(network, "_q", "_k", "_v", "_o", "unread"), "out"]
    result, *_ = run(network, names, kind=kind, loss=plain_loss)
    assert set(result.idle) == set(names) - {"out"}
    result, *_ = run(network, names, kind=kind, steps=3, loss=plain_loss)
    assert result.idle == ("unread",)


def test_a_run_without_such_layers_makes_no_call_more(plain_loss):
    network = Attending()
    result, _, calls = run(network, layers(network, "_q", "_k", "_v", "_o"), steps=3, loss=plain_loss)
    assert result.idle == () and len(calls) == 3


@pytest.mark.parametrize("attention", [cut, rounded])
def test_a_flat_loss_says_nothing_and_the_next_that_is_not_does(plain_loss, attention):
    network = Attending(attention)
    names = layers(network, "self_q", "self_k", "self_v", "self_o")
    flat = MotionLoss((WeightedTerm("flat", 1.0, lambda p: 0 * p.output.flatten(1).sum(1)),))
    result, *_ = run(network, names, loss=flat, steps=2)
    assert result.idle == ()
    slopes = iter([0.0, 1.0])
    turning = MotionLoss((WeightedTerm("turning", 1.0, lambda p: next(slopes) * p.output.flatten(1).square().sum(1)),))
    with pytest.raises(ValueError, match="6 of 8 layers change the model's answer"):
        run(network, names, loss=turning, steps=2)


def test_looking_changes_no_bit_of_the_run(plain_loss):
    """The same layers with and without such as make the check try the answer out."""
    network = Attending(tokens=1)
    names = layers(network, "self_q", "self_k", "self_v")
    groups = {"all": names}
    alone, *_ = run(network, names, groups=groups, steps=4, loss=plain_loss, batch_size=2)
    beside, *_ = run(
        network, [*names, "unread"], groups={"all": [*names, "unread"]}, steps=4, loss=plain_loss, batch_size=2
    )
    assert beside.idle == ("unread",)
    assert all(torch.equal(beside.state.adapter[name], value) for name, value in alone.state.adapter.items())
    assert [step.loss for step in beside.state.history] == [step.loss for step in alone.state.history]
