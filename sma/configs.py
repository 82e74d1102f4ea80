"""The configuration files of the official SMA and VMC repositories: what they say about a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .losses import MotionLoss, ResidualCosine, Space, WeightedTerm, spectral_terms
from .spectral import OFFICIAL, SpectralSettings

_SMA = ("ld_global", "ld_local", "num_levels", "ld_levels")
# Places, and what comes after the training; read by nobody here.
_ELSEWHERE = {
    *("pretrained_t2v_path", "vid_name", "logdir", "validation_steps", "threshold", "save_config", "sr2_strength"),
    *("sr2_steps", "validation_sample_logger", "inference_prompts"),
}
_KNOWN = {*_SMA, *_ELSEWHERE, "train_steps", "lr", "seed", "num_inv_steps", "train_prompt", "train_dataset"} | {
    "trainable_modules",
    "loss_mode",
}
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
        return f"{loss}; {self.steps} steps at {self.learning_rate:g}; {self.inversion_steps} steps of inversion"


def official_config(content: Any) -> OfficialConfig:
    """Reads the content of a config, as a YAML reader gives it.

    What is missing has the default of the official code: lr 3e-5, seed 12345, 75 inversion steps, and for SMA
    ld_global .5, ld_local .2, num_levels 2 and ld_levels all 1. What concerns paths and sampling is passed over.

    Raises:
        ValueError: no such config, keys that are not known, or values that mean nothing here.
    """
    if not isinstance(content, Mapping) or "train_steps" not in content:
        raise ValueError("The file is no config of SMA or VMC: it has no train_steps. Choose a .yml of their configs.")
    if strange := sorted(map(str, content.keys() - _KNOWN)):
        raise ValueError(
            f"The config has {', '.join(strange)}, which neither SMA nor VMC knows; remove what is not theirs."
        )
    modules = content.get("trainable_modules", sorted(_TRAINED))
    if not isinstance(modules, Sequence) or isinstance(modules, str) or set(map(str, modules)) != _TRAINED:
        raise ValueError(f"trainable_modules is {modules!r}; here it must be .to_q, .to_k and .to_v, as published.")
    if content.get("loss_mode", [_LOSS]) != [_LOSS]:
        raise ValueError(f"loss_mode is {content['loss_mode']!r}; only [{_LOSS!r}] is known.")
    return OfficialConfig(
        spectral=_spectral(content),
        steps=_whole(content, "train_steps", None),
        learning_rate=_number(content, "lr", 3e-5),
        seed=_whole(content, "seed", 12345, least=0),
        prompt=_prompt(content),
        inversion_steps=_whole(content, "num_inv_steps", 75),
    )


def _spectral(content: Mapping[str, Any]) -> SpectralSettings | None:
    if not any(name in content for name in _SMA):
        return None
    weights = content.get("ld_levels")
    if weights is not None:
        if not isinstance(weights, Sequence) or isinstance(weights, str):
            raise ValueError(f"ld_levels is {weights!r}; it must be a list of numbers.")
        weights = tuple(_number({"ld_levels": weight}, "ld_levels", None) for weight in weights)
    return replace(
        OFFICIAL,
        global_weight=_number(content, "ld_global", 0.5),
        local_weight=_number(content, "ld_local", 0.2),
        levels=_whole(content, "num_levels", 2),
        level_weights=weights,
    )


def _prompt(content: Mapping[str, Any]) -> str:
    data = content.get("train_dataset", {})
    if not isinstance(data, Mapping):
        raise ValueError(f"train_dataset is {data!r}; it must hold the prompt and the frames.")
    prompt = content.get("train_prompt", data.get("prompt", ""))
    if not isinstance(prompt, str):
        raise ValueError(f"The training prompt is {prompt!r}; it must be text.")
    return prompt


def _number(content: Mapping[str, Any], name: str, default: float | None) -> float:
    value = content.get(name, default)
    try:
        # YAML 1.1 takes 1e-4 for text.
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be a number of 0 or above.")
    return number


def _whole(content: Mapping[str, Any], name: str, default: int | None, least: int = 1) -> int:
    number = _number(content, name, default)
    if number != int(number) or number < least:
        raise ValueError(f"{name} is {content.get(name)!r}; it must be a whole number of at least {least}.")
    return int(number)
