"""Every kind of update that hosts know, worn as core wears it or refused in a sentence; every number format."""

from __future__ import annotations

import pytest
import torch

LAYER = "diffusion_model.blocks.0.self_attn.q"


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def draw(*shape: int, seed: int = 0, scale: float = 0.1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def products(stem: str = LAYER) -> dict[str, torch.Tensor]:
    return {f"{stem}.lora_A.weight": draw(4, 128, scale=1.0), f"{stem}.lora_B.weight": draw(128, 4, seed=1)}


# A layer of [128, 128].
KINDS = {
    "LoHa": {
        "hada_w1_a": draw(128, 4, seed=1, scale=1.0),
        "hada_w1_b": draw(4, 128, seed=2),
        "hada_w2_a": draw(128, 4, seed=3, scale=1.0),
        "hada_w2_b": draw(4, 128, seed=4),
        "alpha": torch.tensor(2.0),
    },
    "LoKr": {"lokr_w1": draw(8, 8, seed=1), "lokr_w2": draw(16, 16, seed=2), "alpha": torch.tensor(1.0)},
    "LoKr in factors": {
        "lokr_w1": draw(8, 8, seed=1),
        "lokr_w2_a": draw(16, 2, seed=2, scale=1.0),
        "lokr_w2_b": draw(2, 16, seed=3),
        "alpha": torch.tensor(1.0),
    },
    "GLoRA": {
        "a1.weight": draw(128, 4, seed=1),
        "a2.weight": draw(4, 128, seed=2),
        "b1.weight": draw(128, 4, seed=3),
        "b2.weight": draw(4, 128, seed=4),
    },
    "OFT": {"oft_blocks": draw(16, 8, 8, seed=1)},
    "OFT with a bound": {"oft_blocks": draw(16, 8, 8, seed=1), "alpha": torch.tensor(0.5)},
    "BOFT": {"oft_blocks": draw(2, 16, 8, 8, seed=1), "alpha": torch.tensor(0.5)},
    "difference": {"diff": draw(128, 128), "diff_b": draw(128, seed=1)},
    "whole weight": {"set_weight": draw(128, 128)},
    "DoRA of kohya, of outputs": {
        "lora_down.weight": draw(4, 128, scale=1.0),
        "lora_up.weight": draw(128, 4, seed=1),
        "dora_scale": draw(128, 1, seed=2) + 1,
        "alpha": torch.tensor(2.0),
    },
    "DoRA of kohya, of inputs": {
        "lora_down.weight": draw(4, 128, scale=1.0),
        "lora_up.weight": draw(128, 4, seed=1),
        "dora_scale": draw(1, 128, seed=2) + 1,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_worn_as_core_wears_it(wan, kind):
    lora = {f"{LAYER}.{part}": value for part, value in KINDS[kind].items()}
    worn = wan.predict(wan.wear(lora))
    assert wan.said[-1] == f"{len(lora)} of {len(lora)} keys applied (by core's own rules, patched)"
    assert distance(worn, wan.predict(wan.core(lora))) <= 1e-5
    assert distance(worn, wan.predict(wan.model)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_another_size_is_refused_and_not_dropped(wan, kind):
    """Core logs a line and samples without it."""
    # ffn.0 is a weight of 64 outputs.
    lora = {f"diffusion_model.blocks.0.ffn.0.{part}": value for part, value in KINDS[kind].items()}
    with pytest.raises(ValueError, match=r"(does not fit|is \[.*\] and the weight \[64)"):
        wan.wear(lora)


@pytest.mark.parametrize("part", ["lokr_w1", "lokr_w2", "lokr_w2_a"])
def test_a_part_of_a_lokr_alone_is_refused(wan, part):
    """The host's code stumbles over it."""
    with pytest.raises(ValueError, match=r"(does not fit that weight .* or damaged|is incomplete)"):
        wan.wear({f"{LAYER}.{part}": KINDS["LoKr in factors"].get(part, draw(16, 16))})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "DoRA" not in kind and kind != "whole weight"])
def test_a_kind_of_zeros_is_told(wan, kind):
    lora = {
        f"{LAYER}.{part}": value if part == "alpha" else torch.zeros_like(value) for part, value in KINDS[kind].items()
    }
    assert wan.wear(lora) is wan.model
    assert wan.said[-1].startswith(f"0 of {len(lora)} keys applied")
    assert torch.equal(wan.predict(wan.core(lora)), wan.predict(wan.model))


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "difference"])
def test_a_kind_is_known_under_every_name_of_its_layer(wan, kind):
    ours = wan.predict(wan.wear({f"{LAYER}.{part}": value for part, value in KINDS[kind].items()}))
    for stem in (
        "lora_unet_blocks_0_self_attn_q",
        "lycoris_blocks_0_attn1_to_q",
        "transformer.blocks.0.attn1.to_q",
        "base_model.model._orig_mod.blocks.0.self_attn.q",
    ):
        lora = {f"{stem}.{part}": value for part, value in KINDS[kind].items()}
        assert torch.equal(wan.predict(wan.wear(lora)), ours), stem
        assert wan.said[-1].startswith(f"{len(lora)} of {len(lora)} keys applied")


