"""LoRA files in every format, through the loaders that other people use."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.fixture(scope="module")
def unet(make_case, sprites):
    return make_case(sprites[0])


def saved(case, lora_folder, lora, format: str):
    """Save Motion LoRA's file."""
    before = set(lora_folder.iterdir())
    case.host.call("SMA_SaveMotionLoRA", lora=lora, filename_prefix="format", format=format)
    (path,) = set(lora_folder.iterdir()) - before
    return path


def motion_lora(case, **settings):
    return case.host.module("sma.files").MotionLoRA(case.lora(**settings), {"rank": 4, "base_model": "test", "seed": 7})


@pytest.mark.parametrize(
    ("model", "format", "reported"),
    [
        ("unet", "ComfyUI", "ComfyUI"),
        ("unet", "kohya", "kohya"),
        ("unet", "diffusers (PEFT)", "diffusers"),
        ("wan", "ComfyUI", "ComfyUI"),
        ("wan", "kohya", "kohya"),
        ("wan", "diffusers (PEFT)", "diffusers"),
    ],
)
def test_what_is_saved_loads_as_the_same_updates_with_its_metadata(request, lora_folder, model, format, reported):
    case = request.getfixturevalue(model)
    lora = motion_lora(case)
    path = saved(case, lora_folder, lora, format)
    layers = len(lora) // 3
    assert f"{layers} layers ({format} format)" in case.said[-1]
    with safe_open(path, framework="pt") as file:
        metadata, keys = file.metadata(), list(file.keys())
    assert (metadata["rank"], metadata["base_model"], json.loads(metadata["seed"])) == ("4", "test", 7)
    from_file = case.predict(case.wear(path.name, apply="bypass"))
    assert case.said[-1] == f"{len(keys)} of {len(keys)} keys applied ({reported} format, rank 4, bypassed)"
    # alpha / rank is 1/2 here: folding it into a factor is exact.
    assert torch.equal(from_file, case.predict(case.wear(lora, apply="bypass")))


@pytest.mark.parametrize(("format", "parts"), [("ComfyUI", 2), ("kohya", 3)])
def test_core_loads_every_key_of_it(case, lora_folder, format, parts):
    import comfy.lora

    path = saved(case, lora_folder, motion_lora(case), format)
    tensors = load_file(path)
    patches = comfy.lora.load_lora(dict(tensors), comfy.lora.model_lora_keys_unet(case.model.model, {}))
    assert len(tensors) == parts * len(patches) > 0
    assert set(case.model.clone().add_patches(patches)) == set(patches)
    (loaded,) = case.host.call("LoraLoaderModelOnly", model=case.model, lora_name=path.name, strength_model=1.0)
    assert torch.equal(case.predict(loaded), case.predict(case.wear(path.name, apply="patch weights")))


def test_core_reads_the_lora_keys_that_diffusers_writes_and_so_do_we(unet, lora_folder):
    """Core knows no layer of a UNet3D under diffusers' names: Load Motion LoRA does."""
    path = saved(unet, lora_folder, motion_lora(unet), "diffusers (PEFT)")
    (core,) = unet.host.call("LoraLoaderModelOnly", model=unet.model, lora_name=path.name, strength_model=1.0)
    assert torch.equal(unet.predict(core), unet.predict(unet.model))
    assert distance(unet.predict(unet.wear(path.name)), unet.predict(unet.model)) > 1e-2


