"""LoRAs on networks that torch.compile has compiled, before or after: the same answer as on the network as it is, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import write_quantised

CASE = Path(__file__).parents[2] / "cases" / "bypass_after_torch_compile"
BYPASS, PATCH = {"apply": "bypass"}, {"apply": "patch weights"}
LEVELS, FRAMES = {"start_percent": 0.3, "end_percent": 0.6}, {"first_frame": 4}
PERCENTS = (0.2, 0.4)


@pytest.fixture(scope="module")
def backend():
    """A compiler that counts the graphs it was given and runs them as they are. Nothing falls back to code that is not compiled."""

    def compiler(graph, inputs):
        compiler.graphs += 1
        return graph.forward

    compiler.graphs = 0
    import torch._dynamo

    with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
        yield compiler
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def compile_block(backend):
    """Compiles one block as other packs' nodes do: for the length of a call, or in its place while the model is loaded."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def compile(model, nodes="wrapper", key="diffusion_model.blocks.0"):
        model = model.clone()
        if nodes == "wrapper":
            set_torch_compile_wrapper(model, backend=backend, keys=[key])
        else:
            model.add_object_patch(key, torch.compile(model.get_model_object(key), backend=backend))
        return model

    return compile


@pytest.fixture(scope="module")
def compiled(wan, backend):
    """A MODEL behind the host's TorchCompileModel that has sampled without any LoRA."""
    (model,) = wan.host.call("TorchCompileModel", model=wan.model, backend=backend)
    assert torch.equal(wan.predict(model), wan.predict(wan.model))
    return model


@pytest.fixture(scope="module")
def with_block(wan, compile_block):
    """A MODEL with a compiled block that has sampled without any LoRA."""
    model = compile_block(wan.model)
    assert torch.equal(wan.predict(model, PERCENTS), wan.predict(wan.model, PERCENTS))
    return model


def test_the_case_of_the_public_report(wan, compiled, lora_folder):
    shutil.copy(CASE / "diffpipe.safetensors", lora_folder / "case_of_compile.safetensors")
    lora = "case_of_compile.safetensors"
    base = wan.predict(wan.model)
    for strength in (1.0, 0.5):
        expected = wan.predict(wan.wear(lora, strength=strength, **BYPASS))
        assert not torch.equal(expected, base)
        assert torch.equal(wan.predict(wan.wear(lora, compiled, strength=strength, **BYPASS)), expected)
    assert torch.equal(wan.predict(compiled), base)


@pytest.mark.parametrize("how", [BYPASS, PATCH, LEVELS, FRAMES], ids=["bypass", "patch", "levels", "frames"])
@pytest.mark.parametrize("order", ["lora first", "compiled first"])
def test_a_lora_is_worn_whatever_was_first(wan, with_block, compile_block, order, how):
    lora, base, seen = wan.lora(), wan.predict(wan.model, PERCENTS), []
    for strength in (1.0, 0.5) if how is BYPASS else (0.5,):
        expected = wan.predict(wan.wear(lora, strength=strength, **how), PERCENTS)
        if order == "lora first":
            model = compile_block(wan.wear(lora, strength=strength, **how))
        else:
            model = wan.wear(lora, with_block, strength=strength, **how)
        assert torch.equal(wan.predict(model, PERCENTS), expected)
        assert torch.equal(wan.predict(with_block, PERCENTS), base)
        assert all(not torch.equal(expected, other) for other in (base, *seen))
        seen.append(expected)
        del model


def test_another_strength_and_another_lora_need_no_new_graph(wan, compiled, backend):
    """The first strength is compiled as a number, the second as an input; so does the host's own bypass."""
    for strength in (1.0, 0.5):
        wan.predict(wan.wear(wan.lora(), compiled, strength=strength, **BYPASS))
    graphs = backend.graphs
    for seed, strength in [(5, 0.7), (6, 1.0), (7, 0.3), (5, -1.5)]:
        lora = wan.lora(seed=seed)
        expected = wan.predict(wan.wear(lora, strength=strength, **BYPASS))
        assert torch.equal(wan.predict(wan.wear(lora, compiled, strength=strength, **BYPASS)), expected)
    wan.predict(compiled)
    assert backend.graphs == graphs


def test_loras_stack_and_models_that_share_the_network_take_turns(wan, with_block, backend):
    import comfy.model_management as management

    first, second = wan.lora(seed=5), wan.lora(seed=6)

    def models(model):
        one = wan.wear(first, model, **BYPASS)
        return model, one, wan.wear(second, one, **BYPASS), wan.core(second, one, bypass=True)

    behind, plain = models(with_block), models(wan.model)
    expected = [wan.predict(model) for model in plain]
    order = [0, 1, 2, 3, 1, 0, 3, 2, 0]
    for index in order:
        assert torch.equal(wan.predict(behind[index]), expected[index]), index
    graphs = backend.graphs
    management.unload_all_models()
    assert wan.hooks() == []
    clones = [model.clone() for model in behind]
    for index in order:
        assert torch.equal(wan.predict(clones[index]), expected[index]), index
        assert torch.equal(wan.predict(plain[index]), expected[index]), index
    assert backend.graphs == graphs


