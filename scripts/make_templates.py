"""Writes the templates of real models from the one of the embedded model: python scripts/harness.py run scripts/make_templates.py

Each is that graph with the model's loaders, an empty latent for sampling, and its own sizes, prompts and note; so a change of a node
is drawn once, in the base. Afterwards `python scripts/harness.py twins` writes the API format that the tests run. With --thumbnails it
cuts the pictures out of the screenshots that the browser tests leave.
"""

from __future__ import annotations

import copy
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from environment import CACHE
from template_parts import Backbone, Loader
from templates_of_native import NATIVE
from templates_of_unets import UNETS

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
BASE = "sprites-motion-transfer"
PACK = "spectral-motion"
FILM = "red-circle-to-and-fro.mp4 [example]"
CONTROLLED = {"seed", "noise_seed"}  # the page keeps a second value, what becomes of it after a run, behind these

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


def widgets_of(node: Node) -> dict[str, Any]:
    """Values of all widgets by name."""
    values, index = {}, 0
    for entry in node["inputs"]:
        if "widget" in entry:
            values[entry["name"]] = node["widgets_values"][index]
            index += 1 + (entry["name"] in CONTROLLED)
    return values


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
        node["widgets_values"] += [value, "fixed"] if name in CONTROLLED else [value]


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

    def copy(self, node: Node, title: str) -> Node:
        """A second node like this one, fed by the same outputs and feeding nothing."""
        twin = copy.deepcopy(node) | {"id": self.free_id(), "title": title}
        twin["outputs"] = [output | {"links": None} for output in twin["outputs"]]
        for entry in twin["inputs"]:
            entry["link"] = None
        self.add(twin)
        for entry in node["inputs"]:
            if entry["link"] is not None:
                self.link(*self.source(entry["link"]), twin, entry["name"])
        return twin

    def source(self, number: int) -> tuple[Node, int]:
        """Node and output that a link comes from."""
        ((_, origin, slot, *_),) = [link for link in self.workflow["links"] if link[0] == number]
        (node,) = [node for node in self.workflow["nodes"] if node["id"] == origin]
        return node, slot

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


def two_experts(graph: Graph, backbone: Backbone) -> None:
    """A second expert for low noise, as Wan 2.2 has: its own loader, trainer and LoRA; the sampling goes over from one to the other."""
    make = 1530  # where the last group begins; what it holds makes room for a second trainer
    for node in graph.workflow["nodes"]:
        node["pos"][0] += 390 if node["pos"][0] >= make else 0
    clip_group, learn_group, make_group = (group["bounding"] for group in graph.workflow["groups"])
    learn_group[2] += 390
    make_group[0] += 390
    for bounding in (clip_group, learn_group, make_group):
        bounding[3] = 1240

    high, training, lora = (graph.node(kind) for kind in ("UNETLoader", "SMA_TrainMotionLoRA", "LoraModelLoader"))
    names = ("Load Diffusion Model", "Train Motion LoRA", "Load LoRA Model")
    first = (high, training, lora)
    low, low_training, low_lora = (
        graph.copy(node, f"{name}, low noise") for node, name in zip(first, names, strict=True)
    )
    for node, name in zip(first, names, strict=True):
        node["title"] = f"{name}, high noise"
    low["pos"][1] = 700
    low_training["pos"][0] += 390
    low_lora["pos"][1] = 550
    set_widgets(low, {"unet_name": backbone.second.name})
    low["properties"]["models"] = [backbone.second._asdict()]
    set_widgets(training, {"expert": "high noise"})
    set_widgets(low_training, {"expert": "low noise"})
    graph.link(low, 0, low_training, "model")
    graph.link(low, 0, low_lora, "model")
    graph.link(low_training, 0, low_lora, "lora")

    sampler = graph.node("KSampler")
    widgets = widgets_of(sampler)
    steps, switch = widgets["steps"], backbone.switch
    ends = ((lora, "enable", 0, switch, "enable", 60), (low_lora, "disable", switch, 10000, "disable", 450))
    latent = next(entry["link"] for entry in sampler["inputs"] if entry["name"] == "latent_image")
    source = graph.source(latent)
    for worn, noise, start, end, leftover, top in ends:
        title = f"KSampler, {'high' if worn is lora else 'low'} noise"
        stage = graph.add(new_node(graph.free_id(), "KSamplerAdvanced", (sampler["pos"][0], top), (290, 334), title))
        for name, kind in (("model", "MODEL"), ("positive", "CONDITIONING"), ("negative", "CONDITIONING")):
            stage["inputs"].append(socket(name, kind, None))
        stage["inputs"].append(socket("latent_image", "LATENT", None))
        stage["outputs"] = [{"localized_name": "LATENT", "name": "LATENT", "type": "LATENT", "links": None}]
        values = {"add_noise": noise, "noise_seed": widgets["seed"], "steps": steps, "cfg": widgets["cfg"]}
        values |= {name: widgets[name] for name in ("sampler_name", "scheduler")}
        values |= {"start_at_step": start, "end_at_step": end, "return_with_leftover_noise": leftover}
        add_widgets(stage, values)
        graph.link(worn, 0, stage, "model")
        graph.link(graph.node("CLIPTextEncode", "New prompt"), 0, stage, "positive")
        graph.link(graph.node("CLIPTextEncode", "Negative prompt"), 0, stage, "negative")
        graph.link(*source, stage, "latent_image")
        source = (stage, 0)
    decode, empty = graph.node("VAEDecode"), graph.node("LatentMultiply")
    graph.link(*source, decode, "samples")
    graph.remove(sampler)
    decode["pos"][1], empty["pos"] = 840, [lora["pos"][0], 720]
    graph.node("MarkdownNote")["pos"][1] = 920


