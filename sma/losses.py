"""Loss terms over a Prediction, and the motion loss: a named, weighted list of them.

A term maps a Prediction to one value per sample, [B]. It does not know whether the gradient goes into adapters
(training) or into the latent (guidance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .checks import check_option, check_weight
from .loss_functions import Over, Space, anchor_debiased, denoising, draw_anchors, residual_cosine, signal_share
from .masks import check_shows_motion
from .prediction import Prediction
from .spectral import GlobalTransform, LocalTransform, SpectralSettings

# Beyond that the other terms play no part, and a run without them says so more plainly.
_LARGEST_SHARE = 10


class LossTerm:
    """One term of a motion loss. Subclasses are frozen dataclasses of their settings."""

    kind: ClassVar[str]
    needs_motion: ClassVar[bool] = False  # cannot be evaluated on one frame

    def __call__(self, p: Prediction, generator: torch.Generator) -> Tensor:
        """Value per sample, [B]. `generator` is a CPU generator for terms that draw."""
        raise NotImplementedError

    def bind(self, x0: Tensor, *, mask: Tensor | None = None) -> LossTerm:
        """The same term with everything that depends on the reference clip [1, C, F, H, W] and its mask alone computed once."""
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
    """See `anchor_debiased` and `draw_anchors`."""

    kind: ClassVar[str] = "anchor_debiased"
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_weight("beta", self.beta)

    def __call__(self, p: Prediction, generator: torch.Generator) -> Tensor:
        return anchor_debiased(p, anchor=draw_anchors(p, generator), beta=self.beta)


@dataclass(frozen=True)
class _Spectral(LossTerm):
    """A distance between two clips in a transform: x0 and x0_hat, of which x0's half can be held, or target and output."""

    transform: ClassVar[type[GlobalTransform] | type[LocalTransform]]
    needs_motion: ClassVar[bool] = True
    settings: SpectralSettings
    reference: GlobalTransform | LocalTransform | None = field(default=None, repr=False, compare=False)

    def __call__(self, p: Prediction, generator: torch.Generator) -> Tensor:
        if self.settings.space == "output":
            value = self._distance(self.transform.of(p.target, self.settings, mask=p.mask), p.output)
        else:
            held = self.reference is not None and self.reference.mask is p.mask
            reference = self.reference if held else self.transform.of(p.x0, self.settings, mask=p.mask)
            value = self._distance(reference, p.x0_hat)
        return value * signal_share(p).to(value) if self.settings.sigma_weight == "signal" else value

    def _distance(self, reference: Any, clip: Tensor) -> Tensor:
        return reference.compare(clip)

    def bind(self, x0: Tensor, *, mask: Tensor | None = None) -> _Spectral:
        if self.settings.space == "output":
            return self  # the target changes with the noise
        # Outside inference mode: its tensors could not be saved for a backward pass.
        with torch.inference_mode(False), torch.no_grad():
            return replace(self, reference=self.transform.of(x0, self.settings, mask=mask))

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self.settings)}


class SpectralGlobal(_Spectral):
    """`spectral.global_loss` in the settings' space."""

    kind = "spectral_global"
    transform = GlobalTransform


class SpectralLocal(_Spectral):
    """Sum of both values of `spectral.local_loss` in the settings' space."""

    kind = "spectral_local"
    transform = LocalTransform

    def _distance(self, reference: LocalTransform, clip: Tensor) -> Tensor:
        amplitude, phase = reference.compare(clip)
        return amplitude + phase


@dataclass(frozen=True)
class FunctionTerm(LossTerm):
    """A plain function of the prediction, [B], as a term; a mask is for the function to heed."""

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


def _weighted_sum(terms: Iterable[WeightedTerm], values: dict[str, Tensor]) -> Tensor:
    return torch.stack([term.weight * values[term.name] for term in terms]).sum(0)