def test_peft_itself_puts_it_on_diffusers_unet3d(unet, lora_folder):
    """diffusers 0.42 has no LoRA loader for UNet3DConditionModel; PEFT, on which its loaders stand, reads the file."""
    from diffusers import UNet3DConditionModel

    peft = pytest.importorskip("peft")
    lora = motion_lora(unet)
    tensors = load_file(saved(unet, lora_folder, lora, "diffusers (PEFT)"))
    host_network = unet.model.model.diffusion_model
    network = UNet3DConditionModel.from_config(host_network._network.config).eval()
    network.load_state_dict({key: value.clone() for key, value in host_network.state_dict().items()})
    names = [key.removeprefix("unet.").removesuffix(".lora_A.weight") for key in tensors if "lora_A" in key]
    ranks = {f"^{name}": tensors[f"unet.{name}.lora_A.weight"].shape[0] for name in names}
    config = peft.LoraConfig(target_modules=names, r=4, lora_alpha=4, rank_pattern=ranks, alpha_pattern=ranks)
    x = torch.randn(unet.latent.shape, generator=torch.Generator().manual_seed(7))
    context = torch.randn(1, 2, network.config.cross_attention_dim, generator=torch.Generator().manual_seed(8))

    def answer():
        with torch.no_grad():
            return network(x, torch.tensor([500]), encoder_hidden_states=context).sample

    base = answer()
    peft.inject_adapter_in_model(config, network)
    result = peft.set_peft_model_state_dict(network, {key.removeprefix("unet."): v for key, v in tensors.items()})
    assert result.unexpected_keys == []
    assert not [key for key in result.missing_keys if "lora_" in key]
    with_peft = answer()
    merged = dict(host_network.state_dict())
    for name, update in unet.host.module("sma.lora_formats").updates_of(lora).items():
        delta = update.scale * update.up.flatten(1) @ update.down.flatten(1)
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + delta.reshape(merged[f"{name}.weight"].shape)
    network = UNet3DConditionModel.from_config(host_network._network.config).eval()
    network.load_state_dict({key: value.clone() for key, value in merged.items()})
    assert distance(with_peft, answer()) <= 1e-4
    assert distance(with_peft, base) > 1e-2


@pytest.mark.parametrize("kind", ["temporal", "spatial"])
def test_motiondirectors_pt_lists_are_worn(unet, lora_folder, kind):
    reading, roles = unet.host.module("sma.lora_motiondirector"), unet.host.module("sma.roles")
    network = unet.model.model.diffusion_model
    everything = roles.layers_of(network, "everything")
    sites = [name for name in everything if re.fullmatch(reading.SITES[kind], name)]
    assert len(sites) > 10
    generator = torch.Generator().manual_seed(4)
    tensors, named = [], {}
    for name in sites:
        layer = network.get_submodule(name)
        up = torch.randn(layer.out_features, 3, generator=generator) * 0.05
        down = torch.randn(3, layer.in_features, generator=generator)
        tensors += [up, down]
        named |= {f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up}
    torch.save(tensors, lora_folder / "1_unet.pt")
    worn = unet.wear("1_unet.pt", apply="bypass")
    count = len(tensors)
    assert unet.said[-1] == f"{count} of {count} keys applied (MotionDirector {kind} format, rank 3, bypassed)"
    assert torch.equal(unet.predict(worn), unet.predict(unet.wear(named, apply="bypass")))
    assert distance(unet.predict(worn), unet.predict(unet.model)) > 1e-2


def test_formats_that_do_not_fit_the_network_are_refused(wan, unet, lora_folder):
    whole = {"diffusion_model.blocks.0.self_attn.q.diff": torch.ones(128, 128)}
    with pytest.raises(ValueError, match="holds differences of the whole weights of 1 layer, as VMC"):
        saved(wan, lora_folder, whole, "diffusers (PEFT)")
    with pytest.raises(ValueError, match="0 of 92 layers lie in motion modules: this LoRA is for UNet3D"):
        saved(unet, lora_folder, motion_lora(unet), "AnimateDiff-Evolved")


def test_a_file_written_anew_is_loaded_anew(unet, lora_folder):
    path = saved(unet, lora_folder, motion_lora(unet), "ComfyUI")
    node = unet.host.node("SMA_LoadMotionLoRA")
    source = {"source": "file", "file": path.name}
    first = node.fingerprint_inputs(model=None, source=source, strength=1.0)
    assert node.fingerprint_inputs(source=source) == first
    os.utime(path, (1, 1))
    assert node.fingerprint_inputs(source=source) != first
    assert path.name in unet.host.module("nodes.host.paths").saved_loras()


