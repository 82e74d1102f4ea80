"""Training a MODEL behind TorchCompileModel: past the compiled network, which goes on to serve sampling."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def backend():
    """A compiler that counts the graphs it was given and runs them as they are."""

    def compiler(graph, inputs):
        compiler.graphs += 1
        return graph.forward

    compiler.graphs = 0
    yield compiler
    torch._dynamo.reset()


@pytest.fixture
def compile(wan_case, backend):
    """The MODEL as the host's node, its cousins for single blocks, and older nodes compile it."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def compile(how):
        model = wan_case.model.clone()
        if how == "object patch":
            block = torch.compile(model.get_model_object("diffusion_model.blocks.0"), backend=backend)
            model.add_object_patch("diffusion_model.blocks.0", block)
        else:
            key = "diffusion_model" if how == "whole network" else "diffusion_model.blocks.1"
            set_torch_compile_wrapper(model, backend=backend, keys=[key])
        return model

    return compile


def sample(host, case, model):
    latent, text = case.learning["latent"], case.learning["positive"]
    options = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    (samples,) = host.call(
        "KSampler", model=model, positive=text, negative=text, latent_image={"samples": latent["samples"]}, **options
    )
    return samples["samples"]


@pytest.mark.parametrize(
    ("how", "sampled_before"),
    [("whole network", False), ("whole network", True), ("block", True), ("object patch", True)],
)
def test_nothing_is_compiled_and_the_lora_is_the_same(host, wan_case, compile, backend, how, sampled_before):
    """A graph compiled for sampling before knows no hooks: it would answer without the LoRA."""
    compiled = compile(how)
    expected, losses = wan_case.train(steps=2)
    if sampled_before:
        sample(host, wan_case, compiled)
        assert backend.graphs > 0
    graphs = backend.graphs
    lora, found = wan_case.train(model=compiled, steps=2)
    assert backend.graphs == graphs
    assert found == losses
    assert lora.keys() == expected.keys() and all(torch.equal(lora[key], expected[key]) for key in expected)
    sample(host, wan_case, compiled)
    assert backend.graphs > 0


def test_a_compiled_network_samples_with_what_was_trained_through_it(host, wan_case, compile):
    """Sampled, trained and sampled again, the second training on top of the first LoRA, which is on the network meanwhile."""
    compiled = compile("block")
    base = sample(host, wan_case, compiled)
    assert torch.equal(base, sample(host, wan_case, wan_case.model))

    def wear(model, lora):
        limits = {"start_percent": 0.0, "end_percent": 1.0, "first_frame": 0, "last_frame": -1}
        source = {"source": "trained", "lora": lora}
        (worn,) = host.call("SMA_LoadMotionLoRA", model=model, source=source, strength=2.0, apply="bypass", **limits)
        return worn

    first, _ = wan_case.train(model=compiled, steps=2)
    behind, plain = wear(compiled, first), wear(wan_case.model, first)
    expected = sample(host, wan_case, plain)
    assert not torch.equal(expected, base)
    assert torch.equal(sample(host, wan_case, behind), expected)
    second, losses = wan_case.train(model=behind, steps=2)
    expected_second, expected_losses = wan_case.train(model=plain, steps=2)
    assert losses == expected_losses
    assert all(torch.equal(second[key], expected_second[key]) for key in expected_second)
    assert torch.equal(sample(host, wan_case, behind), expected)
    both = sample(host, wan_case, wear(plain, second))
    assert not torch.equal(both, expected)
    assert torch.equal(sample(host, wan_case, wear(behind, second)), both)
    assert torch.equal(sample(host, wan_case, compiled), base)
