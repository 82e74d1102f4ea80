"""Every template of a real model, end to end in a real server: the graph as it ships, the files its own names ask for tiny and random.

Smaller and shorter, else a laptop would take hours: two steps, 8 frames of 64x64.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from template import TWINS, by_type, video_of
from tiny_animatediff import LDM, write_checkpoint, write_motion_module
from tiny_diffusers import UNET, VAE, random_weights, text_encoder_weights, write_text_to_video


def zeroscope(models: Path) -> None:
    write_text_to_video(models / "diffusers" / "zeroscope_v2_576w", pickled=True)


def modelscope(models: Path) -> None:
    folder = models / "diffusers" / "text-to-video-ms-1.7b"
    write_text_to_video(folder, dtype=torch.float16)
    for name in ("unet", "vae"):
        plain = folder / name / "diffusion_pytorch_model.safetensors"
        plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))


def videocrafter2(models: Path) -> None:
    from diffusers import AutoencoderKL, UNet3DConditionModel
    from diffusers.models.embeddings import TimestepEmbedding

    network = UNet3DConditionModel.from_config(UNET)
    network.fps_embedding = TimestepEmbedding(32, 128)
    files = {
        "diffusion_models/videocrafter2/diffusion_pytorch_model.safetensors": random_weights(network),
        "text_encoders/text-to-video-ms-1.7b/model.fp16.safetensors": text_encoder_weights(),
        "vae/text-to-video-ms-1.7b/diffusion_pytorch_model.fp16.safetensors": random_weights(
            AutoencoderKL.from_config(VAE)
        ),
    }
    for name, weights in files.items():
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        # Views of one vector, which safetensors would not take.
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, models / name)


def animatediff(models: Path) -> None:
    write_checkpoint(models, "v1-5-pruned-emaonly-fp16.safetensors")
    widths = [LDM["model_channels"] * factor for factor in LDM["channel_mult"]]
    name, _, _ = write_motion_module(models, "v3", widths, pickled=True)
    (models / "animatediff_models" / name).rename(models / "animatediff_models" / "v3_sd15_mm.ckpt")


@pytest.mark.parametrize("write", [zeroscope, modelscope, videocrafter2, animatediff], ids=lambda write: write.__name__)
def test_a_template_trains_and_makes_a_video(host, server, write: Callable[[Path], None]):
    name = write.__name__
    write(server.base / "models")
    graph = json.loads((TWINS / f"{name}-motion-transfer.api.json").read_text())
    nodes = by_type(graph)
    nodes["SMA_LoadMotionClip"].update({"frame_count": 8, "width": 64, "height": 64})
    nodes["SMA_TrainMotionLoRA"].update(steps=2, save_every=2, rank=4)
    nodes["KSampler"].update(steps=2)
    result = server.run(graph, timeout=300)
    assert result.status == "success", result.messages
    assert video_of(result, graph, server).stat().st_size > 1000
    (lora,) = (server.base / "output" / "loras").glob(f"{name}*")
    with safe_open(lora, framework="pt") as file:
        ups = [file.get_tensor(key) for key in file.keys() if key.endswith("lora_B.weight")]
    assert ups and all(up.any() for up in ups)


@pytest.mark.parametrize("twin", sorted(TWINS.glob("*.api.json")), ids=lambda path: path.name.partition("-motion")[0])
def test_the_clip_of_a_template_is_as_long_as_it_asks_for(host, twin):
    wanted = by_type(json.loads(twin.read_text()))["SMA_LoadMotionClip"]
    inputs = {name: value for name, value in wanted.items() if name.partition(".")[0] not in ("vae", "model", "timing")}
    timing = {"timing": wanted["timing"], "fps": wanted["timing.fps"]}
    images, fps, count, report = host.call("SMA_LoadMotionClip", timing=timing, **inputs)
    assert images.shape == (wanted["frame_count"], wanted["height"], wanted["width"], 3)
    assert (fps, count) == (wanted["timing.fps"], wanted["frame_count"]), report
