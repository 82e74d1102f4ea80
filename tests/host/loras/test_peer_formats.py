"""Every format that Save Motion LoRA writes, in core's Load LoRA and in ours, for every family: how many layers each applies, and how."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_animatediff
import tiny_models
import torch

FAMILIES = ("UNet3D", "AnimateDiff", "Wan t2v", "Wan i2v", "LTX-Video", "HunyuanVideo")
FORMATS = ("ComfyUI", "kohya", "diffusers (PEFT)")
CELLS = [*((family, format) for family in FAMILIES for format in FORMATS), ("AnimateDiff", "AnimateDiff-Evolved")]


@pytest.fixture(scope="module")
def models(host, sprites):
    """Family -> MODEL, loaded when it is first asked for."""
    folder, loaded = Path(host.base) / "models", {"UNet3D": sprites[0]}

    def animatediff():
        tiny_animatediff.write_folder(folder, "peer-sd15")
        name, *_ = tiny_animatediff.write_motion_module(folder, "v2", tiny_animatediff.UNET2D["block_out_channels"])
        loader = host.module("nodes.host.animatediff")
        with torch.inference_mode():
            return loader.load_model(loader.Folder("peer-sd15"), name)

    def native(file):
        return host.call("UNETLoader", unet_name=file, weight_dtype="default")[0]

    make = {
        "AnimateDiff": animatediff,
        "Wan t2v": lambda: native(tiny_models.write_wan(folder)[0]),
        "Wan i2v": lambda: native(tiny_models.write_wan_i2v(folder)),
        "LTX-Video": lambda: native(tiny_models.write_ltx(folder)),
        "HunyuanVideo": lambda: native(tiny_models.write_hunyuan(folder)),
    }

    def model(family):
        if family not in loaded:
            loaded[family] = make[family]()
        return loaded[family]

    return model


def lora_for(host, model, *, whole: bool = False) -> dict[str, torch.Tensor]:
    """A LoRA of ours on all layers of the network that play a role, with random values, or differences of the whole weights."""
    roles, attach = host.module("sma.roles"), host.module("sma.lora").attach
    network = model.model.diffusion_model
    generator = torch.Generator().manual_seed(5)
    names = roles.layers_of(network, "everything")
    adapter = attach(
        network, names, rank=3, alpha=3, kind="full" if whole else "lora", generator=generator, device="cpu"
    )
    with torch.no_grad():
        for value in adapter.parameters():
            value.normal_(generator=generator)
    adapter.detach()
    return adapter.export("diffusion_model.")


def added_by_core(model, tensors) -> dict[str, torch.Tensor]:
    """What core's Load LoRA adds to each weight of a model."""
    import comfy.lora

    patches = comfy.lora.load_lora(dict(tensors), comfy.lora.model_lora_keys_unet(model.model, {}), log_missing=False)
    assert set(model.clone().add_patches(patches)) == set(patches)
    weights = model.model.state_dict()
    return {
        key: comfy.lora.calculate_weight(
            [(1.0, patch, 1.0, None, None)], torch.zeros_like(weights[key], dtype=torch.float32), key
        )
        for key, patch in patches.items()
    }


def expected(lora) -> dict[str, torch.Tensor]:
    down = {key.removesuffix(".lora_A.weight"): value for key, value in lora.items() if key.endswith("lora_A.weight")}
    products = {
        f"{name}.weight": torch.einsum("or,ri...->oi...", lora[f"{name}.lora_B.weight"].flatten(1), value)
        for name, value in down.items()
    }
    return products | {key.replace(".diff", ".weight"): value for key, value in lora.items() if key.endswith(".diff")}


# Layers of a LoRA on all of a network's, and how many of them core's Load LoRA applies by format. It knows no layer by diffusers' names.
APPLIED_BY_CORE = {
    "UNet3D": (132, {"ComfyUI": 132, "kohya": 132, "diffusers (PEFT)": 0}),
    "AnimateDiff": (132, {"ComfyUI": 132, "kohya": 132, "diffusers (PEFT)": 0, "AnimateDiff-Evolved": 0}),
    "Wan t2v": (20, {"ComfyUI": 20, "kohya": 20, "diffusers (PEFT)": 0}),
    "Wan i2v": (24, {"ComfyUI": 24, "kohya": 24, "diffusers (PEFT)": 0}),
    "LTX-Video": (20, {"ComfyUI": 20, "kohya": 20, "diffusers (PEFT)": 0}),
    # Not the four layers of the feed-forward, which core expects under its own names.
    "HunyuanVideo": (12, {"ComfyUI": 12, "kohya": 8, "diffusers (PEFT)": 0}),
}


def written(host, lora, format):
    return host.module("sma.lora_formats").to_format(lora, host.module("nodes.save").FORMATS[format]).tensors


@pytest.mark.parametrize(("family", "format"), CELLS)
def test_core_applies(host, models, family, format):
    model = models(family)
    lora = lora_for(host, model)
    added, whole = added_by_core(model, written(host, lora, format)), expected(lora)
    layers, applied = APPLIED_BY_CORE[family]
    assert (len(whole), len(added)) == (layers, applied[format])
    for key, value in added.items():
        torch.testing.assert_close(value, whole[key], rtol=0, atol=1e-4)


@pytest.mark.parametrize("format", ["ComfyUI", "kohya"])
@pytest.mark.parametrize("family", FAMILIES)
def test_core_applies_whole_weights(host, models, family, format):
    model = models(family)
    lora = lora_for(host, model, whole=True)
    added, whole = added_by_core(model, written(host, lora, format)), expected(lora)
    layers, applied = APPLIED_BY_CORE[family]
    assert (len(whole), len(added)) == (layers, applied[format])
    assert all(torch.equal(value, whole[key]) for key, value in added.items())


@pytest.mark.parametrize(("family", "format"), CELLS)
def test_load_motion_lora_applies(host, models, said, family, format):
    model = models(family)
    assert_worn_whole(host, model, said, written(host, lora_for(host, model), format))


@pytest.mark.parametrize("format", ["ComfyUI", "kohya"])
@pytest.mark.parametrize("family", FAMILIES)
def test_load_motion_lora_applies_whole_weights(host, models, said, family, format):
    model = models(family)
    assert_worn_whole(host, model, said, written(host, lora_for(host, model, whole=True), format))


def assert_worn_whole(host, model, said, tensors) -> None:
    host.call(
        "SMA_LoadMotionLoRA",
        model=model,
        source={"source": "trained", "lora": tensors},
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
        first_frame=0,
        last_frame=-1,
        apply="auto",
    )
    assert said[-1].startswith(f"{len(tensors)} of {len(tensors)} keys applied")
