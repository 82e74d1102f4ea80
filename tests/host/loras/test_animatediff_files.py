"""Motion LoRAs of an AnimateDiff MODEL as files for AnimateDiff-Evolved, diffusers and kohya, worn again and in core's loaders."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_animatediff as tiny
import torch
from safetensors import safe_open


@pytest.fixture(scope="module")
def animatediff(host, make_case):
    models = Path(host.base) / "models"
    tiny.write_folder(models, "worn-sd15")
    name, *_ = tiny.write_motion_module(models, "v2", tiny.UNET2D["block_out_channels"])
    loader = host.module("nodes.host.animatediff")
    with torch.inference_mode():
        model = loader.load_model(loader.Folder("worn-sd15"), name)
    inputs = {"positive": tiny.conditioning(1), "negative": tiny.conditioning(2), "latent": tiny.video(4)}
    return make_case(model, frames=tiny.FRAMES, **inputs)


@pytest.mark.parametrize(
    ("format", "reported"),
    [
        ("ComfyUI", "ComfyUI"),
        ("kohya", "kohya"),
        ("diffusers (PEFT)", "diffusers"),
        ("AnimateDiff-Evolved", "AnimateDiff-Evolved"),
    ],
)
def test_a_temporal_lora_comes_back_from_every_format_as_it_was_trained(animatediff, lora_folder, format, reported):
    case = animatediff
    trained, lora = case.trained()
    lora = case.host.module("sma.files").MotionLoRA(lora, {"rank": 4})
    before = set(lora_folder.iterdir())
    case.host.call("SMA_SaveMotionLoRA", lora=lora, filename_prefix="motion", format=format)
    (path,) = set(lora_folder.iterdir()) - before
    assert case.said[-1].endswith(f": {len(lora) // 3} layers ({format} format)")
    with safe_open(path, framework="pt") as file:
        keys, metadata = list(file.keys()), file.metadata()
    assert metadata["rank"] == "4"
    assert metadata.get("model_type") == ("motion_director" if format == "AnimateDiff-Evolved" else None)
    worn = case.wear(path.name, apply="bypass")
    assert case.said[-1] == f"{len(keys)} of {len(keys)} keys applied ({reported} format, rank 4, bypassed)"
    assert torch.equal(case.predict(worn), trained)
    assert (case.predict(case.wear(path.name)) - trained).abs().max() <= 1e-4
    assert (case.predict(case.model) - trained).abs().max() > 1e-3


def test_spatial_layers_stay_out_of_animatediff_evolveds_file_and_are_counted(animatediff, lora_folder):
    case = animatediff
    both = case.lora(role="motion") | case.lora(role="spatial attention", seed=6)
    before = set(lora_folder.iterdir())
    case.host.call("SMA_SaveMotionLoRA", lora=both, filename_prefix="both", format="AnimateDiff-Evolved")
    (path,) = set(lora_folder.iterdir()) - before
    temporal, spatial = len(case.lora(role="motion")) // 3, len(case.lora(role="spatial attention")) // 3
    assert case.said[-1].endswith(
        f": {temporal} layers, {spatial} outside motion modules left out (AnimateDiff-Evolved format)"
    )
    worn = case.predict(case.wear(path.name, apply="bypass"))
    assert torch.equal(worn, case.predict(case.wear(case.lora(role="motion"), apply="bypass")))
