"""Patterns over layer names: the same answers as Python's own matcher, and an end to those that would take for ever."""

from __future__ import annotations

import random
import re

import pytest
from torch import nn

from sma import patterns
from sma.patterns import MOST_CHARACTERS, NamePattern
from sma.roles import FAMILIES, matching

NAMES = [
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.temp_attentions.1.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.10.temp_convs.0.conv1.2",
    "transformer_in.transformer_blocks.0.ff.net.0.proj",
    "blocks.17.self_attn.q",
    "blocks.3.cross_attn.k_img",
    "double_blocks.4.img_attn.qkv",
    "up_blocks.1.motion_modules.0.proj_in",
    "",
    "a",
    "aa b",
]


def _same(pattern: str, names=NAMES) -> None:
    found = NamePattern(pattern)
    for name in names:
        assert found.matches(name) == bool(re.fullmatch(pattern, name)), (pattern, name)


@pytest.mark.parametrize(
    "pattern",
    [
        *(pattern for family in FAMILIES for pattern in (*family.roles.values(), family.signature, family.over_time)),
        r".*attn.*",
        r"(?!.*cross).*attn.*",
        r"(?i).*ATTN[12]\.TO_[QKV]",
        r"(?i)[^A-Z]+.*",
        r"(?i:BLOCKS).*",
        r".*(?<=attn1)\.to_q",
        r".*(?<!attn1)\.to_[^q].*",
        r"^.*\bq$",
        r".*\Bq.*\Z",
        r"blocks\.(?:[0-9]|1[0-7])\..*",
        r"blocks\.\d{1,2}\..*?",
        r"(?:down|up)_blocks\.\d+\.(?P<kind>temp_\w+)\..*[^\d]",
        r"(?x) .* attn  # any attention",
        r"(\w|\.)*",
        r"(a*)*(b?)+",
        r"[\w.]{20,30}",
        r".{0,4000000000}",
        r"\S+\s\D",
        r"",
        r"a||aa b",
    ],
)
def test_it_answers_as_pythons_matcher(pattern):
    _same(pattern)


def test_it_answers_as_pythons_matcher_on_random_patterns():
    drawn = random.Random(0)
    atoms = ["a", "b", ".", "[ab]", "[^a]", r"\w", r"\d", "^", "$", r"\b", "(?=a)", "(?!b)", "(?<=a)", "(?<!b)"]

    def pattern(depth):
        if depth == 0 or drawn.random() < 0.3:
            return drawn.choice(atoms)
        left, right = pattern(depth - 1), pattern(depth - 1)
        repeat = drawn.choice(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,3}?"])
        return drawn.choice([left + right, f"(?:{left}|{right})", f"(?:{left}){repeat}", f"({left}{right})"])

    names = ["".join(drawn.choices("ab1.", k=length)) for length in range(6) for _ in range(4)]
    tried = 0
    for _ in range(400):
        text = pattern(4)
        _same(text, names)
        tried += any(re.fullmatch(text, name) for name in names)
    assert tried > 100


@pytest.mark.parametrize(
    "pattern", ["([a-z0-9_.]+)+!", "(.*)*x", ".*.*.*.*.*.*.*.*.*!", "(((((((.*)*)*)*)*)*)*)*!", "(a|a|.)*(.|..)*!"]
)
def test_patterns_that_hold_pythons_matcher_for_ages_come_to_an_end(pattern, monkeypatch):
    monkeypatch.setattr(patterns, "MOST_SECONDS", 0.2)
    names = [f"blocks.{i}.self_attn.a_long_name_of_a_layer.that_goes_on.q" for i in range(30)]
    found = NamePattern(pattern)
    try:
        assert not any(found.matches(name) for name in names)
    except ValueError as error:
        assert str(error) == f"The pattern {pattern!r} takes too long to compare with all names. Simplify it."


def test_time_is_counted_over_all_names(monkeypatch):
    monkeypatch.setattr(patterns, "MOST_SECONDS", 0.05)
    found = NamePattern("(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)[!?]")
    with pytest.raises(ValueError, match="takes too long to compare with all names"):
        for i in range(1_000_000):
            found.matches(f"blocks.{i}.self_attn.a_long_name_of_a_layer.that_goes_on.q")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a{99999999999}", "'a{99999999999}' is not a regular expression that can be read. Correct it."),
        ("(attn", "'(attn' is not a regular expression that can be read. Correct it."),
        ("(" * 2000 + ")" * 2000, f"has 4000 characters; {MOST_CHARACTERS} at most are taken"),
        ("(" * 900 + ")" * 900, "is not a regular expression that can be read. Correct it."),
        ("a" * 10_000, f"has 10000 characters; {MOST_CHARACTERS} at most are taken"),
    ],
)
def test_patterns_that_are_not_taken_are_refused_in_a_sentence(pattern, said):
    network = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError) as caught:
        matching(network, pattern)
    assert said in str(caught.value) and len(str(caught.value)) < 300 and "\n" not in str(caught.value)
