"""Answers in a sentence where a prompt makes a choice that a node does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.latest import io

from ...sma.checks import shown


def check_choices(values: Mapping[str, Any], inputs: Sequence[io.Input], chosen: str = "") -> None:
    """Nothing where every DynamicCombo has a known choice and all that belongs to it.

    The host checks every other input when a prompt comes in. Of a DynamicCombo it drops an unknown choice and passes nothing on.

    Args:
        chosen: what stands among the values beside the inputs: the choice that they belong to.

    Raises:
        ValueError: names the input, and its choices, what the choice lacks or what is too much.
    """
    own = {item.id for item in inputs} | {chosen}
    # The host drops values of inputs that a node does not have, but hands on what is linked to them.
    if surplus := [name for name in values if name not in own]:
        raise ValueError(f"{shown(surplus[0])} is no input of this node as it is set. Remove that link.")
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
            said = "has no known value" if key is None else f"is {shown(key)}"
            raise ValueError(f"{item.id} {said}; the choices are {known}. Choose one of them.")
        if missing := [inner.id for inner in option.inputs if inner.id not in group and not inner.optional]:
            raise ValueError(f"{item.id} {key!r} lacks {', '.join(missing)}. Give {item.id}.{missing[0]} a value.")
        check_choices(group, option.inputs, item.id)
