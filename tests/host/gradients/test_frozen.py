"""Layers whose weights are cast, quantised or offloaded: autograd keeps no weight, and backward reads the right one."""

from __future__ import annotations

import pytest
import torch
from descent import descend

STORAGES = ("bfloat16", "float8", "float8_e4m3fn", "int8_tensorwise")
# Layer of the host's manual_cast operations, its arguments, the size of its input.
LAYERS = {
    "Linear": ((6, 5), (2, 3, 6)),
    "Conv1d": ((4, 6, 3, 2, 1), (2, 4, 7)),
    "Conv2d": ((4, 6, 3, 1, 1, 1, 2), (2, 4, 5, 6)),
    "Conv3d": ((4, 6, (3, 1, 1), 1, (1, 0, 0)), (2, 4, 5, 3, 2)),
    "LayerNorm": ((6,), (2, 3, 6)),
    "RMSNorm": ((6,), (2, 3, 6)),
    "GroupNorm": ((2, 6), (2, 6, 3, 2)),
}


@pytest.fixture
def gradients(host):
    return host.module("nodes.host.gradients")


@pytest.fixture
def offload(monkeypatch):
    """A call destroys every cast weight as soon as its layer is done, as the next layer does in the host's shared buffers."""
    import comfy.ops

    def uncast(module, weight, bias, stream):
        for tensor, own in ((weight, module.weight), (bias, module.bias)):
            if tensor is not None and not hasattr(tensor, "_qdata") and tensor.data_ptr() != own.data_ptr():
                tensor.detach().fill_(float("nan"))

    return lambda: monkeypatch.setattr(comfy.ops, "uncast_bias_weight", uncast)


