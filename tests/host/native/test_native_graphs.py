"""The shipped graph through every native family in a real server, on tiny random models with stand-ins for their text encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from template import by_type, short_template, video_of

# Family -> file, its VAE, frames, side in pixels.
FAMILIES = {
    "wan": ("tiny_wan.safetensors", "tiny_wan_vae.safetensors", 5, 32),
    "ltx": ("tiny_ltx.safetensors", "tiny_ltx_vae.safetensors", 9, 64),
    "hunyuan": ("tiny_hunyuan.safetensors", "tiny_hunyuan_vae.safetensors", 5, 32),
}
FOUND = {
    "wan": "Wan 2.1 t2v, 2 blocks, 2 latent frames (5 frames), 8 of ",
    "ltx": "LTX-Video, 2 blocks, 2 latent frames (9 frames), 8 of ",
    "hunyuan": "HunyuanVideo t2v, 3 blocks, 2 latent frames (5 frames), 8 of ",
    "wan2.1_i2v": "Wan 2.1 i2v, 2 blocks, 2 latent frames (5 frames), 8 of ",
}


def through(graph: dict, family: str, name: str | None = None) -> dict:
    """The shipped graph with another model, its VAE, and stand-ins where it encoded text; the clip snaps to the model."""
    unet, vae, frames, side = FAMILIES[family]
    graph["unet"] = {"class_type": "UNETLoader", "inputs": {"unet_name": name or unet, "weight_dtype": "default"}}
    graph["vae"] = {"class_type": "VAELoader", "inputs": {"vae_name": vae}}
    (sprites,) = [key for key, node in graph.items() if node["class_type"] == "SMA_LoadSpritesModel"]
    for node in graph.values():
        if node["class_type"] == "CLIPTextEncode":
            node.update(class_type="StandInTextEncode", inputs={"text": node["inputs"]["text"], "family": family})
        for socket, value in node["inputs"].items():
            if value == [sprites, 0]:
                node["inputs"][socket] = ["unet", 0]
            elif value == [sprites, 2]:
                node["inputs"][socket] = ["vae", 0]
    size = {"frame_count": frames - 1, "width": side, "height": side}
    by_type(graph)["SMA_LoadMotionClip"].update(size, file="drift.mp4", model=["unet", 0])
    by_type(graph)["SMA_TrainMotionLoRA"].update(save_every=3, save_prefix=name or family)
    return graph


def key_of(graph: dict, class_type: str) -> str:
    (key,) = [key for key, node in graph.items() if node["class_type"] == class_type]
    return key


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_runs(native_server, family):
    graph = through(short_template(), family)
    result = native_server.run(graph)
    assert result.status == "success", result.messages
    assert video_of(result, graph, native_server).stat().st_size > 1000
    (lora,) = (native_server.base / "output" / "loras").glob(f"{family}_step*")
    assert metadata_of(lora)["adapted"].startswith(FOUND[family])


def test_image_to_video_runs(native_server):
    graph = through(short_template(), "wan", "tiny_wan2.1_i2v.safetensors")
    clip = [key_of(graph, "SMA_LoadMotionClip"), 0]
    graph["start"] = {"class_type": "ImageFromBatch", "inputs": {"image": clip, "batch_index": 0, "length": 1}}
    graph["vision"] = {"class_type": "StandInVisionEncode", "inputs": {"image": ["start", 0]}}
    (text,) = (node["inputs"]["positive"] for node in graph.values() if node["class_type"] == "SMA_TrainMotionLoRA")
    graph["i2v"] = {
        "class_type": "WanImageToVideo",
        "inputs": {
            "positive": text,
            "negative": text,
            "vae": ["vae", 0],
            "width": 32,
            "height": 32,
            "length": 5,
            "batch_size": 1,
            "start_image": ["start", 0],
            "clip_vision_output": ["vision", 0],
        },
    }
    by_type(graph)["SMA_TrainMotionLoRA"].update(positive=["i2v", 0])
    by_type(graph)["KSampler"].update(positive=["i2v", 0], negative=["i2v", 1])
    result = native_server.run(graph)
    assert result.status == "success", result.messages
    (lora,) = (native_server.base / "output" / "loras").glob("tiny_wan2.1_i2v*")
    assert metadata_of(lora)["adapted"].startswith(FOUND["wan2.1_i2v"])


def test_two_experts_train_in_one_graph(native_server):
    graph = through(short_template(), "wan")
    trainer = key_of(graph, "SMA_TrainMotionLoRA")
    graph[trainer]["inputs"].update(expert="high noise", save_prefix="experts")
    graph["low"] = {
        "class_type": "SMA_TrainMotionLoRA",
        "inputs": graph[trainer]["inputs"] | {"expert": "low noise"},
    }
    graph["keep"] = {
        "class_type": "SMA_SaveMotionLoRA",
        "inputs": {"lora": ["low", 0], "filename_prefix": "low", "prompt": "", "fps": 8.0},
    }
    result = native_server.run(graph)
    assert result.status == "success", result.messages
    files = sorted((native_server.base / "output" / "loras").glob("experts_*"))
    assert [path.name.split("_step")[0] for path in files] == ["experts_high_noise", "experts_low_noise"]
    assert [metadata_of(path)["expert"] for path in files] == ["high noise", "low noise"]


def test_a_prompt_saved_before_the_later_inputs_still_runs(native_server):
    graph = through(short_template(), "wan")
    for name in ("expert", "expert_boundary", "blocks"):
        del by_type(graph)["SMA_TrainMotionLoRA"][name]
    del by_type(graph)["SMA_LoadMotionClip"]["model"]
    by_type(graph)["SMA_LoadMotionClip"].update(frame_count=5)
    result = native_server.run(graph)
    assert result.status == "success", result.messages
