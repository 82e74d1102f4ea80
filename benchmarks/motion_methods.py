"""What the motion benchmark compares: ways to train, and forms of the spectral loss beside them. One line each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sma.losses import (
    Debiased,
    Denoising,
    MotionLoss,
    ResidualCosine,
    SpectralGlobal,
    SpectralLocal,
    WeightedTerm,
    spectral_terms,
)
from sma.plan import Phase, dual_path
from sma.spectral import OFFICIAL, OUTPUT, PAPER, REPAIRED, SpectralSettings

MOTIONS = ("circle", "back", "zigzag", "bounce", "eight", "spiral")
# Learning rates and shares are chosen on these alone, so that no choice has seen the motions it is judged by.
TUNING_MOTIONS = ("corner", "pulse", "diagonal")
TUNING_RATES = (3e-3, 6e-3, 1.2e-2)
STEPS = 100
# Where a run without spectral loss is measured besides its end, to compare with a run that fits as well.
SNAPSHOTS = (50, 75, 125)


@dataclass(frozen=True)
class Method:
    """How a clip's motion is learned. terms: what is minimised; none where nothing is trained. learning_rate: the best of
    `--tune`. dual: MotionDirector's two groups, of which the temporal one minimises the terms."""

    title: str
    terms: tuple[WeightedTerm, ...] = ()
    learning_rate: float | None = None
    dual: bool = False


@dataclass(frozen=True)
class Form:
    """A spectral loss beside a method, None for none. null: what differs is not the loss but the LoRA's initial values."""

    title: str
    settings: SpectralSettings | None = None
    spectral_share: float | None = None
    null: bool = False


_DENOISING = WeightedTerm("denoising", 1.0, Denoising())
_DEBIASED = WeightedTerm("anchor_debiased", 1.0, Debiased())
_COSINE = WeightedTerm("residual_cosine", 1.0, ResidualCosine(space="output"))
_COSINE_SIGNED = WeightedTerm("residual_cosine", 1.0, ResidualCosine(space="output", absolute=False))
_COSINE_OF_NOISE = WeightedTerm("residual_cosine", 1.0, ResidualCosine(space="noise"))

METHODS: dict[str, Method] = {
    "oracle": Method("oracle (drawn on the path)"),
    "random": Method("random (clips of the training data)"),
    "base": Method("base (no LoRA)"),
    "plain": Method("plain denoising", (_DENOISING,), 6e-3),
    "debiased": Method("debiased denoising", (_DENOISING, _DEBIASED), 6e-3),
    "vmc_noise": Method("VMC cosine of noise", (_COSINE_OF_NOISE,), 6e-3),
    "vmc_output": Method("VMC cosine of output", (_COSINE,), 6e-3),
    "vmc_signed": Method("signed cosine of output", (_COSINE_SIGNED,), 6e-3),
    "vmc+plain": Method("VMC cosine of output + plain", (_COSINE, _DENOISING), 6e-3),
    "dual": Method("MotionDirector dual path", (_DENOISING, _DEBIASED), 6e-3, dual=True),
}
UNTRAINED = tuple(name for name, method in METHODS.items() if not method.terms)

_WEAK = replace(REPAIRED, global_weight=0.04, local_weight=0.02)
_LOW = replace(REPAIRED, bands="low")
_SIGNAL = replace(REPAIRED, sigma_weight="signal")
_OUTPUT = replace(REPAIRED, space="output")
_GLOBAL = replace(REPAIRED, local_weight=0.0)

FORMS: dict[str, Form] = {
    "off": Form("off"),
    "null": Form("off, other initial LoRA (null)", null=True),
    "official": Form("OFFICIAL", OFFICIAL),
    "paper": Form("PAPER", PAPER),
    "repaired": Form("REPAIRED", REPAIRED),
    "weak": Form("REPAIRED, weights x 0.1", _WEAK),
    "balanced": Form("REPAIRED, share 0.3", REPAIRED, 0.3),
    "balanced-weak": Form("REPAIRED, share 0.1", REPAIRED, 0.1),
    "balanced-strong": Form("REPAIRED, share 1", REPAIRED, 1.0),
    "balanced-low": Form("low bands, share 0.3", _LOW, 0.3),
    "balanced-global": Form("global term alone, share 0.3", _GLOBAL, 0.3),
    "signal": Form("weighted by signal", _SIGNAL),
    "signal-balanced": Form("weighted by signal, share 0.3", _SIGNAL, 0.3),
    "output": Form("on the network's output", _OUTPUT),
    "output-weak": Form("on the network's output, weights x 0.1", OUTPUT),
    "output-balanced": Form("on the network's output, share 0.3", _OUTPUT, 0.3),
}

# What `make bench-motion` runs, each row on so many seeds of every motion. What the question turns on gets the most: about 30
# pairs show a difference of .1, 6 only a collapse.
_ALL, _FEW = 5, 1
TABLE: dict[str, int] = {
    "plain:off": _ALL,
    "plain:null": _ALL,
    "plain:official": _FEW,
    "plain:paper": _FEW,
    "plain:repaired": _FEW,
    "plain:weak": _FEW,
    "plain:output-weak": _ALL,
    "plain:output-balanced": _FEW,
    "plain:balanced": _FEW,
    "plain:balanced-low": _FEW,
    "plain:signal": _FEW,
    "debiased:off": _FEW,
    "dual:off": _FEW,
    "vmc_noise:off": _FEW,
    "vmc_output:off": _FEW,
    "vmc_output:official": _FEW,
    "vmc_output:balanced": _FEW,
    "vmc+plain:off": _FEW,
}


def motion_loss(method: str, form: str) -> MotionLoss:
    """The method's terms and the form's. What a cell does not minimise of them is watched at a weight of 0; only terms that
    draw nothing, so that all forms of a method see the same noise."""
    settings = FORMS[form].settings
    minimised = METHODS[method].terms + (spectral_terms(settings) if settings else ())
    settings = settings or REPAIRED
    watched = (
        replace(_DENOISING, weight=0.0),
        replace(_COSINE, weight=0.0),
        WeightedTerm("spectral_global", 0.0, SpectralGlobal(settings)),
        WeightedTerm("spectral_local", 0.0, SpectralLocal(settings)),
    )
    names = {term.name for term in minimised}
    terms = minimised + tuple(term for term in watched if term.name not in names)
    share = FORMS[form].spectral_share
    return MotionLoss(terms, spectral_share=share)


def phases(method: str, form: str) -> tuple[Phase, ...]:
    """One phase, or MotionDirector's two, of which the last one trains what is sampled."""
    loss = motion_loss(method, form)
    return dual_path(loss) if METHODS[method].dual else (Phase(loss),)
