"""Networks that torch.compile wrapped, as they were before."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn


def original(module: nn.Module) -> nn.Module:
    """The module that torch.compile wrapped, or the one given."""
    return getattr(module, "_orig_mod", module)


@contextlib.contextmanager
def unwrapped(model: nn.Module) -> Iterator[None]:
    """Within it, what torch.compile wrapped inside a module is in its own place, under its own name.

    Some nodes put compiled blocks into a network for as long as the MODEL is loaded. Layers in them have other names while they are there.
    """
    # Importing the compiler takes seconds, and where nobody did nothing is compiled.
    dynamo = sys.modules.get("torch._dynamo")
    wrapped = [
        (module._modules, name, child)
        for module in (() if dynamo is None else list(model.modules()))
        for name, child in module._modules.items()
        if isinstance(child, dynamo.eval_frame.OptimizedModule)
    ]
    try:
        for children, name, child in wrapped:
            children[name] = child._orig_mod
        yield
    finally:
        for children, name, child in wrapped:
            children[name] = child


def looks_inside(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a MODEL that finds its layers under their own names. See :func:`unwrapped`."""

    @functools.wraps(function)
    def inside(model: Any, *args: Any, **kwargs: Any) -> Any:
        with unwrapped(model.model):
            return function(model, *args, **kwargs)

    return inside


def compiled_parts(model: Any) -> tuple[str, ...]:
    """Names, as in "diffusion_model.blocks.0.", of what a MODEL replaces by compiled modules while it is loaded.

    The host finds no weight in them to patch, and says nothing.
    """
    return tuple(f"{name}." for name, part in model.object_patches.items() if hasattr(part, "_orig_mod"))


@contextlib.contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Runs a model of the host past torch.compile; what was compiled serves again afterwards.

    A graph compiled for sampling knows nothing of an adapter's hooks, and compiling the backward of a video network can take longer
    than the training. PyTorch before 2.6 has no switch for what a node compiles at each call; there it does compile.
    """
    set_stance = None if "torch._dynamo" not in sys.modules else getattr(torch.compiler, "set_stance", None)
    with contextlib.nullcontext() if set_stance is None else set_stance("force_eager"), unwrapped(model):
        yield
