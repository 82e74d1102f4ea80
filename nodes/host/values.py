"""Answers in a sentence where a value is not what its widget takes: the host lets NaN past every bound, and linked values past all."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io

from ...sma.checks import shown
from .lists import Offered

# Characters.
_LONGEST = 20_000
_LONGEST_NAME = 2000


def check_values(values: Mapping[str, Any], inputs: Sequence[io.Input], defaults: Container[str] = ()) -> None:
    """Nothing where every widget has a value of its kind and range, and every link that must give something does.

    Args:
        values: what the node was given; choices of DynamicCombos are known already, see :func:`~.choices.check_choices`.
        inputs: those of the node's schema.
        defaults: names of those that may be left out.

    Raises:
        ValueError: names the input, its value and what it needs.
    """
    for name, item, given in given_inputs(values, inputs, ""):
        value = given.get(item.id)
        if value is None:
            left_out = item.id not in given and (item.optional or item.id in defaults)
            free_socket = item.optional and not isinstance(item, io.WidgetInput)
            if not left_out and not free_socket:
                raise ValueError(f"{name} has no value; it needs one. Link a node that gives it.")
        elif isinstance(item, io.Int.Input | io.Float.Input):
            _check_number(name, value, item)
        elif isinstance(item, io.Boolean.Input) and not isinstance(value, bool):
            raise ValueError(f"{name} is {shown(value)}; it is either true or false. Set it on the node.")
        elif isinstance(item, io.String.Input | io.Combo.Input):
            _check_text(name, value, item)


def _check_text(name: str, value: Any, item: io.String.Input | io.Combo.Input) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}; it needs text. Set it on the node.")
    if len(value) > _LONGEST:
        raise ValueError(f"{name} has {len(value)} characters; {_LONGEST} are the most. Shorten it.")
    if isinstance(item, io.Combo.Input):
        if isinstance(item.options, Offered):
            if len(value) > _LONGEST_NAME or "\0" in value:
                raise ValueError(f"{name} is {shown(value)}; no file is called so. Choose one from the list.")
        elif value not in item.options:
            known = ", ".join(map(repr, item.options))
            raise ValueError(f"{name} is {shown(value)}; the choices are {known}. Choose one of them.")
    # No text in a file can hold those; names of files that are there may.
    elif has_half_characters(value):
        raise ValueError(f"{name} is {shown(value)}, with half a character in it. Write it anew.")


def has_half_characters(text: str) -> bool:
    """Whether a text holds half of a character, as Python makes of file names that are no UTF-8."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def given_inputs(
    values: Mapping[str, Any], inputs: Sequence[io.Input], prefix: str
) -> Iterator[tuple[str, io.Input, Mapping[str, Any]]]:
    """Every input in force: its name for messages, itself, and the values that it stands among."""
    for item in inputs:
        if isinstance(item, io.DynamicCombo.Input):
            group = values[item.id]
            (option,) = [option for option in item.options if option.key == group[item.id]]
            yield from given_inputs(group, option.inputs, f"{prefix}{item.id}.")
        else:
            yield getattr(item, "display_name", None) or prefix + item.id, item, values


def _check_number(name: str, value: Any, item: io.Int.Input | io.Float.Input) -> None:
    whole = isinstance(item, io.Int.Input)
    fits = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    # NaN lies within no bounds when asked this way.
    if fits and item.min <= value <= item.max:
        return
    kind = "a whole number" if whole else "a number"
    raise ValueError(
        f"{name} is {shown(value)}; it needs {kind} from {_bound(item.min)} to {_bound(item.max)}. Set it on the node."
    )


def _bound(number: float) -> str:
    return str(int(number) if number == int(number) else number)