@dataclass(frozen=True)
class MotionLoss:
    """Named, weighted loss terms, evaluated in order. A tuple (name, weight, term) may stand for a WeightedTerm.

    Attributes:
        terms: at least one of a weight above 0.
        spectral_share: None, or above 0 to 10: in every forward of a training the gradient of all spectral terms together is
            scaled so that its norm is this share of the norm of the gradient of all other terms together, both taken in the
            adapter's values (the LoRA's weights). The weights of the spectral terms then fix only their proportion to each
            other, their sigma_weight only that of the samples of one forward. See :func:`~.balance.backward`; totals, which
            have no gradient at hand, are unscaled.

    Raises:
        ValueError: no term, two terms of one name, no weight above 0, something that is no weighted term, a share out of
            its range, or one without a spectral and another term of a weight above 0.
    """

    terms: tuple[WeightedTerm, ...]
    spectral_share: float | None = None

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
        if self.spectral_share is None:
            return
        if not 0 < self.spectral_share <= _LARGEST_SHARE:
            raise ValueError(
                f"spectral_share is {self.spectral_share}; it must be above 0 and at most {_LARGEST_SHARE}."
            )
        if not all(self._apart()):
            raise ValueError(
                f"spectral_share balances spectral terms against others, and both need a weight above 0 (terms: {names}). "
                "Add what is missing, or leave the share out."
            )

    def _apart(self) -> tuple[list[WeightedTerm], list[WeightedTerm]]:
        """The other and the spectral terms of a weight above 0."""
        weighted = [term for term in self.terms if term.weight > 0]
        others = [term for term in weighted if not isinstance(term.term, _Spectral)]
        return others, [term for term in weighted if isinstance(term.term, _Spectral)]

    def with_terms(self, *terms: WeightedTerm | tuple[str, float, Any]) -> MotionLoss:
        """A motion loss with these terms appended."""
        return replace(self, terms=(*self.terms, *terms))

    def bind(self, x0: Tensor, *, mask: Tensor | None = None) -> MotionLoss:
        """A motion loss that holds the transforms of the reference clip, on its device.

        Args:
            x0: [1, C, F, H, W]. Every prediction given to the bound loss must be of this clip, in any batch size.
            mask: the very one of those predictions; under another one the clip is transformed anew.

        Raises:
            ValueError: a term compares frames, and the mask shows nothing in two frames that follow each other.
        """
        if mask is not None:
            check_shows_motion(mask, x0, [term.name for term in self.terms if term.term.needs_motion])
        return replace(self, terms=tuple(replace(term, term=term.term.bind(x0, mask=mask)) for term in self.terms))

    def __call__(self, p: Prediction, generator: torch.Generator) -> dict[str, Tensor]:
        """Every term's value before its weight, [B] each. Terms that draw take their numbers from `generator`."""
        values = {}
        for term in self.terms:
            with torch.set_grad_enabled(torch.is_grad_enabled() and term.weight > 0):
                values[term.name] = term.term(p, generator)
        return values

    def total_of(self, values: dict[str, Tensor]) -> Tensor:
        """Weighted sum [B] of the values that a call returned."""
        return _weighted_sum((term for term in self.terms if term.weight > 0), values)

    def parts_of(self, values: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """What is differentiated apart, [B] each: the total, or with a spectral share the other and the spectral terms."""
        if self.spectral_share is None:
            return (self.total_of(values),)
        return tuple(_weighted_sum(terms, values) for terms in self._apart())

    def total(self, p: Prediction, generator: torch.Generator) -> Tensor:
        """Weighted sum of all terms, [B]."""
        return self.total_of(self(p, generator))

    def describe(self) -> list[dict[str, Any]]:
        """Name, weight, kind and settings of every term, fit for JSON; of spectral ones also the share, where it is set."""
        described = []
        for term in self.terms:
            about = {"name": term.name, "weight": term.weight, **term.term.describe()}
            if self.spectral_share is not None and isinstance(term.term, _Spectral):
                about["spectral_share"] = self.spectral_share
            described.append(about)
        return described
