"""Which MODEL uses a network that several share, heard of the moment the host says so.

Asking at every layer would do as well, but code that torch.compile made would be made anew for every MODEL that it met.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

Listener = Callable[[Any], None]


def follow(model: nn.Module, listener: Listener) -> None:
    """Calls ``listener`` with the patcher that uses the host's model now, or None, and again whenever that changes."""
    if not hasattr(model, "_spectral_motion_listeners"):
        model.__class__ = _followed(type(model))
    model._spectral_motion_listeners = (*model._spectral_motion_listeners, listener)
    listener(getattr(model, "current_patcher", None))


def unfollow(model: nn.Module, listener: Listener) -> None:
    """Stops that; a model that nobody follows is of its own class again."""
    if not hasattr(model, "_spectral_motion_listeners"):
        return
    left = tuple(other for other in model._spectral_motion_listeners if other != listener)
    if left:
        model._spectral_motion_listeners = left
        return
    vars(model).pop("_spectral_motion_listeners", None)
    # Another program may have put a class of its own over ours.
    own = type(model).__base__
    if type(model) is _followed(own):
        model.__class__ = own


@functools.cache
def _followed(kind: type[nn.Module]) -> type[nn.Module]:
    class Followed(kind):
        _spectral_motion_listeners: tuple[Listener, ...] = ()

        @property
        def current_patcher(self) -> Any:
            return vars(self).get("current_patcher")

        @current_patcher.setter
        def current_patcher(self, patcher: Any) -> None:
            vars(self)["current_patcher"] = patcher
            for listener in self._spectral_motion_listeners:
                listener(patcher)

    Followed.__name__, Followed.__qualname__, Followed.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return Followed
