"""What Load Text-to-Video Model finds, reads and refuses."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_diffusers import SCHEDULER, TEXT_ENCODER, UNET, VAE, random_weights, text_encoder_weights

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


def load(host, weights: str = "as stored", **source) -> tuple:
    return host.call("SMA_LoadTextToVideoModel", source=source, weights=weights)


@pytest.fixture
def broken(folders) -> Path:
    """A copy of the folder to spoil; its big text encoder is never reached."""
    folder = folders / "broken"
    shutil.copytree(folders / "zero", folder)
    yield folder
    shutil.rmtree(folder)


def test_only_folders_of_this_network_are_listed(host, folders):
    unets = {"group/sd15": "UNet2DConditionModel", "crafter": "UNet3DVideoCrafterConditionModel", "damaged": None}
    for name, unet in unets.items():
        (folders / name).mkdir(parents=True)
        (folders / name / "model_index.json").write_text(json.dumps({"unet": ["library", unet]}) if unet else "{")
    module = host.module("nodes.host.diffusers_folder")
    assert module.model_folders("UNet3DConditionModel") == ["zero", "zero-v"]
    assert "group/sd15" in module.model_folders("UNet2DConditionModel")
    assert not {"crafter", "damaged", "zero"} & set(module.model_folders("UNet2DConditionModel"))
    (source, *_) = host.node("SMA_LoadTextToVideoModel").define_schema().inputs
    assert source.options[0].inputs[0].options == ["crafter", "zero", "zero-v"]
    with pytest.raises(ValueError, match="no model folder '../secret'"):
        module.folder_path("../secret")
    for name in ("group", "crafter", "damaged"):
        shutil.rmtree(folders / name)


def test_an_empty_list_says_where_to_put_files(host, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [])
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda name: [])
    (source, *_) = host.node("SMA_LoadTextToVideoModel").define_schema().inputs
    hints = [item.options[0] for option in source.options for item in option.inputs]
    assert hints == [
        f"nothing found in models/{name}" for name in ("diffusers", "diffusion_models", "text_encoders", "vae")
    ] + ["epsilon"]


def test_a_pickled_v_prediction_folder_loads_and_says_what_it_is(host, folders, said):
    from comfy.model_base import ModelType

    model, _, _ = load(host, source="diffusers folder", folder="zero-v")
    assert model.model.model_type == ModelType.V_PREDICTION
    assert type(model.model).__name__ == "UNet3D"
    (line,) = said
    size = sum(p.numel() for p in model.model.diffusion_model.parameters()) / 1e6
    assert line == (
        f"UNet3D 32-64, {size:.1f} M parameters, float16 (computed in float32), predicts v_prediction, scaled_linear betas; "
        "from diffusion_pytorch_model.bin"
    )


def test_the_host_can_load_all_of_it_again(loaded):
    for patcher in (loaded[0], loaded[1].patcher, loaded[2].patcher):
        function, arguments = patcher.cached_patcher_init
        with torch.inference_mode():
            again = function(*arguments, disable_dynamic=True)
        before, after = patcher.model.state_dict(), again.model.state_dict()
        assert before.keys() == after.keys()
        # The host has one layer and a projection that files lack and it never reads; they hold whatever memory held.
        read = [name for name in before if ".layers.23." not in name and "projection" not in name]
        assert all(torch.equal(before[name], after[name]) for name in read)


def test_single_files_give_the_same_network(host, folders, loaded, forward):
    models = Path(host.base) / "models"
    for kind in ("diffusion_models", "text_encoders", "vae"):
        (models / kind).mkdir(exist_ok=True)
    save_file(
        load_file(folders / "zero" / UNET_FILE),
        models / "diffusion_models" / "t2v.safetensors",
        {"config": json.dumps(UNET)},
    )
    (models / "vae" / "t2v.safetensors").hardlink_to(folders / "zero" / "vae" / "diffusion_pytorch_model.safetensors")
    (models / "text_encoders" / "t2v.bin").hardlink_to(folders / "zero" / "text_encoder" / "pytorch_model.bin")
    files = {"diffusion_model": "t2v.safetensors", "text_encoder": "t2v.bin", "vae": "t2v.safetensors"}
    model, _, vae = load(host, source="single files", prediction="epsilon", **files)
    assert torch.equal(forward(model, 2.0), forward(loaded[0], 2.0))
    with torch.inference_mode():
        assert torch.equal(vae.decode(torch.ones(1, 4, 2, 2, 2)), loaded[2].decode(torch.ones(1, 4, 2, 2, 2)))


def test_a_file_without_a_config_is_read_from_its_shapes(host, folders, loaded, forward):
    """Tiny and real alike: equal shapes are all that shapes can tell, the rest is diffusers' default."""
    from diffusers import UNet3DConditionModel

    infer = host.module("sma.networks.unet3d").unet3d_config_from_weights
    inferred = infer(load_file(folders / "zero" / UNET_FILE))
    assert inferred == UNET
    with torch.inference_mode():
        path = folders / "zero" / UNET_FILE
        model = host.module("nodes.host.text_to_video").load_model(path, inferred, SCHEDULER)
    assert torch.equal(forward(model, 2.0), forward(loaded[0], 2.0))
    published = {
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
        "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 1024,
        "attention_head_dim": 64,
    }
    with torch.device("meta"):
        zeroscope = UNet3DConditionModel(**published)
    assert infer(zeroscope.state_dict()) == published | {"_class_name": "UNet3DConditionModel"}
    with pytest.raises(ValueError, match="not of a UNet3DConditionModel"):
        infer({"input_blocks.0.0.weight": torch.ones(1)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "sample"}, "prediction_type is 'sample'; known are epsilon, v_prediction"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'; known are scaled_linear"),
        ({"trained_betas": [0.1]}, "trained_betas"),
        (
            {"num_train_timesteps": 10**9},
            "num_train_timesteps is 1000000000; it must be from 1 to 100000. Use another model.",
        ),
        ({"beta_start": float("nan")}, "beta_start is nan; it must be from 1e-09 to 1"),
        ({"beta_end": "much"}, "beta_end is 'much'; it must be from 1e-09 to 1"),
        ({"beta_schedule": ["linear"]}, "beta_schedule is .'linear'.; known are scaled_linear"),
    ],
)
def test_a_schedule_the_host_cannot_express_is_refused(host, change, message):
    with pytest.raises(ValueError, match=message):
        host.module("nodes.host.diffusers_folder").sampling_of(SCHEDULER | change)


