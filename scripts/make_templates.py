"""Writes the templates of real models from the one of the embedded model: python scripts/make_templates.py

Each is that graph with the model's loaders, an empty latent for sampling, and its own sizes, prompts and note; so a change of a node
is drawn once, in the base. Afterwards `python scripts/harness.py twins` writes the API format that the tests run.
"""

from __future__ import annotations

import copy
import json
import uuid
from pathlib import Path
from typing import Any

from template_table import BACKBONES, Backbone, Loader

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
BASE = "sprites-motion-transfer"
PACK = "spectral-motion"
CONTROLLED = {"seed"}  # the page keeps a second value, what becomes of it after a run, behind these

Node = dict[str, Any]


def set_widgets(node: Node, values: dict[str, Any]) -> None:
    """Sets widgets by name; the file holds them by position."""
    positions, index = {}, 0
    for entry in node["inputs"]:
        if "widget" in entry:
            positions[entry["name"]] = index
            index += 1 + (entry["name"] in CONTROLLED)
    for name, value in values.items():
        node["widgets_values"][positions[name]] = value


def new_node(number: int, kind: str, place: tuple[int, int], size: tuple[int, int], title: str | None = None) -> Node:
    properties = {"Node name for S&R": kind}
    properties |= {"cnr_id": PACK, "ver": "0.1.0"} if kind.startswith("SMA_") else {"cnr_id": "comfy-core"}
    node = {"id": number, "type": kind, "pos": list(place), "size": list(size), "flags": {}, "order": 0, "mode": 0}
    node |= {"inputs": [], "outputs": [], "properties": properties, "widgets_values": []}
    return node | ({"title": title} if title else {})


def socket(name: str, kind: str, link: int | None) -> dict[str, Any]:
    return {"localized_name": name, "name": name, "type": kind, "link": link}


def add_widgets(node: Node, widgets: dict[str, Any]) -> None:
    kinds = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "COMBO"}
    for name, value in widgets.items():
        entry = socket(name, kinds[type(value)], None) | {"widget": {"name": name}}
        node["inputs"].append(entry)
        node["widgets_values"].append(value)


class Graph:
    """A workflow in the page's own format, with the few changes that templates differ by."""

    def __init__(self, workflow: dict[str, Any]) -> None:
        self.workflow = workflow

    def node(self, kind: str, title: str | None = None) -> Node:
        (found,) = [n for n in self.workflow["nodes"] if n["type"] == kind and title in (None, n.get("title"))]
        return found

    def add(self, node: Node) -> Node:
        self.workflow["nodes"].append(node)
        self.workflow["last_node_id"] = max(self.workflow["last_node_id"], node["id"])
        return node

    def remove(self, node: Node) -> None:
        for index in range(len(node["inputs"])):
            self._unlink(node, index)
        self.workflow["nodes"].remove(node)

    def free_id(self) -> int:
        return self.workflow["last_node_id"] + 1

    def link(self, source: Node, slot: int, target: Node, name: str) -> None:
        """Leads an output into an input, in place of what led there."""
        (index,) = [i for i, entry in enumerate(target["inputs"]) if entry["name"] == name]
        self._unlink(target, index)
        number = self.workflow["last_link_id"] = self.workflow["last_link_id"] + 1
        output = source["outputs"][slot]
        output["links"] = [*(output.get("links") or []), number]
        target["inputs"][index]["link"] = number
        self.workflow["links"].append([number, source["id"], slot, target["id"], index, output["type"]])

    def _unlink(self, target: Node, index: int) -> None:
        old = target["inputs"][index]["link"]
        self.workflow["links"] = [link for link in self.workflow["links"] if link[0] != old]
        for node in self.workflow["nodes"]:
            for output in node["outputs"]:
                output["links"] = [link for link in output["links"] or [] if link != old] or None


