"""Writes all templates from the one of the embedded model: python scripts/harness.py run scripts/make_templates.py

That of a real model is this graph with the model's loaders, an empty latent for sampling, and its own sizes, prompts and note; that of
another method is either with that method's settings, and its noise start. So a change of a node is drawn once, in the base.
Afterwards `python scripts/harness.py twins` writes the API format that the tests run. With --thumbnails and, if not all are meant, names
it cuts the pictures out of the screenshots that the browser tests leave.
"""

from __future__ import annotations

import copy
import json
import sys
import uuid
from typing import Any

from environment import CACHE, ROOT
from template_graph import Graph, add_widgets, new_node, outputs, set_widgets, socket, widgets_of
from template_parts import Backbone, Loader, Method
from template_start import empty_latent, start_from_the_clip
from templates_of_methods import METHODS
from templates_of_native import NATIVE
from templates_of_unets import UNETS

sys.path.append(str(ROOT))

from sma.sprites.data import SIZE  # noqa: E402

WORKFLOWS = ROOT / "workflows"
BASE = "sprites-motion-transfer"
FILM = "red-circle-to-and-fro.mp4 [example]"


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
        node["outputs"] = outputs(*loader.outputs)
        if loader.models:
            node["properties"]["models"] = [model._asdict() for model in loader.models]
        sources |= {kind: (node, slot) for slot, kind in enumerate(loader.outputs)}
        top += height + 50
    for kind, target, name in uses:
        graph.link(*sources[kind], target, name)


def sample_from_nothing(graph: Graph) -> None:
    """The clip's latent times 0, an empty latent of its length: schedules that end below pure noise would let the clip shine through.

    Takes the place of the upscaling, which only the embedded model's videos need.
    """
    upscale = graph.node("ImageScale")
    graph.link(graph.node("VAEDecode"), 0, graph.node("CreateVideo"), "images")
    graph.remove(upscale)
    graph.link(empty_latent(graph, upscale["id"]), 0, graph.node("KSampler"), "latent_image")


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
        stage["outputs"] = outputs("LATENT")
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


def of_method(base: dict[str, Any], method: Method) -> dict[str, Any]:
    """The template of a method, on a real model or on the embedded one."""
    graph = Graph(template(base, method.backbone) if method.backbone else copy.deepcopy(base))
    graph.workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"spectral-motion/{method.name}"))
    alignment = graph.node("SMA_AlignmentLoss")
    set_widgets(alignment, {"method": method.alignment["method"]})
    knobs = {name: value for name, value in method.alignment.items() if name != "method"}
    add_widgets(alignment, knobs)
    below = [node for node in graph.workflow["nodes"] if node["type"] in ("SMA_SpectralLoss", "LossGraphNode")]
    for node in (alignment, *below):
        grown = 24 * len(knobs)
        if node is alignment:
            node["size"][1] += grown
        else:
            node["pos"][1] += grown
    set_widgets(graph.node("SMA_SpectralLoss"), method.spectral)
    set_widgets(graph.node("SMA_TrainMotionLoRA"), method.training | {"save_prefix": method.name})
    set_widgets(graph.node("KSampler"), method.sampling)
    set_widgets(graph.node("SaveVideo"), {"filename_prefix": f"video/{method.name}"})
    graph.node("MarkdownNote")["widgets_values"][0] = method.note
    if method.start:
        start_from_the_clip(graph, method.start)
    return graph.workflow


def templates(base: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All templates by the names of their files. The base with the embedded model's size, the others drawn from it."""
    base = copy.deepcopy(base)
    set_widgets(Graph(base).node("SMA_LoadMotionClip"), {"width": SIZE, "height": SIZE})
    written = {BASE: base}
    written |= {f"{backbone.name}-motion-transfer": template(base, backbone) for backbone in (*UNETS, *NATIVE)}
    return written | {method.name: of_method(base, method) for method in METHODS}


def read_base() -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{BASE}.json").read_text())


def cut_thumbnails(templates: dict[str, dict[str, Any]]) -> None:
    from PIL import Image

    for name, workflow in templates.items():
        groups = [group["bounding"] for group in workflow["groups"]]
        tall, wide = max(y + height for _, y, _, height in groups), max(x + width for x, _, width, _ in groups)
        with Image.open(CACHE / "screenshots" / f"{name}.png") as page:
            # The page fits the graph into its middle, as wide as it can.
            left, middle, right = 0.12 * page.width, 0.4925 * page.height, 0.885 * page.width
            half = 0.52 * (right - left) * (tall - min(y for _, y, _, _ in groups)) / wide
            graph = page.convert("RGB").crop(tuple(map(round, (left, middle - half, right, middle + half))))
            graph.resize((800, round(800 * graph.height / graph.width))).save(WORKFLOWS / f"{name}.jpg", quality=82)


def main() -> None:
    base = read_base()
    written = templates(base)
    if sys.argv[1:2] == ["--thumbnails"]:
        return cut_thumbnails({name: written[name] for name in sys.argv[2:] or written})
    for name, workflow in written.items():
        # The base is the page's own file; it is written only where something in it changes.
        if name != BASE or workflow != base:
            (WORKFLOWS / f"{name}.json").write_text(json.dumps(workflow, indent=2) + "\n")


if __name__ == "__main__":
    main()
