"""LoRAs under every program's names of a network's layers: worn as under our own, in patches, bypass and ranges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import write_hunyuan, write_ltx, write_wan_i2v


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.fixture(scope="module", params=["hunyuan", "wan i2v", "ltx"])
def net(request, host, make_case):
    write = {"hunyuan": write_hunyuan, "wan i2v": write_wan_i2v, "ltx": write_ltx}[request.param]
    name = write(Path(host.base) / "models")
    (model,) = host.call("UNETLoader", unet_name=name, weight_dtype="default")
    generator = torch.Generator().manual_seed(6)
    others = {"pooled_output": torch.randn(1, 768, generator=generator)}
    if request.param == "ltx":
        others["attention_mask"] = torch.ones(1, 4)
    if request.param == "wan i2v":
        channels = model.model.latent_format.latent_channels
        others |= {
            "concat_latent_image": torch.randn(1, channels, 4, 4, 4, generator=generator),
            "concat_mask": torch.ones(1, 1, 4, 4, 4),
            "clip_vision_output": type("Vision", (), {"penultimate_hidden_states": torch.randn(1, 5, 1280)})(),
        }
    cond = [[torch.randn(1, 4, 32, generator=generator), others]]
    return make_case(model, positive=cond, negative=cond)


def ours(case, *, rank: int = 4) -> dict[str, torch.Tensor]:
    """A LoRA of every layer whose place in a network programs name differently, with alphas."""
    network = case.model.model.diffusion_model
    reading = case.host.module("sma.lora_layers")
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, module in network.named_modules():
        if reading.is_adaptable(module):
            shape = tuple(module.weight.shape)
            stem = f"diffusion_model.{name}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, *shape[1:], generator=generator) / shape[1] ** 0.5
            up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)
            tensors[f"{stem}.lora_B.weight"] = up * 0.05
            tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    return tensors


def renamed(case, lora, program: str, *, apart: bool = False) -> dict[str, torch.Tensor]:
    """The same LoRA as a program with other layers has it.

    apart: layers that the program splits are not copies of one another, so that they share no factor and no scale.
    """
    names = case.host.module("sma.layer_names")
    network = case.model.model.diffusion_model
    tensors = {}
    for key, down in lora.items():
        if not key.endswith(".lora_A.weight"):
            continue
        stem = key.removesuffix(".lora_A.weight")
        module = stem.removeprefix("diffusion_model.")
        up, alpha = lora[f"{stem}.lora_B.weight"], lora[f"{stem}.alpha"]
        for index, part in enumerate(names.parts_of(module, program, network.get_submodule(module).weight.shape)):
            rows = torch.cat([up[start:end] for start, end in part.rows]) if part.rows else up
            # A factor of 2^n in one factor and out of the other: the product is the same to the last bit.
            by = 2.0**index if apart else 1.0
            tensors[f"transformer.{part.name}.lora_A.weight"] = down * by
            tensors[f"transformer.{part.name}.lora_B.weight"] = rows.contiguous()
            tensors[f"transformer.{part.name}.alpha"] = alpha / by
    return tensors


@pytest.mark.parametrize("apply", ["patch weights", "bypass"])
def test_diffusers_names_are_worn_as_ours(net, apply):
    lora = ours(net)
    expected = net.predict(net.wear(lora, apply=apply))
    assert distance(expected, net.predict(net.model)) > 1e-2
    theirs = renamed(net, lora, "diffusers")
    worn = net.predict(net.wear(theirs, apply=apply))
    assert f"{len(theirs)} of {len(theirs)} keys applied (" in net.said[-1]
    assert net.said[-1].endswith(", rank 4, bypassed)" if apply == "bypass" else ", rank 4, patched)")
    assert distance(worn, expected) <= 1e-5
    apart = renamed(net, lora, "diffusers", apart=True)
    assert distance(net.predict(net.wear(apart, apply=apply)), expected) <= 1e-4
    assert f"{len(apart)} of {len(apart)} keys applied (" in net.said[-1]


def test_core_alone_reads_few_of_those(net):
    """What the reader is for: of diffusers' Hunyuan and Wan names core knows none, of LTX' those that are the same."""
    import comfy.lora

    theirs = renamed(net, ours(net), "diffusers")
    known = comfy.lora.load_lora(dict(theirs), comfy.lora.model_lora_keys_unet(net.model.model, {}), log_missing=False)
    assert 3 * len(known) < len(theirs)


def test_wrappers_are_taken_off(net):
    lora = ours(net)
    expected = net.predict(net.wear(lora, apply="bypass"))
    theirs = renamed(net, lora, "diffusers")
    for wrapper in ("base_model.model.", "transformer._orig_mod.", "module.transformer.", "unet.base_model.model.", ""):
        wrapped = {key.replace("transformer.", wrapper, 1): value for key, value in theirs.items()}
        worn = net.wear(wrapped, apply="bypass")
        assert f"{len(theirs)} of {len(theirs)} keys applied (" in net.said[-1], wrapper
    assert distance(net.predict(worn), expected) <= 1e-5


@pytest.mark.parametrize("program", ["ours", "diffusers", "original"])
def test_underscored_names_are_worn_as_ours(net, program):
    lora = ours(net)
    theirs = lora if program == "ours" else renamed(net, lora, program)
    ends = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight", "alpha": "alpha"}
    expected = net.predict(net.wear(lora, apply="bypass"))
    for prefix in ("lora_unet__", "lora_transformer_", "lycoris_", "lora_unet__orig_mod_", "lora_unet_"):
        kohya = {}
        for key, value in theirs.items():
            end = next(end for end in ends if key.endswith(end))
            stem = key.split(".", 1)[1].removesuffix(f".{end}").replace(".", "_")
            kohya[f"{prefix}{stem}.{ends[end]}"] = value
        if program == "original" and not kohya:
            assert "Hunyuan" not in type(net.model.model).__name__
            continue
        worn = net.wear(kohya, apply="bypass")
        assert net.said[-1] == f"{len(kohya)} of {len(kohya)} keys applied (kohya format, rank 4, bypassed)", prefix
        assert distance(net.predict(worn), expected) <= 1e-5


@pytest.mark.parametrize("net", ["hunyuan"], indirect=True)
def test_hunyuans_original_names_in_bypass_and_ranges(net):
    lora = ours(net)
    original = renamed(net, lora, "original")
    expected, base = net.predict(net.wear(lora, apply="bypass")), net.predict(net.model, (0.4, 0.6))
    for wrapper in ("transformer.", "", "diffusion_model."):
        wrapped = {key.replace("transformer.", wrapper, 1): value for key, value in original.items()}
        worn = net.wear(wrapped, apply="bypass")
        count = f"{len(wrapped)} of {len(wrapped)} keys applied"
        assert net.said[-1] == f"{count} (original HunyuanVideo format, rank 4, bypassed)"
    assert torch.equal(net.predict(worn), expected)
    early = net.predict(net.wear(wrapped, end_percent=0.5), (0.4, 0.6))
    assert torch.equal(early, torch.cat([expected, base[1:]]))
    assert distance(expected, base[:1]) > 1e-2


@pytest.mark.parametrize("net", ["hunyuan"], indirect=True)
def test_other_kinds_of_a_split_layer_change_their_rows_alone(net):
    """A LoKr of the keys of one attention, by diffusers' name: the difference of those rows of the fused layer."""
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.randn(size, size, generator=generator) * 0.2 for size in (8, 16))
    stem, fused = "transformer.transformer_blocks.0.attn", "diffusion_model.double_blocks.0.img_attn.qkv"
    worn = net.predict(net.wear({f"{stem}.to_k.lokr_w1": first, f"{stem}.to_k.lokr_w2": second}))
    assert net.said[-1] == "2 of 2 keys applied (by core's own rules, patched)"
    difference = torch.zeros(384, 128)
    difference[128:256] = torch.kron(first, second)
    assert distance(worn, net.predict(net.core({f"{fused}.diff": difference}))) <= 1e-5
    bias = torch.randn(128, generator=generator)
    worn = net.predict(net.wear({f"{stem}.to_v.diff_b": bias}))
    expected = {f"{fused}.diff_b": torch.cat([torch.zeros(256), bias])}
    assert distance(worn, net.predict(net.core(expected))) <= 1e-5
    assert distance(worn, net.predict(net.model)) > 1e-3
    with pytest.raises(
        ValueError, match=r"the lokr update of .*img_attn\.qkv\.weight, made of .* fit that weight \[128, 128\]"
    ):
        net.wear({f"{stem}.to_k.lokr_w1": first, f"{stem}.to_k.lokr_w2": first})


