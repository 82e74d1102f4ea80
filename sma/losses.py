"""Loss terms over a Prediction, and the motion loss: a named, weighted list of them.

A term maps a Prediction to one value per sample, [B]. It does not know whether the gradient goes into adapters
(training) or into the latent (guidance).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .checks import check_option, check_weight
from .prediction import Prediction
from .residuals import at_least_float32, frame_residuals
from .spectral import GlobalTransform, LocalTransform, SpectralSettings

Over = Literal["frames", "pixels"]
Space = Literal["noise", "output"]


def _error(p: Prediction) -> Tensor:
    return at_least_float32(p.output) - at_least_float32(p.target)


def denoising(p: Prediction) -> Tensor:
    """Mean squared error of the network's output against its target, over the mask if there is one; [B]."""
    error = _error(p) ** 2
    if p.mask is None:
        return error.flatten(1).mean(1)
    mask = p.mask.to(error).expand_as(error)
    share = mask.flatten(1).sum(1).clamp_min(torch.finfo(error.dtype).tiny)  # an empty mask gives 0, not NaN
    return (error * mask).flatten(1).sum(1) / share


def residual_cosine(p: Prediction, *, absolute: bool = True, over: Over = "frames", space: Space = "noise") -> Tensor:
    """1 - mean cosine between the frame residuals of prediction and truth (VMC, arXiv 2312.00845, eq. 17); [B].

    Args:
        absolute: compare absolute residuals as VMC's code does; unrelated clips then score about 0.3 and not 1.
        over: "frames", one cosine per channel and pixel along time (VMC's code; with 2 frames and absolute residuals
            the loss is always 0); "pixels", one per pair of frames over all channels and pixels (VMC's paper).
        space: "noise" compares noise_hat with noise, "output" the network's output with its target.

    Raises:
        ValueError: unknown option, or fewer than 2 frames.
    """
    check_option("over", over, Over)
    check_option("space", space, Space)
    predicted, true = (p.noise_hat, p.noise) if space == "noise" else (p.output, p.target)
    predicted, true = frame_residuals(predicted, absolute=absolute), frame_residuals(true, absolute=absolute)
    if over == "pixels":
        predicted, true = predicted.transpose(1, 2).flatten(2), true.transpose(1, 2).flatten(2)  # [B, F-1, C*H*W]
    return 1 - cosine_similarity(predicted, true, dim=2).flatten(1).mean(1)


def anchor_debiased(p: Prediction, *, anchor: Tensor, beta: float = 1.0) -> Tensor:
    """Appearance-debiased error, the second term of MotionDirector's temporal loss (arXiv 2310.08465, eq. 5-7); [B].

    Output and target are both mapped by phi(e) = sqrt(beta^2 + 1) e - beta e[anchor], then compared by MSE.

    Args:
        anchor: LongTensor [B], the frame that stands for the appearance of each sample, 0 <= anchor < F.
        beta: how much of the anchor is taken away, 0 or above.

    Raises:
        ValueError: beta or an anchor is out of range.
    """
    check_weight("beta", beta)
    frames = p.output.shape[2]
    if not ((anchor >= 0) & (anchor < frames)).all():
        raise ValueError(f"The anchors are {anchor.tolist()}; with {frames} frames each must be 0 to {frames - 1}.")
    error = _error(p)  # phi is linear
    samples = torch.arange(error.shape[0], device=error.device)
    at_anchor = error[samples, :, anchor.to(error.device)].unsqueeze(2)  # [B, C, 1, H, W]
    return ((math.sqrt(beta**2 + 1) * error - beta * at_anchor) ** 2).flatten(1).mean(1)


