"""The shipped template as the API takes it, with a training of three steps, and the same through a native model."""

from __future__ import annotations

import copy
import json
from pathlib import Path

TWINS = Path(__file__).resolve().parents[1] / "workflows"


def by_type(graph: dict) -> dict:
    return {node["class_type"]: node["inputs"] for node in graph.values()}


def short_template() -> dict:
    graph = json.loads((TWINS / "sprites-motion-transfer.api.json").read_text())
    by_type(graph)["SMA_TrainMotionLoRA"].update(steps=3, save_every=0)
    by_type(graph)["KSampler"].update(steps=3)
    return graph


def through_wan(graph: dict) -> dict:
    """The same graph with the model swapped for a native Wan; the sprites CLIP still conditions it."""
    graph = copy.deepcopy(graph)
    unet, vae = "tiny_wan.safetensors", "tiny_wan_vae.safetensors"
    graph["unet"] = {"class_type": "UNETLoader", "inputs": {"unet_name": unet, "weight_dtype": "default"}}
    graph["vae"] = {"class_type": "VAELoader", "inputs": {"vae_name": vae}}
    (sprites,) = [key for key, node in graph.items() if node["class_type"] == "SMA_LoadSpritesModel"]
    for node in graph.values():
        for name, value in node["inputs"].items():
            if value == [sprites, 0]:
                node["inputs"][name] = ["unet", 0]
            elif value == [sprites, 2]:
                node["inputs"][name] = ["vae", 0]
    by_type(graph)["SMA_LoadMotionClip"].update(frame_count=5, width=32, height=32)
    return graph


def video_of(result, graph, server) -> Path:
    (key,) = [key for key, node in graph.items() if node["class_type"] == "SaveVideo"]
    return server.output_file(result.outputs[key]["images"][0])
