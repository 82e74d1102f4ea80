"""Words to the two tokens the sprites model reads: one for the colour, one for the shape."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .data import COLOURS, SHAPES

_SYNONYMS: dict[str, str] = {
    "ball": "circle",
    "disc": "circle",
    "disk": "circle",
    "box": "square",
    "pink": "magenta",
    "purple": "magenta",
    "turquoise": "cyan",
}


def known_words() -> tuple[str, ...]:
    """Every word that changes the picture: colours, shapes, and their synonyms."""
    return (*COLOURS, *SHAPES, *_SYNONYMS)


def tokenize(prompt: str) -> tuple[int, int]:
    """(colour, shape) as indices into COLOURS and SHAPES; the first known word of a slot wins.

    A slot without a known word gets its null token, the index after the last: len(COLOURS) or len(SHAPES).
    """
    colours, shapes = list(COLOURS), list(SHAPES)
    words = [_SYNONYMS.get(word, word) for word in re.findall(r"[a-z]+", prompt.lower())]
    colour = next((colours.index(word) for word in words if word in COLOURS), len(colours))
    shape = next((shapes.index(word) for word in words if word in SHAPES), len(shapes))
    return colour, shape


class PromptEmbedding(nn.Module):
    """Token pairs [B,2] to cross-attention context [B,2,dim]; state-dict keys `colour.weight` and `shape.weight`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.colour = nn.Embedding(len(COLOURS) + 1, dim)
        self.shape = nn.Embedding(len(SHAPES) + 1, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.stack([self.colour(tokens[:, 0]), self.shape(tokens[:, 1])], 1)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to context [B,2,dim]. The empty prompt is the null context that guidance steers away from."""
        tokens = torch.tensor([tokenize(prompt) for prompt in prompts], device=self.colour.weight.device)
        return self(tokens)
