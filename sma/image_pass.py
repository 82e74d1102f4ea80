"""A single frame as an image: a video network without the modules that mix frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .roles import known_family


@contextmanager
def image_pass(network: nn.Module) -> Iterator[None]:
    """Within it a forward of one frame leaves out every module that does nothing but mix frames.

    So do the networks that MotionDirector trains, and so its spatial path is a pure image pass; diffusers' networks run
    temporal attention and convolutions over one frame, which is not the identity. Forwards of more frames are as ever. Networks
    whose attention is joint over space and time have no such modules: nothing happens.

    Args:
        network: called with [B, C, F, H, W] first.
    """
    family = known_family(network)
    pattern = family.over_time if family is not None else ""
    image = False

    def look(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        nonlocal image
        image = args[0].shape[2] == 1

    def leave_out(module: nn.Module, args: tuple, output: Any) -> Any:
        # After the module and not in its place: the host may have wrapped its forward, to run it again in backward.
        if not image:
            return None
        (x,) = args[:1]
        return x if isinstance(output, Tensor) else (x,)

    handles = []
    if pattern:
        handles.append(network.register_forward_pre_hook(look, with_kwargs=True))
        for name, module in network.named_modules():
            if re.fullmatch(pattern, name):
                handles.append(module.register_forward_hook(leave_out))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
