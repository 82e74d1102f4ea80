"""Networks that torch.compile wrapped, as they were before."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import nn


def original(module: nn.Module) -> nn.Module:
    """The module that torch.compile wrapped, or the one given."""
    return getattr(module, "_orig_mod", module)


@contextlib.contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """Runs a network of the host past torch.compile; what was compiled serves again afterwards.

    A graph compiled for sampling knows nothing of an adapter's hooks, and compiling the backward of a video network can take longer
    than the training. PyTorch before 2.6 has no switch for what a node compiles at each call; there it does compile.
    """
    # Importing the compiler takes seconds, and where nobody did nothing is compiled.
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        yield
        return
    wrapped = [
        (module._modules, name, child)
        for module in network.modules()
        for name, child in module._modules.items()
        if isinstance(child, dynamo.eval_frame.OptimizedModule)
    ]
    set_stance = getattr(torch.compiler, "set_stance", None)
    with contextlib.nullcontext() if set_stance is None else set_stance("force_eager"):
        try:
            for children, name, child in wrapped:
                children[name] = child._orig_mod
            yield
        finally:
            for children, name, child in wrapped:
                children[name] = child
