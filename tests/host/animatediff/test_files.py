"""Which files Load AnimateDiff Model takes, and in which sentence it refuses the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny_animatediff as tiny
import torch
from safetensors.torch import load_file, save_file


def test_without_diffusers_it_lists_its_files_and_says_what_to_install(host, case, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    node = host.module("nodes.animatediff").LoadAnimateDiffModel
    (modules,) = [item.options for item in node.define_schema().inputs if item.id == "motion_module"]
    assert case.motion_module in modules
    base = {"base": "diffusers folder", "folder": "tiny-sd15"}
    with pytest.raises(
        ImportError,
        match=r'^AnimateDiff needs diffusers, which is not installed\. Run .* "diffusers>=0\.31,<0\.\d+" and',
    ):
        host.call(node, base=base, motion_module=case.motion_module, weights="as stored")


def test_other_bases_are_refused(host, models, case):
    module = case.module
    tiny.write_checkpoint(models, "inpainting.safetensors", whole=False, in_channels=9)
    tiny.write_checkpoint(models, "sd2.safetensors", whole=False, context_dim=1024, use_linear_in_transformer=True)
    save_file(
        {"model.diffusion_model.x_embedder.weight": torch.zeros(2, 2)}, models / "checkpoints" / "other.safetensors"
    )
    tiny.write_folder(models, "sd2", tiny.UNET2D | {"cross_attention_dim": 1024})
    tiny.write_folder(models, "inpainting", tiny.UNET2D | {"in_channels": 9})
    for base, message in (
        (
            module.Checkpoint("inpainting.safetensors"),
            "takes text of 768 channels and 9 input channels; AnimateDiff needs 768 and 4",
        ),
        (module.Checkpoint("sd2.safetensors"), r"sd2\.safetensors is of the kind SD2\w*; AnimateDiff needs"),
        (module.Checkpoint("other.safetensors"), r"other\.safetensors is not recognised; AnimateDiff needs"),
        (module.Folder("sd2"), "sd2 takes text of 1024 channels and 4 input channels"),
        (module.Folder("inpainting"), "takes text of 768 channels and 9 input channels"),
        (module.Folder("absent"), "no model folder 'absent'"),
    ):
        with pytest.raises(ValueError, match=message):
            module.load_model(base, case.motion_module)


def test_motion_modules_that_do_not_fit_are_refused(host, models, case):
    name, *_ = tiny.write_motion_module(models, "v3", [32, 96])
    with pytest.raises(ValueError, match="motion module has widths 32-96 and the base model 32-64"):
        case.module.load_model(case.base, name)
    path = models / "animatediff_models" / case.motion_module
    weights = load_file(path)
    to_q = next(name for name in weights if name.endswith("to_q.weight"))
    proj = next(name for name in weights if name.endswith("proj_in.weight"))
    weights["mid_block.motion_modules.0.surplus"] = weights.pop(to_q)
    weights[proj] = weights[proj][:1].clone()
    save_file(weights, path.with_name("broken.safetensors"))
    with pytest.raises(
        ValueError,
        match=r"lack 1 tensor \(.*to_q.*have 1 tensor too many \(.*surplus'\) and have 1 tensor of another shape",
    ):
        case.module.load_model(case.base, "broken.safetensors")
    save_file(load_file(path) | {"conv_in.weight": torch.zeros(32, 9, 3, 3)}, path.with_name("pia.safetensors"))
    with pytest.raises(
        ValueError, match=r"pia\.safetensors holds 1 tensors that are not of a motion module \(.*'conv_in"
    ):
        case.module.load_model(case.base, "pia.safetensors")
    save_file({"conv_in.weight": torch.zeros(1)}, path.with_name("none.safetensors"))
    with pytest.raises(ValueError, match="None of the file's 1 tensors is of an AnimateDiff motion module"):
        case.module.load_model(case.base, "none.safetensors")


def test_the_folder_of_motion_modules_is_shared_with_animatediff_evolved(host, case, monkeypatch):
    import folder_paths

    names = case.module.motion_modules()
    paths, _ = folder_paths.folder_names_and_paths["animatediff_models"]
    assert paths == [str(Path(folder_paths.models_dir) / "animatediff_models")]
    # That pack adds its own folder, then this one, then the suffixes it wants.
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "animatediff_models", (["elsewhere", *paths], {".ckpt"}))
    folder_paths.filename_list_cache.pop("animatediff_models", None)
    seen = case.module.motion_modules()
    assert folder_paths.folder_names_and_paths["animatediff_models"] == (["elsewhere", *paths], {".ckpt"})
    assert {name for name in names if name.endswith(".ckpt") or "/" in name} == set(seen)
    folder_paths.filename_list_cache.pop("animatediff_models", None)
