"""The shipped graph through a native model, in a server with the stand-ins of stand_in_nodes.py."""

from __future__ import annotations

from template import by_type

# Family -> file, its VAE, frames, side in pixels.
FAMILIES = {
    "wan": ("tiny_wan.safetensors", "tiny_wan_vae.safetensors", 5, 32),
    "ltx": ("tiny_ltx.safetensors", "tiny_ltx_vae.safetensors", 9, 64),
    "hunyuan": ("tiny_hunyuan.safetensors", "tiny_hunyuan_vae.safetensors", 5, 32),
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
