"""The configuration files of the official SMA and VMC repositories: what they say about a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .checks import shown
from .losses import MotionLoss, ResidualCosine, Space, WeightedTerm, spectral_terms
from .spectral import MOST_LEVELS, OFFICIAL, SpectralSettings

# What SMA's script alone takes or saves: a file with one of these is SMA's, whatever else it leaves out.
_SMA = {
    *("ld_global", "ld_local", "num_levels", "ld_levels", "loss_mode", "trainable_modules", "train_prompt"),
    *("threshold", "save_config", "sr2_strength", "sr2_steps", "inference_prompts"),
}
# Places, precision, and what comes after the training; read by nobody here.
_ELSEWHERE = {
    *("pretrained_t2v_path", "ddim_inv_scheduler_path", "vid_name", "exp_name", "logdir", "mixed_precision"),
    *("gradient_checkpointing", "validation_steps", "validation_sample_logger"),
}
_KNOWN = {*_SMA, *_ELSEWHERE, "train_steps", "lr", "seed", "num_inv_steps", "train_dataset"}
# What the official scripts take where a file is silent; the published files say 75 inversion steps.
_SMA_STEPS, _VMC_STEPS, _RATE, _SEED, _INVERSION_STEPS = 500, 400, 3e-5, 12345, 30
_GLOBAL, _LOCAL, _LEVELS = 0.5, 0.2, 2
# The widgets that the numbers come to have the same bounds; levels halve the frames each.
_MOST = {
    **dict.fromkeys(("ld_global", "ld_local", "ld_levels"), 100),
    **{"train_steps": 100_000, "lr": 1, "seed": 2**64 - 1, "num_inv_steps": 1000, "num_levels": MOST_LEVELS},
}
_LONGEST_PROMPT = 10_000
_TRAINED = {".to_q", ".to_k", ".to_v"}
_LOSS = "cos-res-freg"


@dataclass(frozen=True)
class OfficialConfig:
    """A training as the official code would run it.

    Attributes:
        spectral: SMA's terms in the form of the official code; None for VMC alone.
        steps: optimizer steps.
        learning_rate: AdamW's.
        seed: of the run.
        prompt: the training prompt, or "".
        inversion_steps: of the DDIM inversion that sampling starts from.
    """

    spectral: SpectralSettings | None
    steps: int
    learning_rate: float
    seed: int
    prompt: str
    inversion_steps: int

    def motion_loss(self, space: Space = "noise") -> MotionLoss:
        """VMC's cosine as coded, with SMA's terms behind it."""
        cosine = WeightedTerm("residual_cosine", 1.0, ResidualCosine(absolute=True, over="frames", space=space))
        return MotionLoss((cosine, *(spectral_terms(self.spectral) if self.spectral is not None else ())))

    def describe(self) -> str:
        """In one line, e.g. "SMA: cosine + 0.4 global (2 levels) + 0.2 local; 500 steps at 0.0001; 75 steps of inversion"."""
        loss = "VMC: cosine"
        if self.spectral is not None:
            levels, weights = self.spectral.levels, self.spectral.level_weights
            if weights is not None and set(weights) != {1.0}:
                shown = f"{levels} levels weighted {', '.join(f'{weight:g}' for weight in weights)}"
            else:
                shown = f"{levels} level{'s' if levels != 1 else ''}"
            loss = (
                f"SMA: cosine + {self.spectral.global_weight:g} global ({shown}) + {self.spectral.local_weight:g} local"
            )
        prompt = "" if self.prompt else "; no training prompt"
        return (
            f"{loss}; {self.steps} steps at {self.learning_rate:g}; {self.inversion_steps} steps of inversion{prompt}"
        )


def official_config(content: Any) -> OfficialConfig:
    """Reads the content of a config, as a YAML reader gives it.

    What is missing has the default of the official scripts: lr 3e-5, seed 12345, 30 inversion steps, 400 training steps for VMC and 500
    for SMA, and for SMA ld_global .5, ld_local .2, num_levels 2 and ld_levels all 1. A file is SMA's if it has a key that only SMA's
    script takes. What concerns paths, precision and sampling is passed over.

    Raises:
        ValueError: no such config, keys that are not known, or values that mean nothing here.
    """
    if not isinstance(content, Mapping) or content.keys().isdisjoint(("train_steps", "train_dataset")):
        raise ValueError(
            "The file is no config of SMA or VMC: it has no train_steps and no train_dataset. Choose a .yml of their configs."
        )
    if strange := sorted(shown(key).strip("'") for key in content.keys() - _KNOWN):
        more = f" and {len(strange) - 5} others" if len(strange) > 5 else ""
        raise ValueError(
            f"The config has {', '.join(strange[:5])}{more}, which neither SMA nor VMC knows; remove what is not theirs."
        )
    modules = content.get("trainable_modules", sorted(_TRAINED))
    if (
        not isinstance(modules, Sequence)
        or isinstance(modules, str)
        or {m for m in modules if isinstance(m, str)} != _TRAINED
    ):
        raise ValueError(
            f"trainable_modules is {shown(modules)}; here it must be .to_q, .to_k and .to_v, as published."
        )
    if content.get("loss_mode", [_LOSS]) != [_LOSS]:
        raise ValueError(f"loss_mode is {shown(content['loss_mode'])}; only [{_LOSS!r}] is known.")
    spectral = None if _SMA.isdisjoint(content) else _spectral(content)
    return OfficialConfig(
        spectral=spectral,
        steps=_whole(content, "train_steps", _VMC_STEPS if spectral is None else _SMA_STEPS),
        learning_rate=_number(content, "lr", _RATE),
        seed=_whole(content, "seed", _SEED, least=0),
        prompt=_prompt(content),
        inversion_steps=_whole(content, "num_inv_steps", _INVERSION_STEPS),
    )


def _spectral(content: Mapping[str, Any]) -> SpectralSettings:
    weights = content.get("ld_levels")
    if weights is not None:
        if not isinstance(weights, Sequence) or isinstance(weights, str) or len(weights) > _MOST["num_levels"] + 1:
            raise ValueError(f"ld_levels is {shown(weights)}; it must be a list of numbers, one more than num_levels.")
        weights = tuple(_number({"ld_levels": weight}, "ld_levels", None) for weight in weights)
    return replace(
        OFFICIAL,
        global_weight=_number(content, "ld_global", _GLOBAL),
        local_weight=_number(content, "ld_local", _LOCAL),
        levels=_whole(content, "num_levels", _LEVELS),
        level_weights=weights,
    )


def _prompt(content: Mapping[str, Any]) -> str:
    data = content.get("train_dataset", {})
    if not isinstance(data, Mapping):
        raise ValueError(f"train_dataset is {shown(data)}; it must hold the prompt and the frames.")
    prompt = content.get("train_prompt", data.get("prompt", ""))
    if not isinstance(prompt, str) or len(prompt) > _LONGEST_PROMPT:
        raise ValueError(
            f"The training prompt is {shown(prompt)}; it must be text of {_LONGEST_PROMPT} characters at most."
        )
    return prompt


def _number(content: Mapping[str, Any], name: str, default: float | None) -> float:
    value, most = content.get(name, default), _MOST[name]
    try:
        # YAML 1.1 takes 1e-4 for text.
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= most:
        raise ValueError(f"{name} is {shown(value)}; it must be a number from 0 to {most}. Correct it in the config.")
    return number


def _whole(content: Mapping[str, Any], name: str, default: int | None, least: int = 1) -> int:
    value, most = content.get(name, default), _MOST[name]
    # Not by way of a float where it is whole already: seeds have more digits.
    number = value if isinstance(value, int) and not isinstance(value, bool) else _number(content, name, default)
    if not least <= number <= most or number != int(number):
        raise ValueError(
            f"{name} is {shown(value)}; it must be a whole number from {least} to {most}. Correct it in the config."
        )
    return int(number)