def test_a_bias_for_a_layer_without_one_is_unknown(wan):
    layer = wan.model.model.diffusion_model.blocks[0].self_attn.q
    lora, bias = products() | {f"{LAYER}.diff_b": draw(128)}, layer.bias
    layer.bias = None
    try:
        worn = wan.wear(lora)
    finally:
        layer.bias = bias
    assert (
        wan.said[-1] == f"2 of 3 keys applied (ComfyUI format, rank 4, patched), 1 unknown, for example {LAYER}.diff_b"
    )
    assert torch.equal(wan.predict(worn), wan.predict(wan.core(products())))


@pytest.mark.parametrize("apply", ["patch weights", "bypass"])
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_every_number_format_is_worn_as_core_wears_it(wan, dtype, apply):
    dtype = getattr(torch, dtype)
    lora = {key: value.to(dtype) for key, value in products().items()} | {f"{LAYER}.alpha": torch.tensor(2.0).to(dtype)}
    worn = wan.predict(wan.wear(lora, apply=apply))
    assert wan.said[-1].startswith("3 of 3 keys applied (ComfyUI format, rank 4, ")
    assert distance(worn, wan.predict(wan.core(lora))) <= 1e-4
    assert distance(worn, wan.predict(wan.model)) > 1e-3


@pytest.mark.parametrize("alpha", [torch.tensor([2.0]), torch.tensor([[2.0]]), torch.tensor(2), torch.full((4,), 2.0)])
def test_an_alpha_may_have_any_shape_that_holds_one_number(wan, alpha):
    expected = wan.predict(wan.wear(products() | {f"{LAYER}.alpha": torch.tensor(2.0)}))
    assert torch.equal(wan.predict(wan.wear(products() | {f"{LAYER}.alpha": alpha})), expected)


def test_alphas_that_differ_and_factors_of_whole_numbers_are_refused(wan):
    with pytest.raises(ValueError, match=r"q\.alpha holds 2 values, and one is needed"):
        wan.wear(products() | {f"{LAYER}.alpha": torch.tensor([1.0, 2.0])})
    with pytest.raises(ValueError, match=r"q\.lora_A\.weight is stored as int8; only floating-point LoRAs can be read"):
        wan.wear(products() | {f"{LAYER}.lora_A.weight": torch.ones(4, 128, dtype=torch.int8)})


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "difference"])
def test_other_kinds_of_whole_numbers_are_refused(wan, kind):
    lora = {f"{LAYER}.{part}": (9 * value).round().to(torch.int8) for part, value in KINDS[kind].items()}
    with pytest.raises(ValueError, match=r"is stored as int8; only floating-point LoRAs can be read"):
        wan.wear(lora)


def test_what_nothing_reads_is_not_counted_as_applied(wan):
    """Beside a product that is worn: a bias of its factor, and a second adapter's half."""
    lora = products() | {f"{LAYER}.lora_B.bias": draw(128), f"{LAYER}.lora_A.second.weight": draw(4, 128)}
    wan.wear(lora)
    assert wan.said[-1].startswith("2 of 4 keys applied (ComfyUI format, rank 4, patched), 2 unknown, for example ")


@pytest.mark.parametrize("end", ["lora_A.weight_scale", "lora_up.scale_weight", "lora_down.weight.scale"])
def test_a_scale_of_quantised_factors_is_refused(wan, end):
    """Without it the factors have another strength."""
    with pytest.raises(ValueError, match=rf"q\.{end} scales a factor, and its format is not known here"):
        wan.wear(products() | {f"{LAYER}.{end}": torch.tensor(3.0)})


