"""The shipped graph through every native family in a real server, on tiny random models with stand-ins for their text encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
from native_graph import FAMILIES, key_of, through
from safetensors import safe_open
from template import by_type, short_template, video_of

FOUND = {
    "wan": "Wan 2.1 t2v, 2 blocks, 2 latent frames (5 frames), 8 of ",
    "ltx": "LTX-Video, 2 blocks, 2 latent frames (9 frames), 8 of ",
    "hunyuan": "HunyuanVideo t2v, 3 blocks, 2 latent frames (5 frames), 8 of ",
    "wan2.1_i2v": "Wan 2.1 i2v, 2 blocks, 2 latent frames (5 frames), 8 of ",
}


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
    with safe_open(lora, framework="pt") as file:
        keys = list(file.keys())
    # As other programs read it: see tests/sma/test_lora_peers.py.
    assert {key.rpartition(".lora_")[2] for key in keys} == {"A.weight", "B.weight"}
    assert any("img_attn_qkv" in key for key in keys) == (family == "hunyuan")


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