class LossTerm:
    """One term of a motion loss. Subclasses are frozen dataclasses of their settings."""

    kind: ClassVar[str]
    needs_motion: ClassVar[bool] = False  # cannot be evaluated on one frame

    def __call__(self, p: Prediction, generator: torch.Generator) -> Tensor:
        """Value per sample, [B]. `generator` is a CPU generator for terms that draw."""
        raise NotImplementedError

    def bind(self, x0: Tensor) -> LossTerm:
        """The same term with everything that depends on the reference clip [1, C, F, H, W] alone computed once."""
        return self

    def describe(self) -> dict[str, Any]:
        """Kind and settings, fit for JSON."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Denoising(LossTerm):
    """See `denoising`."""

    kind: ClassVar[str] = "denoising"

    def __call__(self, p: Prediction, generator: torch.Generator) -> Tensor:
        return denoising(p)


@dataclass(frozen=True)
class ResidualCosine(LossTerm):
    """See `residual_cosine`."""

    kind: ClassVar[str] = "residual_cosine"
    needs_motion: ClassVar[bool] = True
    absolute: bool = True
    over: Over = "frames"
    space: Space = "noise"

    def __post_init__(self) -> None:
        check_option("over", self.over, Over)
        check_option("space", self.space, Space)

    def __call__(self, p: Prediction, generator: torch.Generator) -> Tensor:
        return residual_cosine(p, absolute=self.absolute, over=self.over, space=self.space)


@dataclass(frozen=True)
class Debiased(LossTerm):
    """See `anchor_debiased`; the anchor of each sample is drawn uniformly from the frames."""

    kind: ClassVar[str] = "anchor_debiased"
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_weight("beta", self.beta)

    def __call__(self, p: Prediction, generator: torch.Generator) -> Tensor:
        batch, _, frames = p.output.shape[:3]
        anchor = torch.randint(frames, (batch,), generator=generator)
        return anchor_debiased(p, anchor=anchor, beta=self.beta)


@dataclass(frozen=True)
class _Spectral(LossTerm):
    """A distance between x0 and x0_hat in a transform, of which x0's half can be held."""

    transform: ClassVar[type[GlobalTransform] | type[LocalTransform]]
    needs_motion: ClassVar[bool] = True
    settings: SpectralSettings
    reference: GlobalTransform | LocalTransform | None = field(default=None, repr=False, compare=False)

    def _compare(self, p: Prediction) -> Any:
        return (self.reference or self.transform.of(p.x0, self.settings)).compare(p.x0_hat)

    def bind(self, x0: Tensor) -> _Spectral:
        # Outside inference mode: its tensors could not be saved for a backward pass.
        with torch.inference_mode(False), torch.no_grad():
            return replace(self, reference=self.transform.of(x0, self.settings))

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self.settings)}


class SpectralGlobal(_Spectral):
    """`spectral.global_loss` between x0 and x0_hat."""

    kind = "spectral_global"
    transform = GlobalTransform

    def __call__(self, p: Prediction, generator: torch.Generator) -> Tensor:
        return self._compare(p)


class SpectralLocal(_Spectral):
    """Sum of both values of `spectral.local_loss` between x0 and x0_hat."""

    kind = "spectral_local"
    transform = LocalTransform

    def __call__(self, p: Prediction, generator: torch.Generator) -> Tensor:
        amplitude, phase = self._compare(p)
        return amplitude + phase


@dataclass(frozen=True)
class FunctionTerm(LossTerm):
    """A plain function of the prediction, [B], as a term."""

    function: Callable[[Prediction], Tensor]

    def __call__(self, p: Prediction, generator: torch.Generator) -> Tensor:
        value = self.function(p)
        if value.shape != p.x0.shape[:1]:
            raise ValueError(
                f"{self._name} gave a value of shape {list(value.shape)}; a loss term gives one per sample, "
                f"[{p.x0.shape[0]}]. Leave the mean over the batch to the caller."
            )
        return value

    def describe(self) -> dict[str, Any]:
        return {"kind": self._name}

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


