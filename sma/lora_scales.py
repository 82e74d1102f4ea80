"""How strong a LoRA is by what its file says beside the tensors."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .patterns import NamePattern, TimeLimit

# PEFT's settings, in a file beside the LoRA, as the reader of files hands it over.
PEFT_CONFIG = "adapter_config.json"
_DIFFUSERS = "lora_adapter_metadata"
_KOHYA = "ss_network_alpha"
# Of the components that a diffusers file may hold, the one that is the network; "" where the file is of one network.
_COMPONENTS = ("transformer.", "unet.", "")
# Of programs whose layers have alphas of their own ("Dynamic": resized ones).
_NO_ALPHA = ("", "None", "Dynamic")

# Patterns of layer names, and the value of each.
Patterns = tuple[tuple[NamePattern, float], ...]


@dataclass(frozen=True)
class Scales:
    """The alphas that a file's metadata gives to layers without an alpha of their own.

    Attributes:
        source: where they come from, for a report; "" where the metadata has none.
        alpha: of all layers but those in ``alphas``.
        alphas: PEFT's alpha_pattern, regular expressions of layer names -> alpha.
        rank, ranks: PEFT's, of layers whose tensors do not show theirs (LoKr of whole factors).
        stabilised: rank-stabilised (arXiv 2312.03732): the scale is alpha / sqrt(r) and not alpha / r.
        kohya: they belong to layers with kohya's names only.
    """

    source: str = ""
    alpha: float = 0.0
    alphas: Patterns = ()
    rank: float = 0.0
    ranks: Patterns = ()
    stabilised: bool = False
    kohya: bool = False

    def alpha_of(self, name: str) -> float:
        """The alpha of a layer, by the name that the training program has for it."""
        return _by_pattern(self.alphas, name, self.alpha)

    def scale_of(self, name: str, rank: int, *, kohya: bool) -> float | None:
        """The scale of a layer's update, or None where the metadata is not about it.

        Args:
            rank: of the layer's factors, 0 where they do not show it.
            kohya: the layer has kohya's keys. A file that was converted from them often keeps their metadata though its factors hold the
                alpha by then (musubi-tuner's ``convert_lora.py``).
        """
        rank = rank or _by_pattern(self.ranks, name, self.rank)
        if not self.source or self.kohya != kohya or rank <= 0:
            return None
        return self.alpha_of(name) / (math.sqrt(rank) if self.stabilised else rank)


def _by_pattern(values: Patterns, name: str, otherwise: float) -> float:
    return next((value for pattern, value in values if pattern.matches(name)), otherwise)


def read_scales(metadata: Mapping[str, object]) -> Scales:
    """Reads the alphas of a file's metadata: diffusers' ``lora_adapter_metadata``, PEFT's ``adapter_config.json`` or kohya's
    ``ss_network_alpha``, whichever comes first.

    Hosts do not look at these: a LoRA of PEFT with alpha 4 and rank 8 is applied twice too strong by them.

    Raises:
        ValueError: such an entry is damaged.
    """
    for key, source in ((_DIFFUSERS, "the file's metadata"), (PEFT_CONFIG, PEFT_CONFIG)):
        if key in metadata:
            settings = _settings(metadata[key], key)
            for prefix in _COMPONENTS:
                own = {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
                # LoHa and LoKr call it alpha.
                for name in ("lora_alpha", "alpha"):
                    if own.get(name) is not None:
                        return _of_peft(own, own[name], source, key)
    if _KOHYA in metadata and metadata[_KOHYA] not in _NO_ALPHA:
        return Scales(_KOHYA, _number(metadata[_KOHYA], _KOHYA), kohya=True)
    return Scales()


def _of_peft(settings: Mapping[str, Any], alpha: object, source: str, key: str) -> Scales:
    return Scales(
        source,
        _number(alpha, key),
        _patterns(settings, "alpha_pattern", key),
        _number(settings.get("r") or 0, key),
        _patterns(settings, "rank_pattern", key),
        bool(settings.get("use_rslora")),
    )


def _patterns(settings: Mapping[str, Any], name: str, key: str) -> Patterns:
    values = settings.get(name) or {}
    if not isinstance(values, Mapping):
        raise ValueError(_damaged(key, f"its {name} is {reprlib.repr(values)}"))
    limit = TimeLimit()
    patterns = []
    for pattern, value in values.items():
        number = _number(value, key)
        try:
            # PEFT's own rule, peft.utils.get_pattern_key.
            patterns.append((NamePattern(rf"(.*\.)?({pattern})", limit), number))
        except ValueError as error:
            raise ValueError(_damaged(key, f"{reprlib.repr(pattern)} is not a regular expression")) from error
    return tuple(patterns)


def _settings(value: object, key: str) -> Mapping[str, Any]:
    try:
        settings = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise ValueError(_damaged(key, "it is not JSON")) from error
    if not isinstance(settings, Mapping):
        raise ValueError(_damaged(key, "it holds no table of settings"))
    return settings


def _number(value: object, key: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(_damaged(key, f"{reprlib.repr(value)} is not a number")) from error
    if not math.isfinite(number):
        raise ValueError(_damaged(key, f"it holds {number}"))
    return number


def _damaged(key: str, reason: str) -> str:
    return f"The LoRA's {key} is damaged: {reason}. Without it the strength is unknown; save the LoRA again."
