"""Blocks of a transformer by number, so that layers can be chosen as in "blocks 0-9 and 20-29"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn


def numbers(network: nn.Module, lists: Sequence[str]) -> dict[str, int]:
    """Name of each block -> its number, counted through the module lists in the order given."""
    names = [f"{name}.{child}" for name in lists for child, _ in _children(network, name)]
    return {name: number for number, name in enumerate(names)}


def _children(network: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    # A member of a family may lack one of its lists: HunyuanVideo 1.5 has no single blocks.
    return list(network.get_submodule(name).named_children()) if name in dict(network.named_children()) else []


def of(layer: str) -> str:
    """The block that a layer named ``<list>.<n>.…`` lies in, or would lie in."""
    return ".".join(layer.split(".")[:2])


def parse(ranges: str, count: int) -> frozenset[int]:
    """Numbers in ranges such as ``"0-9, 20-29, 31"``, both ends included.

    Args:
        ranges: at least one number.
        count: blocks there are.

    Raises:
        ValueError: no such ranges, a range that falls, or one beyond the last block.
    """
    chosen: set[int] = set()
    for part in ranges.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{part.strip()!r} in blocks {ranges!r} is no rising range; write it like 0-9, 20-29.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= count:
            raise ValueError(
                f"Blocks {ranges!r} go up to {last} and the network has 0 to {count - 1}. Choose among these."
            )
        chosen.update(range(first, last + 1))
    return frozenset(chosen)
