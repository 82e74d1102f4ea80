"""Values that are what they claim to be: numbers, and of a size that comes from somewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .state import TrainingState

# Of latents, noise, embeddings and trained values, which are about 1; some text encoders give thousands.
LARGEST = 1e6
# Of AdamW's moments: gradients, and squares of them.
LARGEST_MOMENT = 1e20


def is_finite(values: Tensor) -> bool:
    """Whether a tensor of any type holds no NaN and no infinite value."""
    return bool(_wide(values).isfinite().all())


def _wide(values: Tensor) -> Tensor:
    # Older releases of PyTorch cannot tell of 8-bit floats whether they are finite.
    return values.float() if values.is_floating_point() and values.dtype.itemsize == 1 else values


def check_finite(name: str, values: Tensor, remedy: str, largest: float = LARGEST) -> None:
    """Refuse NaN, infinite and absurdly large values.

    Args:
        name: what holds them, such as "The latent".
        values: a tensor; whole numbers are not looked at.
        remedy: a sentence.

    Raises:
        ValueError: how many there are, or how large they are.
    """
    if not (values.is_floating_point() or values.is_complex()) or not values.numel():
        return
    if values.dtype.itemsize == 1:  # of 8-bit floats PyTorch asks nothing
        values = values.float()
    values = _wide(values)
    if wrong := values.numel() - int(values.isfinite().sum()):
        raise ValueError(
            f"{name} holds {wrong} NaN or infinite values of {values.numel()}; finite ones are needed. {remedy}"
        )
    most = float(values.abs().max())
    if most > largest:
        raise ValueError(f"{name} holds values up to {most:.3g}; {largest:g} is the most that makes sense. {remedy}")


def check_state(state: TrainingState, name: str) -> None:
    """Refuse a state from which no training could go on; name: of its file.

    Raises:
        ValueError: NaN, infinite or absurd values in it.
    """
    remedy = "Resume from another state, or start anew."
    for values in state.adapter.values():
        check_finite(f"The state {name}", values, remedy)
    for values in state.optimizer.values():
        check_finite(f"The state {name}", values, remedy, LARGEST_MOMENT)
