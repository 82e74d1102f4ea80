"""Layers of a network that wear updates: a class of their own for as long as they do, which code compiled before notices.

A graph that torch.compile made asks for the class of a layer and for its ``forward`` before it is used again, and never for its hooks: one
made before a hook was added answers as if there were none. A ``forward`` on the layer itself, as the host's own bypass puts it there,
would be noticed too; but the host takes such methods off in the order they came, and leaves its own behind, which would hide ours.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Worn(Protocol):
    """What a layer wears: called with each of its outputs and what it was called with, answers the output to give instead."""

    def add_to(self, output: Tensor, args: tuple, kwargs: Mapping[str, Any]) -> Tensor: ...


def put_on(module: nn.Module, worn: Worn) -> None:
    """Makes a layer wear something more, over what it wears."""
    if not hasattr(module, "_spectral_motion_worn"):
        module.__class__ = _wearing(type(module))
    module._spectral_motion_worn = (*module._spectral_motion_worn, worn)


def take_off(module: nn.Module, worn: Worn) -> None:
    """Takes one thing off a layer; without any it is of its own class again. Nothing happens where it does not wear it."""
    left = tuple(other for other in worn_by(module) if other is not worn)
    if left:
        module._spectral_motion_worn = left
        return
    vars(module).pop("_spectral_motion_worn", None)
    # Another program may have put a class of its own over ours; there an empty one stays below it.
    own = type(module).__base__
    if type(module) is _wearing(own):
        module.__class__ = own


def worn_by(module: nn.Module) -> tuple[Worn, ...]:
    """What a layer wears, the first put on first."""
    return getattr(module, "_spectral_motion_worn", ())


@functools.cache
def _wearing(kind: type[nn.Module]) -> type[nn.Module]:
    """A kind of layer that wears things. One per kind: with a new one each time compiled code would be made anew each time."""

    class Wearing(kind):
        _spectral_motion_worn: tuple[Worn, ...] = ()

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            output = super().__call__(*args, **kwargs)
            for worn in self._spectral_motion_worn:
                output = worn.add_to(output, args, kwargs)
            return output

    Wearing.__name__, Wearing.__qualname__ = kind.__name__, kind.__qualname__
    return Wearing
