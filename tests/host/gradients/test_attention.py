"""Attention without a gradient, as the fast kernels have it: training computes PyTorch's, sampling and inversion what the user chose."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

FAMILIES = ["wan", "wan_i2v", "wan_vace", "ltx", "hunyuan", "sprites", "unet3d"]
NAMES = ("optimized_attention", "optimized_attention_masked")


@pytest.fixture
def kernel(host):
    """An attention whose output is cut off from its inputs; it counts its calls in ``calls``."""
    from comfy.ldm.modules import attention

    @attention.wrap_attn
    def kernel(q, k, v, *args, **kwargs):
        kernel.calls += 1
        return attention.attention_pytorch(q.detach(), k.detach(), v.detach(), *args, **kwargs)

    kernel.calls = 0
    return kernel


@pytest.fixture(params=["flag", "node"])
def choose(request, kernel, monkeypatch):
    """Has a MODEL attend by ``kernel``: a start-up flag for every network that imports it, or a node for this MODEL."""

    def by_flag(model):
        for key, module in list(sys.modules.items()):
            if key.startswith("comfy."):
                for name in NAMES:
                    if name in vars(module):
                        monkeypatch.setattr(module, name, kernel)
        return model

    def by_node(model):
        chosen = model.clone()
        override = lambda func, *args, **kwargs: kernel(*args, **kwargs)  # noqa: E731
        chosen.model_options["transformer_options"]["optimized_attention_override"] = override
        return chosen

    return by_flag if request.param == "flag" else by_node


def sample(case, model):
    latent, positive = case.inputs()
    options = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    latent = {"samples": torch.zeros_like(latent)}
    case.host.call("KSampler", model=model, positive=positive, negative=positive, latent_image=latent, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_gets_the_gradient_of_pytorchs_attention(load, kernel, choose, family):
    case = load(family)
    loss, gradient = case.loss_and_gradient()
    model = choose(case.model)
    found, found_gradient = case.loss_and_gradient(model=model)
    assert kernel.calls == 0
    assert found == loss and torch.equal(found_gradient, gradient)


def test_sampling_and_inversion_keep_the_attention_that_was_chosen(host, load, kernel, choose):
    case = load("wan")
    model = choose(case.model)
    case.loss_and_gradient(model=model)
    sample(case, model)
    sampled, kernel.calls = kernel.calls, 0
    with torch.inference_mode():
        host.module("nodes.host.inversion").invert(model, *case.inputs(), steps=2)
    assert sampled > 0 and kernel.calls > 0


def test_a_network_of_another_pack_that_calls_without_options_is_covered(host, kernel, monkeypatch):
    """Its attention, imported under the host's name, comes back also after an error."""
    pack = ModuleType("another_pack_model")
    pack.optimized_attention = kernel
    monkeypatch.setitem(sys.modules, pack.__name__, pack)
    # Packs put whatever they like there; one without names must not stop a training.
    monkeypatch.setitem(sys.modules, "comfy.another_pack", object())

    class Network(torch.nn.Module):
        __module__ = pack.__name__

        def forward(self, x):
            return pack.optimized_attention(x, x, x, 1)

    attention = host.module("nodes.host.attention").differentiable_attention
    network, options = Network(), {"optimized_attention_override": kernel, "other": 1}
    with pytest.raises(ZeroDivisionError), attention(network, options):
        x = torch.ones(1, 2, 4, requires_grad=True)
        assert network(x).requires_grad
        del options["optimized_attention_override"]  # as a node does that takes its own back
        raise ZeroDivisionError
    assert kernel.calls == 0
    assert pack.optimized_attention is kernel
    assert options == {"optimized_attention_override": kernel, "other": 1}
