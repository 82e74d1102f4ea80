from __future__ import annotations

import pytest
import torch

from sma.sprites.data import COLOURS, SHAPES
from sma.sprites.ground import GROUNDS
from sma.sprites.prompt import PromptEmbedding, ignored_words, known_words, tokenize


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("red circle", (0, 0, 7, 4, 3)),
        ("circle, RED", (0, 0, 7, 4, 3)),
        ("a small Magenta triangle.", (5, 2, 7, 4, 3)),
        ("green", (1, 3, 7, 4, 3)),
        ("square", (6, 1, 7, 4, 3)),
        ("a blue ball on striped paper", (2, 0, 7, 4, 1)),
        ("red circle and blue square on clouds", (0, 0, 2, 1, 2)),
        ("red and blue square", (0, 1, 2, 3, 3)),
        ("red square, green, yellow", (0, 1, 1, 3, 3)),
        ("stripes", (6, 3, 7, 4, 1)),
        ("a dog riding a bike", (6, 3, 6, 3, 3)),
        ("", (6, 3, 6, 3, 3)),
        ("infrared", (6, 3, 6, 3, 3)),
    ],
)
def test_words_become_five_tokens(prompt: str, tokens: tuple[int, ...]) -> None:
    assert tokenize(prompt) == tokens


def test_every_known_word_fills_a_slot() -> None:
    assert set(known_words()) >= {*COLOURS, *SHAPES, *GROUNDS}
    for word in known_words():
        assert tokenize(word) != tokenize("")


@pytest.mark.parametrize(
    ("prompt", "ignored"),
    [
        ("red circle on a plain background", ()),
        ("A pink disc and the blue box over striped ground.", ()),
        ("", ()),
        ("red wombat, riding a red bike", ("wombat", "riding", "bike")),
        ("red green blue circle", ("blue",)),
        ("ein roter kreis, grün", ("ein", "roter", "kreis", "grün")),
        ("red circles", ("circles",)),
    ],
)
def test_words_that_mean_nothing_are_named_once(prompt: str, ignored: tuple[str, ...]) -> None:
    assert ignored_words(prompt) == ignored


def test_context_holds_a_row_per_slot() -> None:
    embedding = PromptEmbedding(8)
    context = embedding.encode(["blue square on clouds", "", "nonsense"])
    assert context.shape == (3, 5, 8)
    slots = (embedding.colour, embedding.shape, embedding.other_colour, embedding.other_shape, embedding.ground)
    for row, tokens in zip(context, ((2, 1, 7, 4, 2), (6, 3, 6, 3, 3)), strict=False):
        assert torch.equal(row, torch.stack([slot.weight[token] for slot, token in zip(slots, tokens, strict=True)]))
    assert torch.equal(context[1], context[2])
