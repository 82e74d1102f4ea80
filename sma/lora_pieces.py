"""Products of a file that are of some rows of a layer, put together to one update of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .layer_names import Place
from .lora_formats import LowRank
from .lora_keys import product_is_zero


@dataclass(frozen=True, eq=False)
class Piece:
    """A product in a file: of a whole layer, or of some of its rows where the file's program has the layer in parts."""

    place: Place
    format: str
    update: LowRank
    magnitude: Tensor | None
    keys: tuple[str, ...]

    @property
    def is_zero(self) -> bool:
        return self.magnitude is None and is_zero(self.update)


def is_zero(update: LowRank) -> bool:
    """Whether an update changes nothing."""
    return update.scale == 0.0 or product_is_zero(update.down, update.up)


def is_free(place: Place, taken: Sequence[Piece], dora: bool) -> bool:
    """Whether a product may join those of its layer: on other rows, and with magnitudes where they have them."""
    return all(
        (piece.magnitude is not None) == dora
        and place.rows
        and piece.place.rows
        and all(end <= first or last <= start for first, last in piece.place.rows for start, end in place.rows)
        for piece in taken
    )


def joined(pieces: Sequence[Piece], shape: Sequence[int]) -> tuple[LowRank, Tensor | None]:
    """One update of a layer out of the products of its rows, and the magnitudes of those rows.

    Products that share their ``down``, as where a program split a fused layer's update, keep their rank; others get a block each in a
    larger rank.
    """
    if len(pieces) == 1 and not pieces[0].place.rows:
        return pieces[0].update, pieces[0].magnitude
    first = pieces[0].update
    alike = all(piece.update.scale == first.scale for piece in pieces)
    shared = alike and all(torch.equal(piece.update.down, first.down) for piece in pieces)
    downs = [first.down] if shared else [piece.update.down for piece in pieces]
    dtype = first.up.dtype if alike else torch.promote_types(first.up.dtype, torch.float32)
    up = torch.zeros(shape[0], sum(map(len, downs)), *first.up.shape[2:], dtype=dtype)
    column = 0
    magnitudes = {}
    for piece in pieces:
        update, row = piece.update, 0
        for start, end in piece.place.rows:
            rows = update.up[row : row + end - start].to(dtype)
            up[start:end, column : column + update.rank] = rows if alike else rows * update.scale
            if piece.magnitude is not None:
                magnitudes[start] = piece.magnitude[row : row + end - start]
            row += end - start
        column += 0 if shared else update.rank
    update = LowRank(torch.cat(downs), up, first.scale if alike else 1.0)
    return update, torch.cat([magnitudes[start] for start in sorted(magnitudes)]) if magnitudes else None
