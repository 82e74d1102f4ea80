"""Layers of a network that wear updates: a class of their own for as long as they do, which code compiled before notices.

A graph that torch.compile made asks for the class of a layer and for its ``forward`` before it is used again, and never for its hooks: one
made before a hook was added answers as if there were none. A ``forward`` on the layer itself, as the host's own bypass puts it there,
would be noticed too; but the host takes such methods off in the order they came, and leaves its own behind, which would hide ours.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...sma.lora_layers import LoRALayer, input_of


@dataclass(eq=False)
class OnNetwork:
    """One LoRA on one network.

    Attributes:
        key: of the LoRA, among the injections of MODELs that wear it.
        values: its layers on a device, by name.
        updates: of its layers.
        on: whether they do anything now.
        used: whether the network is used by a MODEL that wears it, or by none. The host may put injections of a MODEL on a network that is
            in use by another one (stale clones).
        owners: ids of the patchers that put them on; a clone made of a loaded MODEL claims to have done so, and when it is dropped the
            host ejects in its name.
    """

    key: str
    values: Callable[[torch.device], Mapping[str, LoRALayer]]
    updates: list[WornUpdate] = field(default_factory=list)
    on: bool = True
    used: bool = True
    owners: set[int] = field(default_factory=set)

    def __deepcopy__(self, memo: dict) -> OnNetwork:
        return self  # a copy of a network wears what that one wears

    def hear(self, user: Any) -> None:
        self.used = user is None or self.key in user.injections


@dataclass(eq=False)
class WornUpdate:
    """One layer's part of a LoRA: ``scale`` times what ``layer`` answers, which holds the values where the network is computed.

    Compiled code takes a number of an object like this as an input from its second value on; one of a module it has made anew each time.
    """

    name: str
    module: weakref.ref[nn.Module]
    layer: LoRALayer
    scale: float
    state: OnNetwork
    ran: bool = False

    def __deepcopy__(self, memo: dict) -> WornUpdate:
        return self

    def add_to(self, output: Tensor, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        # Compiled code asks for both again before every call.
        if not (self.state.on and self.state.used):
            return output
        self.ran = True
        x = input_of(self.name, args, kwargs, "Set apply to patch weights.")
        if self.layer.down.device != x.device:
            # Other packs have some layers computed elsewhere than the host would.
            self.layer = self.state.values(x.device)[self.name]
        update = self.layer(x)
        if self.scale != 1.0:
            update = update * self.scale
        if update.shape != output.shape:
            raise ValueError(
                f"{self.name} answers {list(output.shape)} where its settings give {list(update.shape)}, so it cannot be bypassed. "
                "Set apply to patch weights."
            )
        return output + update


def put_on(module: nn.Module, update: WornUpdate) -> None:
    """Makes a layer wear an update, over those it wears."""
    if not hasattr(module, "_spectral_motion_worn"):
        module.__class__ = _wearing(type(module))
    module._spectral_motion_worn = (*module._spectral_motion_worn, update)


def take_off(module: nn.Module, update: WornUpdate) -> None:
    """Takes an update off a layer, which without any is of its own class again. Nothing happens where it does not wear it."""
    if not hasattr(module, "_spectral_motion_worn"):
        return
    left = tuple(other for other in worn_by(module) if other is not update)
    if left:
        module._spectral_motion_worn = left
        return
    vars(module).pop("_spectral_motion_worn", None)
    # Another program may have put a class of its own over ours; there an empty one stays below it.
    own = type(module).__base__
    if type(module) is _wearing(own):
        module.__class__ = own


def worn_by(module: nn.Module) -> tuple[WornUpdate, ...]:
    """The updates that a layer wears, the first put on first."""
    return getattr(module, "_spectral_motion_worn", ())


@functools.cache
def _wearing(kind: type[nn.Module]) -> type[nn.Module]:
    """A kind of layer that wears updates. One per kind: with a new one each time compiled code would be made anew each time."""

    class Wearing(kind):
        _spectral_motion_worn: tuple[WornUpdate, ...] = ()

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            output = super().__call__(*args, **kwargs)
            for update in self._spectral_motion_worn:
                output = update.add_to(output, args, kwargs)
            return output

    Wearing.__name__, Wearing.__qualname__ = kind.__name__, kind.__qualname__
    return Wearing