@pytest.mark.parametrize(
    ("nodes", "how"),
    [("wrapper", BYPASS), ("wrapper", PATCH), ("object patch", BYPASS), ("object patch", {"apply": "auto"})],
)
def test_single_blocks(wan, backend, compile_block, nodes, how):
    torch._dynamo.reset()
    model, lora, base, graphs = compile_block(wan.model, nodes), wan.lora(), wan.predict(wan.model), backend.graphs
    assert torch.equal(wan.predict(model), base)
    for strength in (1.0, 0.5):
        wan.predict(model)
        behind = wan.wear(lora, model, strength=strength, **how)
        assert wan.said[-1].startswith("24 of 24 keys applied")
        plain = wan.wear(lora, strength=strength, apply="patch weights" if how is PATCH else "bypass")
        assert wan.said[-1].startswith("24 of 24 keys applied")
        expected = wan.predict(plain)
        assert not torch.equal(expected, base)
        assert torch.equal(wan.predict(behind), expected)
        assert torch.equal(wan.predict(compile_block(plain, nodes)), expected)
    assert backend.graphs > graphs
    assert torch.equal(wan.predict(model), base)


def test_blocks_that_the_host_cannot_patch_are_named(wan, compile_block):
    model = compile_block(wan.model, "object patch")
    with pytest.raises(ValueError, match="blocks.0.self_attn.q.weight is in a compiled part .* Set apply to auto or b"):
        wan.wear(wan.lora(), model, **PATCH)


def test_a_block_of_a_network_of_ours(make_case, sprites, compile_block):
    case = make_case(sprites[0])
    model = compile_block(case.model, "wrapper", "diffusion_model.down_blocks.0.temp_attentions.0")
    base = case.predict(case.model)
    assert torch.equal(case.predict(model), base)
    expected = case.predict(case.wear(case.lora(), **BYPASS))
    assert not torch.equal(expected, base)
    assert torch.equal(case.predict(case.wear(case.lora(), model, **BYPASS)), expected)
    assert torch.equal(case.predict(model), base)


def test_eight_bit_weights(wan, compile_block, make_case, wan_file):
    name = write_quantised(wan_file, "float8_e4m3fn")
    case = make_case(wan.host.call("UNETLoader", unet_name=name, weight_dtype="default")[0])
    model, base = compile_block(case.model, "wrapper"), case.predict(case.model)
    assert torch.equal(case.predict(model), base)
    for strength in (1.0, 0.5):
        worn = case.wear(case.lora(), strength=strength)
        assert case.said[-1].endswith("bypassed)")
        expected = case.predict(worn)
        assert not torch.equal(expected, base)
        assert torch.equal(case.predict(case.wear(case.lora(), model, strength=strength)), expected)
    assert torch.equal(case.predict(model), base)


def test_injections_of_stale_clones_leave_a_compiled_network_alone(wan, with_block):
    """The host puts those of a MODEL's clone on the network that another one uses, when it patches the clone."""
    base, worn = wan.predict(with_block), wan.wear(wan.lora(), with_block, **BYPASS)
    expected = wan.predict(worn)
    stale = wan.core(wan.lora(seed=7), worn.clone())
    wan.core(wan.lora(seed=8), stale)
    assert torch.equal(wan.predict(with_block), base)
    wan.core(wan.lora(seed=8), stale)
    assert torch.equal(wan.predict(with_block), base)
    assert torch.equal(wan.predict(worn), expected)
    assert not torch.equal(expected, base)


def test_weights_that_are_patched_whenever_they_are_used(wan, with_block, monkeypatch):
    """As the host does it where the model does not fit on the device."""
    import comfy.model_management as management
    import comfy.model_patcher

    strengths = (1.0, 0.5, 0.25)
    base = wan.predict(wan.model)
    expected = [wan.predict(wan.wear(wan.lora(), strength=strength, **PATCH)) for strength in strengths]
    management.unload_all_models()
    load, patched = comfy.model_patcher.ModelPatcher.load, []

    def with_little_memory(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        load(self, device_to, 1, force_patch_weights, False)
        patched.append(sum(bool(getattr(module, "weight_function", ())) for module in self.model.modules()))

    with monkeypatch.context() as patch:
        patch.setattr(comfy.model_patcher.ModelPatcher, "load", with_little_memory)
        for strength, answer in zip(strengths, expected, strict=True):
            assert torch.equal(wan.predict(wan.wear(wan.lora(), with_block, strength=strength, **PATCH)), answer)
            assert patched[-1] == len(wan.lora()) / 3
            assert torch.equal(wan.predict(with_block), base)
        management.unload_all_models()


def test_beyond_the_compilers_limit_the_answer_is_still_right(wan, backend, compile_block):
    """Code that was compiled too often runs as it is from then on."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=False):
        model, graphs = compile_block(wan.model), backend.graphs
        wan.predict(model)
        for rank in (2, 3, 4):
            lora = wan.lora(rank=rank)
            expected = wan.predict(wan.wear(wan.lora(seed=6), wan.wear(lora, **BYPASS), **BYPASS))
            one = wan.wear(lora, model, **BYPASS)
            wan.predict(one)
            assert torch.equal(wan.predict(wan.wear(wan.lora(seed=6), one, **BYPASS)), expected)
        assert backend.graphs - graphs == 2
    torch._dynamo.reset()


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="inductor needs a C++ compiler")
def test_inductor(wan, monkeypatch):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    # The compiler asks setuptools for paths, which refuses where anybody has loaded Python's own distutils before.
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    torch._dynamo.reset()
    model, lora, base = wan.model.clone(), wan.lora(), wan.predict(wan.model)
    set_torch_compile_wrapper(model, backend="inductor", keys=["diffusion_model.blocks.1.self_attn"])
    assert torch.allclose(wan.predict(model), base, atol=1e-4)
    expected = wan.predict(wan.wear(lora, strength=0.5, **BYPASS))
    assert torch.allclose(wan.predict(wan.wear(lora, model, strength=0.5, **BYPASS)), expected, atol=1e-4)
    assert not torch.allclose(expected, base, atol=5e-3)
