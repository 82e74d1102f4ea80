"""Answers in a sentence where a prompt makes a choice that a node does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, wraps
from typing import Any

from comfy_api.latest import io


def check_choices(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Makes a node refuse unknown and missing choices of its DynamicCombos before it runs; returns the node.

    The host checks every other input when a prompt comes in. Of a DynamicCombo it drops an unknown choice and passes nothing on.
    """
    execute = node.execute.__func__
    inputs = cache(lambda: node.define_schema().inputs)

    @wraps(execute)
    def checked(cls: type[io.ComfyNode], **values: Any) -> io.NodeOutput:
        _check(values, inputs())
        return execute(cls, **values)

    node.execute = classmethod(checked)
    return node


def _check(values: Mapping[str, Any], inputs: Sequence[io.Input]) -> None:
    for item in inputs:
        if not isinstance(item, io.DynamicCombo.Input):
            continue
        group = values.get(item.id) or {}
        if not isinstance(group, Mapping):
            # The host makes a mapping of a choice and what belongs to it, but not of one that it learns only while it runs.
            raise ValueError(f"{item.id} is linked, and its choice decides what belongs to it. Choose it on the node.")
        key = group.get(item.id)
        option = next((option for option in item.options if option.key == key), None)
        if option is None:
            known = ", ".join(repr(option.key) for option in item.options)
            said = "has no known value" if key is None else f"is {key!r}"
            raise ValueError(f"{item.id} {said}; the choices are {known}. Choose one of them.")
        if missing := [inner.id for inner in option.inputs if inner.id not in group and not inner.optional]:
            raise ValueError(f"{item.id} {key!r} lacks {', '.join(missing)}. Give {item.id}.{missing[0]} a value.")
        _check(group, option.inputs)
