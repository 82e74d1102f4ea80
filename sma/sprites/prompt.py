"""Words to the five tokens the sprites model reads: colour and shape of one sprite and of another, and the ground."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .data import COLOURS, SHAPES
from .ground import GROUNDS

_SYNONYMS: dict[str, str] = {
    "ball": "circle",
    "disc": "circle",
    "disk": "circle",
    "box": "square",
    "pink": "magenta",
    "purple": "magenta",
    "turquoise": "cyan",
    "flat": "plain",
    "striped": "stripes",
    "cloudy": "clouds",
}
# Words that only join the others.
_JOINING = frozenset("a an and at background before ground in is of on over the there with".split())
# Words of each token. The index after the last word is the null token, where a word is missing or dropped; the second
# sprite's tokens have one more, that there is none.
SLOTS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "other_colour": tuple(COLOURS),
    "other_shape": SHAPES,
    "ground": GROUNDS,
}


def null_token(slot: str) -> int:
    """The token of a word that is missing."""
    return len(SLOTS[slot])


def none_token(slot: str) -> int:
    """The token in the second sprite's slots where there is no second sprite."""
    return len(SLOTS[slot]) + 1


def known_words() -> tuple[str, ...]:
    """Every word that changes the picture: colours, shapes, grounds, and their synonyms."""
    return (*COLOURS, *SHAPES, *GROUNDS, *_SYNONYMS)


def tokenize(prompt: str) -> tuple[int, ...]:
    """One token per slot of SLOTS: "red circle and blue square on stripes" names all five.

    The first colour and shape are one sprite's, the second ones another's; a prompt that names no second one asks for a
    single sprite. A prompt without any known word is the empty prompt: five null tokens.
    """
    found = _read(prompt)[0]
    if found and not {"other_colour", "other_shape"} & found.keys():
        found |= {slot: none_token(slot) for slot in ("other_colour", "other_shape")}
    return tuple(found.get(slot, null_token(slot)) for slot in SLOTS)


def ignored_words(prompt: str) -> tuple[str, ...]:
    """Words of a prompt that mean nothing to the model, each once: unknown ones, and known ones too many ("red green blue circle")."""
    return _read(prompt)[1]


def _read(prompt: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """Token of each slot that a word fills, and the words that fill none."""
    found: dict[str, int] = {}
    ignored = []
    for written in re.findall(r"[^\W\d_]+", prompt.lower()):
        word = _SYNONYMS.get(written, written)
        slot = next((slot for slot, known in SLOTS.items() if word in known and slot not in found), None)
        if slot is not None:
            found[slot] = SLOTS[slot].index(word)
        elif written not in _JOINING:
            ignored.append(written)
    return found, tuple(dict.fromkeys(ignored))


class PromptEmbedding(nn.Module):
    """Tokens [B,5] to cross-attention context [B,5,dim]; state-dict keys `<slot>.weight`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        for slot in SLOTS:
            self.add_module(slot, nn.Embedding(none_token(slot) + 1, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.stack([self.get_submodule(slot)(tokens[:, k]) for k, slot in enumerate(SLOTS)], 1)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to context [B,5,dim]. The empty prompt is the null context that guidance steers away from."""
        tokens = torch.tensor([tokenize(prompt) for prompt in prompts], device=self.colour.weight.device)
        return self(tokens)
