"""Gradients through the host's own networks: right for every family, with and without checkpoints, and without a trace afterwards."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from descent import descend

TRANSFORMERS = ("wan", "wan_i2v", "wan_5b", "wan_vace", "ltx", "hunyuan")
CHECKPOINTED = (*TRANSFORMERS, "unet3d")
FAMILIES = (*CHECKPOINTED, "sprites")


@pytest.fixture(params=FAMILIES)
def case(request, load):
    return load(request.param)


@pytest.fixture(params=TRANSFORMERS)
def transformer(request, load):
    return load(request.param)


@pytest.fixture(params=CHECKPOINTED)
def checkpointed(request, load):
    return load(request.param)


def trace(module: torch.nn.Module) -> tuple[Any, ...]:
    """Everything a training could leave behind on a network."""
    tensors = [(name, id(t), t.requires_grad) for name, t in (*module.named_parameters(), *module.named_buffers())]
    modules = dict(module.named_modules())
    hooks = [name for name, m in modules.items() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
    replaced = [name for name, m in modules.items() if "forward" in vars(m)]
    gradients = [name for name, p in module.named_parameters() if p.grad is not None]
    return tensors, hooks, replaced, gradients


@pytest.mark.parametrize("checkpoint", [True, False])
def test_the_gradient_is_that_of_finite_differences(case, checkpoint):
    slope, measured = (case if checkpoint else case.without_checkpoints()).slopes()
    assert slope > 1e-3
    assert measured == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpoints_change_neither_loss_nor_gradient(checkpointed, dropout):
    loss, gradient = checkpointed.loss_and_gradient(dropout=dropout)
    plain_loss, plain_gradient = checkpointed.without_checkpoints().loss_and_gradient(dropout=dropout)
    assert loss == plain_loss
    torch.testing.assert_close(gradient, plain_gradient, rtol=1e-5, atol=1e-6 * float(plain_gradient.abs().max()))


def test_checkpoints_give_the_latent_its_gradient(transformer):
    def job(denoiser):
        x = torch.randn(denoiser.clip.shape, generator=torch.Generator().manual_seed(7)).requires_grad_()
        denoiser.denoise(x, torch.full((1,), denoiser.sigma_at(0.6))).square().mean().backward()
        return x.grad

    gradient = transformer.inside(job)
    plain = transformer.without_checkpoints().inside(job)
    torch.testing.assert_close(gradient, plain, rtol=1e-5, atol=1e-6 * float(plain.abs().max()))


def test_what_a_checkpointed_block_answers_may_be_updated_in_place(host):
    class Block(torch.nn.Module):
        def forward(self, pair, options):
            first, second = pair
            second += options["shift"]
            return {"kept": [first[:, :2], 5], "sum": first * second}

    block, x = Block(), torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    second = torch.tensor([[4.0, 5.0, 6.0]])
    run = host.module("nodes.host.checkpoint").checkpointed(block, block.forward, frozenset())
    answer = run((x, second), options={"shift": 1.0})
    assert torch.equal(second, torch.tensor([[4.0, 5.0, 6.0]]))
    view, number = answer["kept"]
    view *= 10.0
    assert number == 5
    (view.sum() + answer["sum"].sum()).backward()
    assert torch.equal(x.grad, torch.tensor([[15.0, 16.0, 7.0]]))


def test_checkpoints_keep_no_graph_of_the_blocks(transformer):
    def job(denoiser):
        adapter = transformer.adapter(denoiser)
        seen, queue = set(), [transformer.loss(denoiser).grad_fn]
        while queue:
            node = queue.pop()
            if node is not None and node not in seen:
                seen.add(node)
                queue += [behind for behind, _ in node.next_functions]
        adapter.detach()
        return len(seen)

    assert transformer.inside(job) < transformer.without_checkpoints().inside(job) / 4


def test_only_blocks_at_or_behind_an_adapter_run_again(load):
    wan, runs = load("wan"), Counter()

    def job(denoiser):
        adapter = wan.adapter(denoiser, layers=r"blocks\.1\.self_attn\.q")
        handles = [
            block.self_attn.q.register_forward_pre_hook(lambda *_, index=index: runs.update([index]))
            for index, block in enumerate(denoiser.network.blocks)
        ]
        wan.loss(denoiser).backward()
        for handle in handles:
            handle.remove()
        adapter.detach()

    wan.inside(job)
    assert runs == {0: 1, 1: 2}


def test_the_model_is_untouched(case):
    import comfy.model_management

    before, output = trace(case.model.model), case.inside(lambda denoiser: case.x0_hat(denoiser).detach())
    case.loss_and_gradient()
    assert trace(case.model.model) == before
    assert before[1:] == ([], [], [])
    assert comfy.model_management.in_training is False
    assert torch.equal(case.inside(lambda denoiser: case.x0_hat(denoiser).detach()), output)


def test_the_model_is_untouched_by_a_cancel_inside_the_second_run(transformer):
    import comfy.model_management as management

    before, output = (
        trace(transformer.model.model),
        transformer.inside(lambda denoiser: transformer.x0_hat(denoiser).detach()),
    )

    def job(denoiser):
        adapter = transformer.adapter(denoiser)
        loss = transformer.loss(denoiser)
        # The host raises this in the next layer that runs, and in backward only blocks that run again have layers.
        management.interrupt_current_processing(True)
        try:
            loss.backward()
        finally:
            adapter.detach()
            assert all(value.grad is None for value in adapter.parameters())

    with pytest.raises(management.InterruptProcessingException):
        transformer.inside(job)
    assert trace(transformer.model.model) == before
    assert management.in_training is False
    assert torch.equal(transformer.inside(lambda denoiser: transformer.x0_hat(denoiser).detach()), output)


def test_no_weight_is_copied(case):
    weights = {name: value.untyped_storage().data_ptr() for name, value in case.model.model.named_parameters()}

    def job(denoiser):
        network = denoiser.network
        return {
            f"diffusion_model.{name}": (value.untyped_storage().data_ptr(), value.is_inference())
            for name, value in network.named_parameters()
        }

    aliases = case.inside(job)
    assert aliases == {name: (address, False) for name, address in weights.items() if name in aliases}
    assert len(aliases) == len(weights)


def test_weights_that_require_gradients_get_none(case):
    """Older hosts leave the flag on all weights, current ones on tables and embeddings."""
    parameters = list(case.model.model.parameters())
    flags = [parameter.requires_grad for parameter in parameters]
    with torch.inference_mode():
        for parameter in parameters:
            parameter.requires_grad_(True)
    try:
        before = trace(case.model.model)
        assert not case.inside(lambda denoiser: any(p.requires_grad for p in denoiser.network.parameters()))
        _, gradient = case.loss_and_gradient()
        assert gradient.abs().max() > 0
        assert trace(case.model.model) == before
        assert before[3] == []
    finally:
        with torch.inference_mode():
            for parameter, flag in zip(parameters, flags, strict=True):
                parameter.requires_grad_(flag)


def test_training_lowers_the_loss(case):
    def job(denoiser):
        assert denoiser.kind == {"sprites": "v", "unet3d": "eps"}.get(case.family, "flow")
        adapter = case.adapter(denoiser)
        losses = descend(adapter.parameters(), lambda: case.loss(denoiser), 15)
        adapter.detach()
        return losses

    losses = case.inside(job)
    assert losses[-1] < 0.95 * losses[0]
