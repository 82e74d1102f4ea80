"""Reading the graph that is being executed, for what sockets do not carry. Where the graph is another than expected, nothing is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Inputs = Mapping[str, Any]


def _behind(graph: Mapping[str, Any] | None, inputs: Inputs, name: str, class_type: str) -> Inputs:
    """Inputs of the node linked to an input, if it is of this type; else none."""
    link = inputs.get(name)
    source = (graph or {}).get(link[0], {}) if isinstance(link, list) else {}
    return source.get("inputs", {}) if source.get("class_type") == class_type else {}


def prompt_behind(graph: Mapping[str, Any] | None, node_id: str | None, name: str) -> str:
    """The text of the CLIP Text Encode linked to a node's input, or ""."""
    inputs = (graph or {}).get(node_id or "", {}).get("inputs", {})
    text = _behind(graph, inputs, name, "CLIPTextEncode").get("text")
    return text if isinstance(text, str) else ""


def fps_behind(graph: Mapping[str, Any] | None, node_id: str | None, name: str) -> float | None:
    """The rate that Load Motion Clip, behind the VAE Encode linked to a node's input, was asked to retime to, or None."""
    inputs = (graph or {}).get(node_id or "", {}).get("inputs", {})
    pixels = _behind(graph, inputs, name, "VAEEncode")
    fps = _behind(graph, pixels, "pixels", "SMA_LoadMotionClip").get("timing.fps")
    return float(fps) if isinstance(fps, int | float) else None
