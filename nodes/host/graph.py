"""Reading the graph that is being executed, for what sockets do not carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text_behind(graph: Mapping[str, Any] | None, node_id: str | None, name: str) -> str:
    """The text of the CLIP Text Encode linked to a node's input, or "" where another node is or its text is linked too."""
    inputs = (graph or {}).get(node_id or "", {}).get("inputs", {})
    link = inputs.get(name)
    source = (graph or {}).get(link[0], {}) if isinstance(link, list) else {}
    text = source.get("inputs", {}).get("text") if source.get("class_type") == "CLIPTextEncode" else None
    return text if isinstance(text, str) else ""