def test_of_the_right_family_a_layer_that_is_lacking_is_named(net):
    lora = {}
    for key, value in ours(net).items():
        if "blocks.0." in key and "txt_in" not in key and "_in." not in key:
            lora[key.replace("blocks.0.", "blocks.77.", 1)] = value
    with pytest.raises(
        ValueError, match=r"was made for another (\S+) than this one, which has no layer \S*blocks\.77\."
    ):
        net.wear(lora)


def test_names_that_nothing_knows_are_no_reason_to_load_another_model(net):
    here = net.host.module("sma.roles").family_of(net.model.model.diffusion_model).name
    lora = {f"some.thing.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    source = net.host.module("sma.files").MotionLoRA(lora, {"base_model": f"{here} 2.1"})
    for given in (lora, source):
        with pytest.raises(ValueError) as error:
            net.wear(given)
        assert "like 'some.thing'. If it is for this model, export it" in str(error.value)
        assert "Load " not in str(error.value)


@pytest.mark.parametrize(
    "net, program",
    [("hunyuan", "ours"), ("hunyuan", "diffusers"), ("hunyuan", "original"), ("ltx", "ours"), ("ltx", "diffusers")],
    indirect=["net"],
)
@pytest.mark.parametrize("kohya", [False, True])
def test_of_another_family_it_is_named_whatever_the_names(net, wan, program, kohya):
    names = net.host.module("sma.roles").family_of(net.model.model.diffusion_model).name
    lora = ours(net)
    lora = {key: value for key, value in lora.items() if ".attn1." in key or "_attn.qkv" in key}
    theirs = lora if program == "ours" else renamed(net, lora, program)
    assert theirs
    if kohya:
        theirs = {
            f"lora_unet_{'_'.join(key.split('.')[1:-2])}.lora_{'down' if 'lora_A' in key else 'up'}.weight": value
            for key, value in theirs.items()
            if ".lora_" in key
        }
    with pytest.raises(ValueError, match=rf"was made for {names} \(.*\); this model is Wan\. Load the model"):
        wan.wear(theirs)
