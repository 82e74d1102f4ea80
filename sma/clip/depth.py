"""Levels of pictures that hold more than 8 bits a channel: which value is white."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Tags of a tiff.
BITS, PHOTOMETRIC, ORIENTATION, SAMPLE_FORMAT = 258, 262, 274, 339
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # values of SAMPLE_FORMAT
WHITE_IS_ZERO = 0  # value of PHOTOMETRIC

_OVERSHOOT = 0.1  # beyond 0..1 in float pictures: what sharpening and resizing leave; cut off


def tiff_depth(tags: Mapping[int, object]) -> tuple[int, int]:
    """Bits of a sample and its format (UNSIGNED, SIGNED or FLOAT), by the tags of a tiff."""
    return _first(tags.get(BITS, 1)), _first(tags.get(SAMPLE_FORMAT, UNSIGNED))


def levels(values: np.ndarray, bits: int, sample_format: int) -> np.ndarray:
    """Turn samples into 0..1, float32, by their own depth; float values are taken as they are.

    Args:
        values: samples of any shape, integers or floats.
        bits: of a sample in the file, which may be fewer than those of the array.
        sample_format: UNSIGNED, SIGNED or FLOAT.

    Raises:
        ValueError: values for which nobody knows what white is. The message goes on where the name of the file ends.
    """
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if sample_format == FLOAT:
        if not -_OVERSHOOT <= low <= high <= 1 + _OVERSHOOT:  # also where they are NaN
            raise ValueError(
                f"holds float values from {low:.4g} to {high:.4g}; a picture needs 0 to 1. "
                "Divide them by their white, or save it with 8 or 16 bits."
            )
        return values.astype(np.float32).clip(0, 1)
    if low < 0:
        raise ValueError(f"holds values down to {low}; a picture needs 0 or more. Save it with 8 or 16 bits unsigned.")
    if bits == 32 and 0 < high < 2**16:
        # By their depth all of them would be black.
        raise ValueError(f"holds 32-bit values of at most {high}, of 4294967295. Save it with 16 bits.")
    white = 2 ** (bits - (sample_format == SIGNED)) - 1
    return (values / np.float64(white)).astype(np.float32)


def _first(value: object) -> int:
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    return first if isinstance(first, int) else 0  # a tag of a damaged file may be anything
