"""Templates end to end in a real server: the graph as it ships, of real models the files its own names ask for tiny and random.

Shorter, and those of real models smaller, else a laptop would take hours: two steps, 8 frames of 64x64.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from template import TWINS, by_type, few_steps, template, video_of
from tiny_animatediff import LDM, write_checkpoint, write_motion_module
from tiny_diffusers import UNET, VAE, random_weights, text_encoder_weights


def write_family(models: Path, unet: str, *, fps: bool = False) -> None:
    """The three files of a ZeroScope-like template, of which all templates of the family share two."""
    from diffusers import AutoencoderKL, UNet3DConditionModel
    from diffusers.models.embeddings import TimestepEmbedding

    network = UNet3DConditionModel.from_config(UNET)
    if fps:
        network.fps_embedding = TimestepEmbedding(32, 128)
    files = {
        f"diffusion_models/{unet}": random_weights(network),
        "text_encoders/modelscope_t2v_clip_fp16.safetensors": text_encoder_weights(),
        "vae/modelscope_t2v_vae_fp16.safetensors": random_weights(AutoencoderKL.from_config(VAE)),
    }
    for name, weights in files.items():
        path = models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".pth":
            torch.save(weights, path)
        elif not path.exists():
            # Views of one vector, which safetensors would not take.
            save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)


def zeroscope(models: Path) -> None:
    write_family(models, "zeroscope_v2_576w_unet.pth")


def modelscope(models: Path) -> None:
    write_family(models, "modelscope_t2v_unet_fp16.safetensors")


def videocrafter2(models: Path) -> None:
    write_family(models, "videocrafter2_unet.safetensors", fps=True)


def animatediff(models: Path) -> None:
    write_checkpoint(models, "v1-5-pruned-emaonly-fp16.safetensors")
    widths = [LDM["model_channels"] * factor for factor in LDM["channel_mult"]]
    name, _, _ = write_motion_module(models, "v3", widths, pickled=True)
    (models / "animatediff_models" / name).rename(models / "animatediff_models" / "v3_sd15_mm.ckpt")


def embedded(models: Path) -> None:
    """Its weights are in the pack."""


REAL = {
    "zeroscope-motion-transfer": zeroscope,
    "zeroscope-motiondirector": zeroscope,
    "zeroscope-vmc": zeroscope,
    "modelscope-motion-transfer": modelscope,
    "videocrafter2-motion-transfer": videocrafter2,
    "animatediff-motion-transfer": animatediff,
}
METHODS = dict.fromkeys(("sprites-motiondirector", "sprites-vmc"), embedded)


def saved(server, prefix: str) -> dict[str, torch.Tensor]:
    """What the one LoRA file of this prefix holds."""
    (lora,) = (server.base / "output" / "loras").glob(f"{prefix}_0*")
    with safe_open(lora, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def learned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By layer, what is zero before the first step."""
    ends = (".lora_B.weight", ".diff")
    return {key.removesuffix(end): value for key, value in tensors.items() for end in ends if key.endswith(end)}


@pytest.mark.parametrize("name, write", (REAL | METHODS).items(), ids=(REAL | METHODS).keys())
def test_a_template_trains_and_makes_a_video(host, server, name: str, write: Callable[[Path], None]):
    write(server.base / "models")
    graph = template(name)
    nodes = by_type(graph)
    if name in REAL:
        nodes["SMA_LoadMotionClip"].update({"frame_count": 8, "width": 64, "height": 64})
        nodes["SMA_TrainMotionLoRA"].update(rank=4)
    few_steps(graph, 2, save_every=2)
    result = server.run(graph, timeout=300)
    assert result.status == "success", result.messages
    assert video_of(result, graph, server).stat().st_size > 1000
    layers = learned(saved(server, f"{nodes['SMA_TrainMotionLoRA']['save_prefix']}_step00002"))
    assert layers and all(value.any() for value in layers.values())
    if name.endswith("motiondirector"):
        # The trainer's output, which is worn, is the first of these two files; tests/host/training compares them.
        looks = learned(saved(server, f"{name}_step00002_spatial_clip1"))
        assert looks and not looks.keys() & layers.keys()
        assert all("temp_" in layer or "transformer_in" in layer for layer in layers)
    if name.endswith("vmc"):
        assert all("temp_attentions" in layer and layer.rpartition(".to_")[2] in "qkv" for layer in layers)


@pytest.mark.parametrize("name", ["sprites-vmc", "zeroscope-vmc"])
def test_sampling_starts_where_the_inversion_ends(host, name: str):
    """The same noise levels down as up, as core spaces them: that is so for steps that divide the schedule's 1000."""
    nodes = by_type(template(name))
    (model, _, _) = host.call("SMA_LoadSpritesModel")
    wanted = {key: value for key, value in nodes["BasicScheduler"].items() if key != "model"}
    (sigmas,) = host.call("BasicScheduler", model=model, **wanted)
    schedule = model.get_model_object("model_sampling").sigmas
    levels = host.module("sma.inversion").ddim_timesteps(len(schedule), nodes["SMA_InvertClip"]["steps"])
    assert torch.equal(sigmas[:-1], schedule[levels].flip(0))
    assert nodes["SMA_InvertClip"]["model"] == nodes["CFGGuider"]["model"] == nodes["BasicScheduler"]["model"]


@pytest.mark.parametrize("twin", sorted(TWINS.glob("*.api.json")), ids=lambda path: path.name.partition(".")[0])
def test_the_clip_of_a_template_is_as_long_as_it_asks_for(host, twin):
    wanted = by_type(template(twin.name.partition(".api")[0]))["SMA_LoadMotionClip"]
    inputs = {name: value for name, value in wanted.items() if name.partition(".")[0] not in ("vae", "model", "timing")}
    timing = {"timing": wanted["timing"], "fps": wanted["timing.fps"]}
    images, fps, count, report = host.call("SMA_LoadMotionClip", timing=timing, **inputs)
    assert images.shape == (wanted["frame_count"], wanted["height"], wanted["width"], 3)
    assert (fps, count) == (wanted["timing.fps"], wanted["frame_count"]), report