def template(base: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    graph = Graph(copy.deepcopy(base))
    graph.workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"spectral-motion/{backbone.name}"))
    place_loaders(graph, backbone.loaders)
    sample_from_nothing(graph)
    clip = {"file": FILM, "frame_count": backbone.frames, "timing.fps": backbone.fps}
    set_widgets(graph.node("SMA_LoadMotionClip"), clip | dict(zip(("width", "height"), backbone.size, strict=True)))
    training = {"rank": 32, "batch_size": 1, "save_every": 100, "save_prefix": backbone.name} | backbone.training
    set_widgets(graph.node("SMA_TrainMotionLoRA"), training)
    set_widgets(graph.node("KSampler"), backbone.sampling)
    set_widgets(graph.node("LoraModelLoader"), {"bypass": backbone.bypass})
    set_widgets(graph.node("CLIPTextEncode", "Training prompt"), {"text": backbone.training_prompt})
    set_widgets(graph.node("CLIPTextEncode", "New prompt"), {"text": backbone.prompt})
    set_widgets(graph.node("CLIPTextEncode", "Negative prompt"), {"text": backbone.negative_prompt})
    set_widgets(graph.node("SaveVideo"), {"filename_prefix": f"video/{backbone.name}"})
    graph.node("MarkdownNote")["widgets_values"][0] = backbone.note
    if backbone.snap:
        clip = graph.node("SMA_LoadMotionClip")
        clip["inputs"].append(socket("model", "MODEL", None) | {"shape": 7})
        model = graph.node("SMA_TrainMotionLoRA")["inputs"][0]
        graph.link(*graph.source(model["link"]), clip, "model")
    if backbone.second:
        two_experts(graph, backbone)
    return graph.workflow


def cut_thumbnails() -> None:
    from PIL import Image

    for backbone in (*UNETS, *NATIVE):
        path = WORKFLOWS / f"{backbone.name}-motion-transfer.jpg"
        with Image.open(CACHE / "screenshots" / f"{path.stem}.png") as page:
            # The page fits the graph into its middle.
            left, top, right, bottom = 0.12, 0.20, 0.885, 0.785
            box = (left * page.width, top * page.height, right * page.width, bottom * page.height)
            graph = page.convert("RGB").crop(tuple(map(round, box)))
            graph.resize((800, round(800 * graph.height / graph.width))).save(path, quality=82)


def main() -> None:
    if "--thumbnails" in sys.argv:
        return cut_thumbnails()
    base = json.loads((WORKFLOWS / f"{BASE}.json").read_text())
    for backbone in (*UNETS, *NATIVE):
        path = WORKFLOWS / f"{backbone.name}-motion-transfer.json"
        path.write_text(json.dumps(template(base, backbone), indent=2) + "\n")


if __name__ == "__main__":
    main()