def test_weights_that_do_not_fit_are_counted_and_named(host, broken):
    weights = load_file(broken / UNET_FILE)
    for name in ("conv_in.weight", "conv_out.bias"):
        del weights[name]
    weights["extra"] = torch.ones(1)
    weights["conv_in.bias"] = torch.ones(7)
    save_file(weights, broken / UNET_FILE)
    with pytest.raises(ValueError) as error:
        load(host, source="diffusers folder", folder="broken")
    assert str(error.value) == (
        "The UNet3D weights lack 2 tensors (for example 'conv_in.weight'), have 1 tensor too many (for example 'extra') and have "
        "1 tensor of another shape (for example 'conv_in.bias': [7] in the file, [32] in the network). "
        "Use the file that belongs to this network."
    )


def test_missing_parts_are_named(host, broken):
    (broken / "unet" / "config.json").unlink()
    with pytest.raises(ValueError, match="broken/unet/config.json is missing"):
        load(host, source="diffusers folder", folder="broken")
    (broken / UNET_FILE).unlink()
    with pytest.raises(ValueError, match="broken/unet holds no weights"):
        load(host, source="diffusers folder", folder="broken")


def test_a_text_encoder_that_lacks_layers_is_refused(host, broken):
    path = broken / "text_encoder" / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    torch.save({name: tensor for name, tensor in weights.items() if "layers.5." not in name}, path)
    with pytest.raises(
        ValueError, match=r"text encoder weights lack 16 tensors \(for example 'text_model.encoder.layers.5"
    ):
        load(host, source="diffusers folder", folder="broken")
    torch.save({"shared.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ValueError, match="no CLIP text encoder"):
        load(host, source="diffusers folder", folder="broken")


def test_a_text_encoders_projection_of_another_size_is_refused(host, tmp_path):
    load_clip = host.module("nodes.host.text_encoder").load_clip
    for rows, message in (
        (1024, None),
        (512, r"of another shape \(for example 'text_projection.weight': \[512, 1024\]"),
    ):
        weights = text_encoder_weights() | {"text_projection.weight": torch.ones(rows, 1024, dtype=torch.float16)}
        torch.save(weights | {"logit_scale": torch.ones(())}, tmp_path / "clip.bin")
        with (
            torch.inference_mode(),
            contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message),
        ):
            load_clip(tmp_path / "clip.bin")


@pytest.mark.parametrize("config", ["no JSON", "[]", '{"transformer": {}}'])
def test_metadata_that_is_no_config_of_diffusers_is_passed_over(host, folders, tmp_path, config):
    save_file(load_file(folders / "zero" / UNET_FILE), tmp_path / "unet.safetensors", {"config": config})
    text_encoder, vae = (
        folders / "zero" / name
        for name in ("text_encoder/pytorch_model.bin", "vae/diffusion_pytorch_model.safetensors")
    )
    with torch.inference_mode():
        loaded = host.module("nodes.host.text_to_video").load_files(
            tmp_path / "unet.safetensors", text_encoder, vae, "epsilon"
        )
    assert loaded.report.endswith("config read from the shapes")


def test_parts_of_different_models_are_refused(host, folders, tmp_path):
    from diffusers import AutoencoderKL

    load_files = host.module("nodes.host.text_to_video").load_files
    unet, vae = folders / "zero" / UNET_FILE, folders / "zero" / "vae" / "diffusion_pytorch_model.safetensors"
    small = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    torch.save(text_encoder_weights(config=TEXT_ENCODER | small), tmp_path / "clip_l.bin")
    with torch.inference_mode(), pytest.raises(ValueError, match="768 wide and the network reads 1024"):
        load_files(unet, tmp_path / "clip_l.bin", vae, "epsilon")
    deep = AutoencoderKL.from_config(VAE | {"latent_channels": 8})
    save_file(random_weights(deep), tmp_path / "vae.safetensors")
    text_encoder = folders / "zero" / "text_encoder" / "pytorch_model.bin"
    with torch.inference_mode(), pytest.raises(ValueError, match="VAE makes 8 channels and the network takes 4"):
        load_files(unet, text_encoder, tmp_path / "vae.safetensors", "epsilon")
