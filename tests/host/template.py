"""Shipped templates as the API takes them: shortened, and the embedded model's through a native model."""

from __future__ import annotations

import copy
import json
from pathlib import Path

TWINS = Path(__file__).resolve().parents[1] / "workflows"


def by_type(graph: dict) -> dict:
    return {node["class_type"]: node["inputs"] for node in graph.values()}


def template(name: str) -> dict:
    return json.loads((TWINS / f"{name}.api.json").read_text())


def few_steps(graph: dict, steps: int, *, save_every: int) -> None:
    """Shortens training, sampling and inversion."""
    for node in graph.values():
        match node["class_type"]:
            case "SMA_TrainMotionLoRA":
                node["inputs"].update(steps=steps, save_every=save_every)
            case "KSampler" | "BasicScheduler" | "SMA_InvertClip":
                node["inputs"].update(steps=steps)


def short_template() -> dict:
    graph = template("sprites-motion-transfer")
    few_steps(graph, 3, save_every=0)
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
