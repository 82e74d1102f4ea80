from __future__ import annotations

import pytest
import torch

from sma.sprites.data import COLOURS, SHAPES
from sma.sprites.prompt import PromptEmbedding, known_words, tokenize


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("red circle", (0, 0)),
        ("circle, RED", (0, 0)),
        ("a small Magenta triangle.", (5, 2)),
        ("green", (1, 3)),
        ("square", (6, 1)),
        ("a blue ball", (2, 0)),
        ("a dog riding a bike", (6, 3)),
        ("", (6, 3)),
        ("red then blue square", (0, 1)),
        ("infrared", (6, 3)),
    ],
)
def test_words_become_two_tokens(prompt: str, tokens: tuple[int, int]) -> None:
    assert tokenize(prompt) == tokens


def test_every_known_word_fills_a_slot() -> None:
    assert set(known_words()) >= {*COLOURS, *SHAPES}
    for word in known_words():
        assert tokenize(word) != tokenize("")


def test_context_holds_colour_then_shape() -> None:
    embedding = PromptEmbedding(8)
    context = embedding.encode(["blue square", "", "nonsense"])
    assert context.shape == (3, 2, 8)
    assert torch.equal(context[0], torch.stack([embedding.colour.weight[2], embedding.shape.weight[1]]))
    assert torch.equal(context[1], torch.stack([embedding.colour.weight[6], embedding.shape.weight[3]]))
    assert torch.equal(context[1], context[2])
