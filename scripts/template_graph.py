"""A workflow in the page's own format, and the few changes that templates differ by."""

from __future__ import annotations

import copy
from typing import Any

PACK = "spectral-motion"
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


def outputs(*kinds: str) -> list[dict[str, Any]]:
    return [{"localized_name": kind, "name": kind, "type": kind, "links": None} for kind in kinds]


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