def test_an_alpha_of_the_files_metadata_is_applied_and_told(wan, lora_folder):
    """Core applies such a file twice too strong."""
    lora = {key: value for key, value in wan.lora().items() if not key.endswith(".alpha")}
    halved = {key: value / 2 if key.endswith("lora_B.weight") else value for key, value in lora.items()}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 2})}
    save_file(lora, lora_folder / "alpha_2.safetensors", metadata)
    for apply, how in (("patch weights", "patched"), ("bypass", "bypassed")):
        worn = wan.predict(wan.wear("alpha_2.safetensors", apply=apply))
        assert wan.said[-1] == (
            f"{len(lora)} of {len(lora)} keys applied (ComfyUI format, rank 4, alpha 2 from the file's metadata, {how})"
        )
        assert distance(worn, wan.predict(wan.wear(halved, apply=apply))) <= 1e-5
    (core,) = wan.host.call("LoraLoaderModelOnly", model=wan.model, lora_name="alpha_2.safetensors", strength_model=1.0)
    assert distance(wan.predict(core), wan.predict(wan.wear(lora))) <= 1e-5
    assert distance(worn, wan.predict(core)) > 1e-3


def test_pefts_settings_beside_its_file_are_read_and_no_others(wan, lora_folder):
    lora = {key: value for key, value in wan.lora().items() if not key.endswith(".alpha")}
    folder = lora_folder / "peft"
    folder.mkdir()
    save_file(lora, folder / "adapter_model.safetensors")
    save_file(lora, folder / "other.safetensors")
    count = f"{len(lora)} of {len(lora)} keys applied (ComfyUI format, rank 4, "
    wan.wear("peft/adapter_model.safetensors")
    assert wan.said[-1] == f"{count}patched)"
    source = {"source": "file", "file": "peft/adapter_model.safetensors"}
    fingerprint = partial(wan.host.node("SMA_LoadMotionLoRA").fingerprint_inputs, source=source)
    before = fingerprint()
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4, "use_rslora": True}))
    assert fingerprint() != before
    worn = wan.predict(wan.wear("peft/adapter_model.safetensors"))
    assert wan.said[-1] == f"{count}alpha 8 from adapter_config.json, rank-stabilised, patched)"
    assert distance(worn, wan.predict(wan.wear(lora, strength=4.0))) <= 1e-4
    wan.wear("peft/other.safetensors")
    assert wan.said[-1] == f"{count}patched)"
    # A link to elsewhere is not followed.
    (folder / "adapter_config.json").unlink()
    outside = lora_folder.parent / "adapter_config.json"
    outside.write_text(json.dumps({"lora_alpha": 8}))
    (folder / "adapter_config.json").symlink_to(outside)
    wan.wear("peft/adapter_model.safetensors")
    assert wan.said[-1] == f"{count}patched)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (b"\xff\xfe\x00\x80", "adapter_config.json is damaged: it is not JSON"),
        (b"[" * 100_000, "adapter_config.json is damaged: it is not JSON"),
        (b" " * (2**22 + 1), "is over 4 MB; PEFT's hold some kB"),
    ],
)
def test_settings_that_pefts_cannot_be_are_refused(wan, tmp_path_factory, settings, message):
    lora = {key: value for key, value in wan.lora().items() if not key.endswith(".alpha")}
    folder = tmp_path_factory.mktemp("damaged", numbered=True)
    save_file(lora, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_bytes(settings)
    read = wan.host.module("nodes.host.wear").read_source
    with pytest.raises(ValueError, match=message):
        wan.host.module("sma.lora_scales").read_scales(read(folder / "adapter_model.safetensors").metadata)


def test_settings_that_cannot_be_opened_are_refused_without_their_path(wan, tmp_path, monkeypatch):
    save_file(wan.lora(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")

    def opened(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(ValueError, match="Permission denied.*Let ComfyUI read it") as refusal:
        wan.host.module("nodes.host.wear").read_source(tmp_path / "adapter_model.safetensors")
    assert str(tmp_path) not in str(refusal.value)


def test_a_lora_of_8_bit_floats_is_saved_as_it_is(host, said):
    """As core's loaders hand one on; older releases of PyTorch cannot tell of these types whether they are finite."""
    eights = {f"diffusion_model.a.lora_{side}.weight": torch.ones(2, 2).to(torch.float8_e4m3fn) for side in "AB"}
    host.call("SMA_SaveMotionLoRA", lora=eights, filename_prefix="eights")
    assert any("1 layers" in line or "1 layer" in line for line in said)
    eights["diffusion_model.a.lora_A.weight"] = torch.full((2, 2), float("nan")).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="holds 4 NaN or infinite values of 4"):
        host.call("SMA_SaveMotionLoRA", lora=eights, filename_prefix="eights")
