"""PyTorch's own attention while a network trains, whatever the host or a node chose for sampling."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from comfy.ldm.modules.attention import attention_pytorch
from torch import nn

_OVERRIDE = "optimized_attention_override"
# Networks import the attention that was chosen at start under these names, and some call it without the options of a call.
_NAMES = ("optimized_attention", "optimized_attention_masked")


@contextlib.contextmanager
def differentiable_attention(network: nn.Module, options: dict[str, Any]) -> Iterator[None]:
    """Computes attention by PyTorch, which has a gradient; many a faster kernel (sage, flash, int8) has none.

    The user's choice is back at the end. Networks of diffusers' own attention use PyTorch's as they are.

    Args:
        network: the host's BaseModel, or a bare network.
        options: transformer_options of the calls, changed in place.
    """
    before: dict[str, Any] = {name: options[name] for name in (_OVERRIDE,) if name in options}
    # A copy: other threads of the host import meanwhile.
    modules = {name: module for name, module in sys.modules.copy().items() if name.startswith("comfy.")}
    # Networks of other node packs.
    modules |= {type(module).__module__: sys.modules.get(type(module).__module__) for module in network.modules()}
    imported = [
        (vars(module), name, vars(module)[name])
        for module in modules.values()
        for name in _NAMES
        if isinstance(module, ModuleType) and name in vars(module)
    ]
    options[_OVERRIDE] = _pytorch
    try:
        for names, name, _ in imported:
            names[name] = attention_pytorch
        yield
    finally:
        for names, name, chosen in imported:
            names[name] = chosen
        options.pop(_OVERRIDE, None)
        options.update(before)


def _pytorch(_: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return attention_pytorch(*args, **kwargs)
