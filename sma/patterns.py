"""Regular expressions over layer names, matched in a time that the pattern cannot blow up.

Python's own matcher tries one way after another, and a pattern such as ``(a+)+!`` gives it more ways than there is time. Here all
places of a name that a part of the pattern may have led to are followed at once, as bits of one whole number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

try:
    from re import _constants as codes
    from re import _parser as parser
except ImportError:  # Python 3.10
    import sre_constants as codes
    import sre_parse as parser

MOST_CHARACTERS = 2000
MOST_NESTED = 50
# Parts of a pattern followed, over all names: a few seconds. Ordinary patterns take some dozens for a name.
_MOST_STEPS = 1_000_000

_CATEGORIES = {
    codes.CATEGORY_DIGIT: r"\d",
    codes.CATEGORY_NOT_DIGIT: r"\D",
    codes.CATEGORY_SPACE: r"\s",
    codes.CATEGORY_NOT_SPACE: r"\S",
    codes.CATEGORY_WORD: r"\w",
    codes.CATEGORY_NOT_WORD: r"\W",
}
_ONE_CHARACTER = {codes.LITERAL, codes.NOT_LITERAL, codes.ANY, codes.IN}
_TAKEN = {
    *(*_ONE_CHARACTER, codes.BRANCH, codes.SUBPATTERN),
    *(codes.MAX_REPEAT, codes.MIN_REPEAT, codes.AT, codes.ASSERT, codes.ASSERT_NOT),
}


class NamePattern:
    """A regular expression that a whole name has to match, as ``re.fullmatch`` has it.

    Raises:
        ValueError: it is no regular expression, too long, nested too deeply, or has parts that cannot be matched so: references back
            to groups, atomic groups and possessive repeats.
    """

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MOST_CHARACTERS:
            raise ValueError(
                f"The pattern has {len(pattern)} characters; {MOST_CHARACTERS} at most are taken. Shorten it."
            )
        if _depth(pattern) > MOST_NESTED:
            raise ValueError(
                f"The pattern nests groups deeper than {MOST_NESTED}, the most that is taken. Simplify it."
            )
        try:
            self._tree = parser.parse(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            reason = getattr(error, "msg", "a count in it is too large")
            raise ValueError(f"{pattern[:100]!r} is no regular expression: {reason}. Correct it.") from error
        _check(self._tree)
        self._folds = bool(self._tree.state.flags & re.IGNORECASE)
        self._steps = 0
        self._taken: dict[Any, bool] = {}

    def matches(self, name: str) -> bool:
        """Whether the whole of a name matches.

        Raises:
            ValueError: over all names asked for so far, that took too long.
        """
        places = _Places(self, name)
        return bool(places.after(self._tree, 1, self._folds) >> len(name) & 1)

    def count(self, steps: int) -> None:
        """Refuses to go on where it takes too long."""
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise ValueError("The pattern takes too long to compare with all names. Simplify it.")

    def takes(self, code: Any, detail: Any, folds: bool, char: str) -> bool:
        """Whether a part that stands for one character stands for this one."""
        key = (code, detail if isinstance(detail, int) else id(detail), folds, char)
        if key not in self._taken:
            forms = {char, char.lower(), char.upper()} if folds else {char}
            self._taken[key] = _takes(code, detail, forms)
        return self._taken[key]


class _Places:
    """Places in one name, bit i for the place before character i, and where parts of a pattern lead from them."""

    def __init__(self, pattern: NamePattern, name: str) -> None:
        self.pattern = pattern
        self.name = name
        self.all = (1 << len(name) + 1) - 1
        self.kinds: dict[Any, int] = {}
        self.of_char: dict[str, int] = {}
        for place, char in enumerate(name):
            self.of_char[char] = self.of_char.get(char, 0) | 1 << place

    def after(self, parts: Iterable[tuple[Any, Any]], places: int, folds: bool) -> int:
        """Places that a sequence leads to from some places."""
        for code, detail in parts:
            if not places:
                break
            self.pattern.count(1)
            places = self._step(code, detail, places, folds)
        return places

    def _step(self, code: Any, detail: Any, places: int, folds: bool) -> int:
        if code is codes.BRANCH:
            reached = 0
            for branch in detail[1]:
                reached |= self.after(branch, places, folds)
            return reached
        if code is codes.SUBPATTERN:
            _, added, removed, inner = detail
            folds = (folds or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE
            return self.after(inner, places, folds)
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            return self._repeated(*detail, places, folds)
        if code is codes.AT:
            return places & self._at(detail)
        if code in (codes.ASSERT, codes.ASSERT_NOT):
            return sum(
                place for place in _single(places) if self._holds(detail, place, folds) is (code is codes.ASSERT)
            )
        # One character.
        return (places & self._where(code, detail, folds)) << 1

    def _repeated(self, least: int, most: Any, inner: Any, places: int, folds: bool) -> int:
        for _ in range(least):
            before, places = places, self.after(inner, places, folds)
            if places in (0, before):
                break
        if len(inner) == 1 and inner[0][0] in _ONE_CHARACTER and int(most) - least >= len(self.name):
            return self._run(self._where(*inner[0], folds), places)
        reached = fresh = places
        # A name has an end: after as many rounds as it has places nothing new is reached.
        for _ in range(min(int(most) - least, len(self.name) + 1)):
            fresh = self.after(inner, fresh, folds) & ~reached
            if not fresh:
                break
            reached |= fresh
        return reached

    def _holds(self, detail: Any, place: int, folds: bool) -> bool:
        direction, inner = detail
        if direction > 0:
            return bool(self.after(inner, place, folds))
        width = inner.getwidth()[0]  # what looks behind has one width
        return bool(self.after(inner, place >> width, folds) & place)

    def _where(self, code: Any, detail: Any, folds: bool) -> int:
        """Places before a character that one part takes."""
        key = (code, detail if isinstance(detail, int) else id(detail), folds)
        if key not in self.kinds:
            self.pattern.count(1 + len(self.of_char) // 4)
            taken = (places for char, places in self.of_char.items() if self.pattern.takes(code, detail, folds, char))
            self.kinds[key] = sum(taken)
        return self.kinds[key]

    def _run(self, where: int, places: int) -> int:
        """Places that any number of characters from some places lead to; it doubles the length of the runs it knows."""
        length = 1
        while length <= len(self.name):
            places |= (places & where) << length
            where &= where >> length
            length *= 2
        return places

    def _at(self, detail: Any) -> int:
        if detail in (codes.AT_BEGINNING, codes.AT_BEGINNING_STRING):
            return 1
        if detail in (codes.AT_END, codes.AT_END_STRING):
            return 1 << len(self.name)
        words = [False, *(bool(re.match(r"\w", char)) for char in self.name), False]
        borders = sum(1 << i for i in range(len(self.name) + 1) if words[i] != words[i + 1])
        return borders if detail is codes.AT_BOUNDARY else self.all & ~borders


def _single(places: int) -> Iterable[int]:
    while places:
        lowest = places & -places
        yield lowest
        places ^= lowest


def _takes(code: Any, detail: Any, forms: set[str]) -> bool:
    if code is codes.LITERAL:
        return chr(detail) in forms
    if code is codes.NOT_LITERAL:
        return chr(detail) not in forms
    if code is codes.ANY:
        return "\n" not in forms
    negated = detail[0][0] is codes.NEGATE
    return any(_in_set(kind, value, char) for kind, value in detail[negated:] for char in forms) is not negated


def _in_set(kind: Any, value: Any, char: str) -> bool:
    if kind is codes.LITERAL:
        return ord(char) == value
    if kind is codes.RANGE:
        return value[0] <= ord(char) <= value[1]
    return bool(re.match(_CATEGORIES[value], char))


def _depth(pattern: str) -> int:
    """How deep brackets nest at most, those that are escaped or in sets counted as well."""
    deepest = depth = 0
    for char in pattern:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    return deepest


def _check(parts: Iterable[tuple[Any, Any]]) -> None:
    for code, detail in parts:
        if code not in _TAKEN:
            raise ValueError(
                "The pattern refers back to a group, or has an atomic group or a possessive repeat; none of these is taken. "
                "Write it without."
            )
        for inner in _inner(code, detail):
            _check(inner)


def _inner(code: Any, detail: Any) -> list[Any]:
    if code is codes.BRANCH:
        return detail[1]
    if code in (codes.SUBPATTERN, codes.MAX_REPEAT, codes.MIN_REPEAT, codes.ASSERT, codes.ASSERT_NOT):
        return [detail[-1]]
    return []