def layer(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A bfloat16 layer that computes in float32, and an input."""
    import comfy.ops

    arguments, size = LAYERS[name]
    module = getattr(comfy.ops.manual_cast, name)(*arguments, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module, torch.randn(size, generator=generator, requires_grad=True)


def saved_by(module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        return module(x), saved


@pytest.mark.parametrize("name", LAYERS)
def test_a_cast_layer_keeps_no_weight_and_differentiates_right(gradients, offload, name):
    module, x = layer(name)
    expected, kept = saved_by(module, x)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected_gradient,) = torch.autograd.grad(expected, x, direction)
    offload()
    with gradients.differentiable(module):
        answer, saved = saved_by(module, x)
        (gradient,) = torch.autograd.grad(answer, x, direction)
    assert torch.equal(answer, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert any(tensor.numel() == module.weight.numel() for tensor in kept)
    assert all(tensor.data_ptr() == x.data_ptr() for tensor in saved)


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_cast_layer_answers_may_be_updated_in_place(gradients, name):
    module, x = layer(name)
    (expected,) = torch.autograd.grad(module(x).sum(), x)
    with gradients.differentiable(module):
        answer = module(x)
        answer *= 2.0
        (gradient,) = torch.autograd.grad(answer.sum(), x)
    torch.testing.assert_close(gradient, 2.0 * expected)


def test_a_weight_that_is_patched_on_the_fly_is_read_again(gradients, offload):
    """So the host applies LoRAs to offloaded weights."""
    import comfy.ops

    module, x = comfy.ops.disable_weight_init.Linear(6, 5), torch.randn(2, 6, requires_grad=True)
    torch.nn.init.ones_(module.weight)
    module.weight_function = [lambda weight: weight * 3.0]
    offload()
    with gradients.differentiable(module):
        (gradient,) = torch.autograd.grad(module(x).sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 15.0))


def test_convolutions_that_pad_with_their_input_are_left_to_autograd(gradients):
    import comfy.ops

    module = comfy.ops.manual_cast.Conv2d(1, 1, 3, padding=1, padding_mode="circular", dtype=torch.bfloat16)
    torch.nn.init.ones_(module.weight)
    torch.nn.init.zeros_(module.bias)
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    with gradients.differentiable(module):
        (gradient,) = torch.autograd.grad(module(x).sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 9.0))


class Packed(torch.Tensor):
    """A weight as GGUF packs have it: bytes, and in an attribute what to read them by."""

    def detach(self):
        return self


def test_packed_weights_of_other_packs_stay_what_they_are(gradients):
    import comfy.ops

    class Layer(comfy.ops.manual_cast.Linear):
        def forward(self, x):
            plain = (self.weight.as_subclass(torch.Tensor).to(x.dtype) - 128.0) * self.weight.scale
            return torch.nn.functional.linear(x, plain, self.bias)

    module = Layer(6, 5)
    with torch.inference_mode():
        weight = torch.randint(0, 256, (5, 6), dtype=torch.uint8).as_subclass(Packed)
        weight.scale = 0.01
        module.weight = packed = torch.nn.Parameter(weight, requires_grad=False)
        module.bias = torch.nn.Parameter(torch.ones(5), requires_grad=False)
    x = torch.randn(2, 6, requires_grad=True)
    with gradients.differentiable(module):
        assert type(module.weight) is Packed and not module.weight.is_inference()
        (gradient,) = torch.autograd.grad(module(x).sum(), x)
    assert module.weight is packed
    expected = ((packed.as_subclass(torch.Tensor).float() - 128.0) * 0.01).sum(0)
    torch.testing.assert_close(gradient, expected.expand(2, 6))


def test_a_layer_that_is_not_cast_is_left_to_autograd(gradients):
    import comfy.ops

    module, x = comfy.ops.disable_weight_init.Linear(6, 5), torch.randn(2, 6, requires_grad=True)
    with gradients.differentiable(module):
        assert "Frozen" not in type(module(x).grad_fn).__name__


def test_a_layer_with_its_own_forward_keeps_it(gradients):
    module, x = layer("Linear")
    module.forward = lambda x: x * 3
    with gradients.differentiable(module):
        (gradient,) = torch.autograd.grad(module(x).sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 3.0))
    assert torch.equal(module(x), x * 3)


def test_the_smoothing_of_a_quantised_layer_counts(gradients):
    """Activation-aware quantisation scales the input of a layer before its weight."""
    import comfy.ops

    if "pre_quant_scale" not in comfy.ops.QUANT_ALGOS["nvfp4"]["parameters"]:
        pytest.skip("this host does not smooth")
    module = comfy.ops.mixed_precision_ops(compute_dtype=torch.float32).Linear(6, 5, dtype=torch.bfloat16)
    module.weight = torch.nn.Parameter(torch.randn(5, 6).bfloat16(), requires_grad=False)
    torch.nn.init.zeros_(module.bias)
    module.pre_quant_scale = torch.nn.Parameter(torch.rand(6) + 0.5, requires_grad=False)
    x, direction = torch.randn(2, 6, requires_grad=True), torch.randn(2, 5)
    (expected,) = torch.autograd.grad(module(x), x, direction)
    with gradients.differentiable(module):
        answer = module(x)
        assert "Frozen" in type(answer.grad_fn).__name__
        (gradient,) = torch.autograd.grad(answer, x, direction)
    torch.testing.assert_close(gradient, expected)


def test_fast_fp8_layers_leave_their_input_alone(gradients):
    """The host clamps it in place there, which would change what earlier layers saved."""
    import comfy.ops

    module = comfy.ops.fp8_ops.Linear(16, 16, dtype=torch.float32)
    module.weight = torch.nn.Parameter(torch.randn(16, 16).to(torch.float8_e4m3fn), requires_grad=False)
    module.bias = None
    x = torch.full((1, 2, 16), 1000.0, requires_grad=True)
    with gradients.differentiable(module):
        module(x)
    assert torch.equal(x, torch.full_like(x, 1000.0))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("family", ["wan", "ltx", "hunyuan"])
def test_networks_train_on_offloaded_weights(load, offload, monkeypatch, family, storage):
    case = load(family, storage)
    with monkeypatch.context() as patch:
        patch.setattr(case.host.module("nodes.host.gradients"), "can_freeze", lambda module: False)
        expected_loss, expected = case.loss_and_gradient()
    offload()
    loss, gradient = case.loss_and_gradient()
    assert loss == expected_loss
    # The host multiplies int8 gradients in int8; here backward uses the weight itself.
    allowed = 1e-2 if storage == "int8_tensorwise" else 1e-6
    assert (gradient - expected).norm() <= allowed * expected.norm()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("family", ["wan", "wan_i2v", "wan_5b", "ltx", "hunyuan"])
def test_training_on_weights_of_few_bits_lowers_the_loss(load, family, storage):
    case = load(family, storage)

    def job(denoiser):
        adapter = case.adapter(denoiser)
        losses = descend(adapter.parameters(), lambda: case.loss(denoiser), 12)
        adapter.detach()
        return losses

    losses = case.inside(job)
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("family", ["wan", "wan_i2v", "wan_5b", "ltx", "hunyuan"])
@pytest.mark.parametrize("storage", ["bfloat16", "float8", "float8_e4m3fn"])
def test_gradients_through_cast_weights_are_those_of_finite_differences(load, storage, family, checkpoint):
    """Not of int8: there the host rounds activations too, so the loss is a staircase."""
    case = load(family, storage)
    slope, measured = (case if checkpoint else case.without_checkpoints()).slopes()
    assert measured == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("storage", ["float32", *STORAGES])
@pytest.mark.parametrize("family", ["wan", "wan_i2v", "wan_5b", "ltx", "hunyuan"])
def test_sampling_through_bypass_is_the_training_time_forward(host, load, family, storage):
    case = load(family, storage)

    def job(denoiser):
        adapter = case.adapter(denoiser)
        trained = case.x0_hat(denoiser).detach()
        adapter.detach()
        return trained, adapter.export("diffusion_model.")

    trained, lora = case.inside(job)
    (worn,) = host.call("LoraModelLoader", model=case.model, lora=lora, strength_model=1.0, bypass=True)

    def sampled(model):
        with torch.no_grad():
            return case.inside(lambda denoiser: case.x0_hat(denoiser).detach(), model=model)

    error, effect = ((sampled(model) - trained).norm() for model in (worn, case.model))
    # Beside bfloat16 weights the host rounds the factors of the LoRA to bfloat16.
    assert error <= (1e-2 * effect if storage == "bfloat16" else 0.0)
    assert effect > 0.01 * trained.norm()


@pytest.mark.parametrize("storage", ["float32", "float8"])
def test_training_on_a_bypass_lora_sees_it(host, load, storage):
    case = load("wan", storage)

    def job(denoiser):
        adapter = case.adapter(denoiser)
        adapter.detach()
        return adapter.export("diffusion_model.")

    lora = case.inside(job)
    (worn,) = host.call("LoraModelLoader", model=case.model, lora=lora, strength_model=1.0, bypass=True)
    slope, measured = case.slopes(model=worn)
    assert measured == pytest.approx(slope, rel=1e-3)
    assert slope != pytest.approx(case.slopes()[0], rel=1e-3)


def test_a_cast_layer_that_is_asked_for_more_than_its_product_is_refused_by_name(gradients):
    """Newer hosts fuse what comes before and after a layer into its call; the derivative of that is not known here."""
    module, x = layer("Linear")

    class Fusing(type(module)):
        def forward(self, input, *args, residual=None, **kwargs):
            y = super().forward(input)
            return y if residual is None else y + residual

    Fusing.__module__, Fusing.__name__ = type(module).__module__, "Linear"
    module.__class__ = Fusing
    network = torch.nn.ModuleDict({"down": module})
    with gradients.differentiable(network):
        plain = module(x)
        assert torch.equal(module(x, residual=None), plain) and torch.equal(module(input=x), plain)
        with pytest.raises(ValueError, match="down is called with residual beside its input, which is not known here"):
            module(x, residual=plain)
        with torch.no_grad():
            assert torch.equal(module(x, residual=plain), 2 * plain)