@dataclass(frozen=True)
class WeightedTerm:
    """A loss term with the name it is reported under and its weight in the total.

    A weight of 0 means watched: evaluated and reported, without gradient. A plain function prediction -> [B], such as
    `denoising`, serves as a term too.

    Raises:
        ValueError: negative or non-finite weight, or a term that is neither.
    """

    name: str
    weight: float
    term: LossTerm | Callable[[Prediction], Tensor]

    def __post_init__(self) -> None:
        if not isinstance(self.term, LossTerm):
            if isinstance(self.term, type) or not callable(self.term):
                raise ValueError(
                    f"The term {self.name} is {self.term!r}; give a LossTerm or a function prediction -> [B]."
                )
            object.__setattr__(self, "term", FunctionTerm(self.term))
        check_weight(f"The weight of {self.name}", self.weight)


def spectral_terms(settings: SpectralSettings) -> tuple[WeightedTerm, ...]:
    """The global and the local term under the settings' own weights; a weight of 0 leaves its term out."""
    terms = (
        WeightedTerm("spectral_global", settings.global_weight, SpectralGlobal(settings)),
        WeightedTerm("spectral_local", settings.local_weight, SpectralLocal(settings)),
    )
    return tuple(term for term in terms if term.weight > 0)


def _weighted(term: object) -> WeightedTerm:
    if isinstance(term, WeightedTerm):
        return term
    if isinstance(term, tuple | list) and len(term) == 3:
        return WeightedTerm(*term)
    raise ValueError(f"{term!r} is no weighted term; give (name, weight, term).")


@dataclass(frozen=True)
class MotionLoss:
    """Named, weighted loss terms, evaluated in order. A tuple (name, weight, term) may stand for a WeightedTerm.

    Raises:
        ValueError: no term, two terms of one name, no weight above 0, or something that is no weighted term.
    """

    terms: tuple[WeightedTerm, ...]

    def __post_init__(self) -> None:
        if isinstance(self.terms, WeightedTerm | str) or not isinstance(self.terms, Iterable):
            raise ValueError(f"The terms are {self.terms!r}; a motion loss needs a list of (name, weight, term).")
        object.__setattr__(self, "terms", tuple(map(_weighted, self.terms)))
        names = [term.name for term in self.terms]
        if not any(term.weight > 0 for term in self.terms):
            raise ValueError(
                f"The motion loss has no term with a weight above 0 (terms: {names}). Raise one or add one."
            )
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"The motion loss has two terms named {', '.join(sorted(twice))}; remove or rename one.")

    def with_terms(self, *terms: WeightedTerm | tuple[str, float, Any]) -> MotionLoss:
        """A motion loss with these terms appended."""
        return MotionLoss((*self.terms, *terms))

    def bind(self, x0: Tensor) -> MotionLoss:
        """A motion loss that holds the transforms of the reference clip, on its device.

        Args:
            x0: [1, C, F, H, W]. Every prediction given to the bound loss must be of this clip, in any batch size.
        """
        return MotionLoss(tuple(replace(term, term=term.term.bind(x0)) for term in self.terms))

    def __call__(self, p: Prediction, generator: torch.Generator) -> dict[str, Tensor]:
        """Every term's value before its weight, [B] each. Terms that draw take their numbers from `generator`."""
        values = {}
        for term in self.terms:
            with torch.set_grad_enabled(torch.is_grad_enabled() and term.weight > 0):
                values[term.name] = term.term(p, generator)
        return values

    def total_of(self, values: dict[str, Tensor]) -> Tensor:
        """Weighted sum [B] of the values that a call returned."""
        return torch.stack([term.weight * values[term.name] for term in self.terms if term.weight > 0]).sum(0)

    def total(self, p: Prediction, generator: torch.Generator) -> Tensor:
        """Weighted sum of all terms, [B]."""
        return self.total_of(self(p, generator))

    def describe(self) -> list[dict[str, Any]]:
        """Name, weight, kind and settings of every term, fit for JSON."""
        return [{"name": term.name, "weight": term.weight, **term.term.describe()} for term in self.terms]
