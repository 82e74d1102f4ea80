"""What a template starts sampling from."""

from __future__ import annotations

from template_graph import Graph, Node, add_widgets, new_node, outputs, set_widgets, socket, widgets_of
from template_parts import Start

Wire = tuple[Node, int]


def empty_latent(graph: Graph, number: int) -> Node:
    """The clip's latent times 0."""
    empty = graph.add(new_node(number, "LatentMultiply", (1880, 510), (290, 82), "Empty latent as long as the clip"))
    empty["inputs"].append(socket("samples", "LATENT", None))
    add_widgets(empty, {"multiplier": 0.0})
    empty["outputs"] = outputs("LATENT")
    graph.link(graph.node("VAEEncode"), 0, empty, "samples")
    return empty


def start_from_the_clip(graph: Graph, start: Start) -> None:
    """Sampling from the clip's inverted noise, as VMC has it: the sampler in its parts, and the inversion by the model that samples."""
    sampler, decode, lora = (graph.node(kind) for kind in ("KSampler", "VAEDecode", "LoraModelLoader"))
    drawn = [node for node in graph.workflow["nodes"] if node["type"] == "LatentMultiply"]
    empty = drawn[0] if drawn else empty_latent(graph, graph.free_id())
    positive, nothing = (graph.node("CLIPTextEncode", title) for title in ("New prompt", "Negative prompt"))
    nothing["title"] = "Negative prompt, kept empty"
    set_widgets(nothing, {"text": ""})
    widgets = widgets_of(sampler)

    def part(kind: str, place: tuple[int, int], height: int, inputs: dict[str, Wire], values: dict, *made: str) -> Node:
        node = graph.add(new_node(graph.free_id(), kind, place, (290, height)))
        node["inputs"] = [
            socket(name, source["outputs"][slot]["type"], None) for name, (source, slot) in inputs.items()
        ]
        add_widgets(node, values)
        node["outputs"] = outputs(*made)
        for name, (source, slot) in inputs.items():
            graph.link(source, slot, node, name)
        return node

    worn, clip = (lora, 0), (graph.node("VAEEncode"), 0)
    conditioning = {"positive": (positive, 0), "negative": (nothing, 0)}
    invert = part(
        "SMA_InvertClip",
        (1880, 60),
        190,
        {"model": worn, "latent": clip, "positive": (nothing, 0)},
        {"steps": start.steps, "refinements": start.refinements},
        "LATENT",
    )
    noise = part(
        "SMA_MotionNoise",
        (1880, 310),
        154,
        {"inverted": (invert, 0)},
        {"seed": widgets["seed"], "method": start.method, "renormalise": False},
        "NOISE",
    )
    guider = part("CFGGuider", (2210, 60), 98, {"model": worn} | conditioning, {"cfg": widgets["cfg"]}, "GUIDER")
    select = part("KSamplerSelect", (2210, 200), 58, {}, {"sampler_name": start.sampler}, "SAMPLER")
    levels = {"scheduler": start.scheduler, "steps": start.steps, "denoise": 1.0}
    sigmas = part("BasicScheduler", (1550, 560), 106, {"model": worn}, levels, "SIGMAS")
    sampling = part(
        "SamplerCustomAdvanced",
        (2210, 300),
        106,
        {
            "noise": (noise, 0),
            "guider": (guider, 0),
            "sampler": (select, 0),
            "sigmas": (sigmas, 0),
            "latent_image": (empty, 0),
        },
        {},
        "LATENT",
        "LATENT",
    )
    graph.link(sampling, 0, decode, "samples")
    graph.remove(sampler)
    decode["pos"], empty["pos"] = [2210, 450], [1880, 530]
    for node in graph.workflow["nodes"]:
        match node["type"]:
            case "ImageScale":
                node["pos"] = [2210, 540]
            case "CreateVideo" | "SaveVideo":
                node["pos"][0] += 330
            case "MarkdownNote":
                node["size"][0] += 330
    graph.workflow["groups"][2]["bounding"][2] += 330