def place_loaders(graph: Graph, loaders: tuple[Loader, ...]) -> None:
    """Puts the loaders where the embedded model's was; whatever took its MODEL, CLIP and VAE takes theirs."""
    old = graph.node("SMA_LoadSpritesModel")
    uses = [
        (output["type"], target, entry["name"])
        for output in old["outputs"]
        for target in graph.workflow["nodes"]
        for entry in target["inputs"]
        if entry["link"] in (output["links"] or [])
    ]
    graph.remove(old)
    sources, top = {}, old["pos"][1]
    for loader in loaders:
        height = 50 + 24 * (len(loader.widgets) + len(loader.outputs))
        number = old["id"] if loader is loaders[0] else graph.free_id()
        node = graph.add(new_node(number, loader.kind, (old["pos"][0], top), (old["size"][0], height)))
        for kind in loader.takes:
            node["inputs"].append(socket(kind.lower(), kind, None))
            graph.link(*sources[kind], node, kind.lower())
        add_widgets(node, loader.widgets)
        node["outputs"] = [{"localized_name": k, "name": k, "type": k, "links": None} for k in loader.outputs]
        if loader.models:
            node["properties"]["models"] = [model._asdict() for model in loader.models]
        sources |= {kind: (node, slot) for slot, kind in enumerate(loader.outputs)}
        top += height + 50
    for kind, target, name in uses:
        graph.link(*sources[kind], target, name)


def sample_from_nothing(graph: Graph) -> None:
    """The clip's latent times 0, an empty latent of its length: schedules that end below pure noise would let the clip shine through.

    Takes the place of the upscaling, which only 16x16 videos need.
    """
    upscale = graph.node("ImageScale")
    graph.link(graph.node("VAEDecode"), 0, graph.node("CreateVideo"), "images")
    graph.remove(upscale)
    empty = new_node(upscale["id"], "LatentMultiply", (1880, 510), (290, 82), "Empty latent as long as the clip")
    empty["inputs"].append(socket("samples", "LATENT", None))
    add_widgets(empty, {"multiplier": 0.0})
    empty["outputs"] = [{"localized_name": "LATENT", "name": "LATENT", "type": "LATENT", "links": None}]
    graph.add(empty)
    graph.link(graph.node("VAEEncode"), 0, empty, "samples")
    graph.link(empty, 0, graph.node("KSampler"), "latent_image")


def template(base: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    graph = Graph(copy.deepcopy(base))
    graph.workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"spectral-motion/{backbone.name}"))
    place_loaders(graph, backbone.loaders)
    sample_from_nothing(graph)
    clip = {"frame_count": backbone.frames, "timing.fps": backbone.fps}
    set_widgets(graph.node("SMA_LoadMotionClip"), clip | dict(zip(("width", "height"), backbone.size, strict=True)))
    training = {"rank": 32, "batch_size": 1, "save_every": 100, "save_prefix": backbone.name} | backbone.training
    set_widgets(graph.node("SMA_TrainMotionLoRA"), training)
    set_widgets(graph.node("KSampler"), backbone.sampling)
    set_widgets(graph.node("CLIPTextEncode", "Training prompt"), {"text": backbone.training_prompt})
    set_widgets(graph.node("CLIPTextEncode", "New prompt"), {"text": backbone.prompt})
    set_widgets(graph.node("CLIPTextEncode", "Negative prompt"), {"text": backbone.negative_prompt})
    set_widgets(graph.node("SaveVideo"), {"filename_prefix": f"video/{backbone.name}"})
    graph.node("MarkdownNote")["widgets_values"][0] = backbone.note
    return graph.workflow


def main() -> None:
    base = json.loads((WORKFLOWS / f"{BASE}.json").read_text())
    for backbone in BACKBONES:
        path = WORKFLOWS / f"{backbone.name}-motion-transfer.json"
        path.write_text(json.dumps(template(base, backbone), indent=2) + "\n")


if __name__ == "__main__":
    main()