@pytest.mark.parametrize("layer", ["blocks.0.self_attn.q", "patch_embedding"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_pefts_dora_is_worn_as_peft_computes_it(wan, layer, strength):
    peft = pytest.importorskip("peft")
    module = wan.model.model.diffusion_model.get_submodule(layer)
    weight, bias = module.weight.detach().float().clone(), module.bias.detach().float().clone()
    if weight.ndim == 2:
        plain = torch.nn.Linear(*weight.shape[::-1])
    else:
        plain = torch.nn.Conv3d(weight.shape[1], weight.shape[0], module.kernel_size, module.stride)
    plain.weight.data, plain.bias.data = weight.clone(), bias
    tree = torch.nn.ModuleDict({"layer": plain})
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], use_dora=True, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peft.inject_adapter_in_model(config, tree)
        tensors = peft.get_peft_model_state_dict(tree)
        magnitude = next(key for key in tensors if "magnitude" in key)
        tensors[magnitude].mul_(1.5)
        x = torch.randn(2, *weight.shape[1:]) if weight.ndim == 2 else torch.randn(2, weight.shape[1], 2, 4, 4)
    expected = tree["layer"](x).detach()
    lora = {key.replace("layer.", f"{layer}.", 1): value.detach().clone() for key, value in tensors.items()}
    source = wan.host.module("sma.files").MotionLoRA(lora, {"adapter_config.json": config.to_dict() | {"x": 1}})
    worn = wan.wear(source, strength=strength)
    assert wan.said[-1] == "3 of 3 keys applied (diffusers format, rank 4, alpha 6 from adapter_config.json, patched)"
    import comfy.lora

    patches = worn.patches[f"diffusion_model.{layer}.weight"]
    changed = comfy.lora.calculate_weight(patches, weight.clone(), layer)
    plain = plain.get_base_layer() if hasattr(plain, "get_base_layer") else plain
    base = plain(x).detach()
    plain.weight.data = changed
    assert distance(plain(x).detach(), base + strength * (expected - base)) <= 1e-5
    assert distance(expected, base) > 1e-2


@pytest.mark.parametrize("rank", [4, 64])
@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_pefts_loha_and_lokr_are_as_strong_as_peft_has_them(wan, kind, rank):
    """At rank 64 a LoKr of this layer has whole factors, which do not show their rank."""
    peft = pytest.importorskip("peft")
    import comfy.lora

    config = {"LoHa": peft.LoHaConfig, "LoKr": peft.LoKrConfig}[kind](r=rank, alpha=2, target_modules=["q"])
    tree = torch.nn.ModuleDict({"q": torch.nn.Linear(128, 128)})
    wrapped = peft.inject_adapter_in_model(config, tree)["q"]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in (value for name, value in wrapped.named_parameters() if "base_layer" not in name):
            value.copy_(torch.randn(value.shape, generator=generator))
    stem = "base_model.model.blocks.0.attn1.to_q"
    tensors = peft.get_peft_model_state_dict(tree)
    lora = {key.replace("q.", f"{stem}.", 1): value.detach().clone() for key, value in tensors.items()}
    settings = {key: value for key, value in config.to_dict().items() if not isinstance(value, set)}
    worn = wan.wear(wan.host.module("sma.files").MotionLoRA(lora, {"adapter_config.json": settings}))
    assert wan.said[-1].startswith(
        f"{len(lora)} of {len(lora)} keys applied (by core's own rules, alpha 2 from adapter_c"
    )
    zero = torch.zeros(128, 128)
    changed = comfy.lora.calculate_weight(worn.patches[f"{LAYER}.weight"], zero, LAYER)
    expected = wrapped.get_delta_weight("default").detach()
    assert distance(changed, expected) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("end", ["oft_R.weight", "vera_lambda_b", "lora_embedding_A"])
def test_a_kind_that_nothing_here_knows_is_named(wan, end):
    lora = {f"base_model.model.blocks.0.attn1.to_q.{end}": torch.ones(2, 2)}
    with pytest.raises(
        ValueError, match=rf"changes blocks\.0\.self_attn\.q in a way .* known here \(.*{end}, ...\)\. Exp"
    ):
        wan.wear(lora)
    wan.wear(products() | lora)
    assert wan.said[-1].startswith(
        "2 of 3 keys applied (ComfyUI format, rank 4, patched), 1 unknown, for example base_model"
    )
