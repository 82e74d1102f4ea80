"""Intervals over cells, pairs of cells, and which snapshot of a run fits as well as another run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.motion_methods import FORMS, METHODS

Line = dict[str, Any]
Place = tuple[str, int]


def student_quantile(freedom: int, level: float = 0.95) -> float:
    """t with P(|T| < t) = level for Student's distribution with this many degrees of freedom."""
    low, high = 0.0, 1.0
    while _central(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _central(middle, freedom) < level else (low, middle)
    return high


def _central(t: float, freedom: int) -> float:
    """P(|T| < t), Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@dataclass(frozen=True)
class Interval:
    """Mean and 95 % interval of the mean, `half` to either side; None where one value gives none."""

    mean: float
    half: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Student's interval, which takes the values as independent draws."""
        count = len(values)
        half = None
        if count > 1:
            half = student_quantile(count - 1) * statistics.stdev(values) / math.sqrt(count)
        return cls(statistics.mean(values), half, count)

    def text(self, style: str = ".2f") -> str:
        """ "0.82 [0.75, 0.89]"."""
        if self.half is None:
            return f"{self.mean:{style}}"
        return f"{self.mean:{style}} [{self.mean - self.half:{style}}, {self.mean + self.half:{style}}]"


@dataclass(frozen=True)
class Group:
    """The cells of one row: a method in a form, at one learning rate and number of steps."""

    method: str
    form: str
    learning_rate: float | None
    steps: int | None

    @classmethod
    def of(cls, line: Line) -> Group:
        return cls(line["method"], line["form"], line["learning_rate"], line["steps"])

    @property
    def rank(self) -> tuple[int, int, float, int]:
        """Sorts rows as the tables of methods and forms do."""
        order = list(METHODS).index(self.method), list(FORMS).index(self.form)
        return *order, self.learning_rate or 0.0, self.steps or 0

    @property
    def off(self) -> Group:
        return Group(self.method, "off", self.learning_rate, self.steps)


def place(line: Line) -> Place:
    return line["motion"], line["seed"]


def cells_of(lines: Sequence[Line], group: Group) -> list[Line]:
    return sorted((line for line in lines if Group.of(line) == group), key=place)


def pairs(lines: Sequence[Line], group: Group, other: Group) -> list[tuple[Line, Line]]:
    """Cells of a group, each with the other group's cell of the same motion and seed."""
    others = {place(line): line for line in cells_of(lines, other)}
    return [(line, others[place(line)]) for line in cells_of(lines, group) if place(line) in others]


@dataclass(frozen=True)
class EqualFit:
    """A cell against the snapshot of its off run that fits most alike: difference of the cosines, both steps, and how many
    times the snapshot's denoising error the cell's is."""

    difference: float
    steps: int
    ratio: float


def at_equal_fit(line: Line, off: Line) -> EqualFit | None:
    """None where the off run has no snapshot but its end, or does not minimise the denoising error that fit is."""
    if len(off["snapshots"]) < 2 or "denoising" not in {term.name for term in METHODS[line["method"]].terms}:
        return None
    nearest = min(off["snapshots"], key=lambda snapshot: abs(math.log(line["fit"] / snapshot["fit"])))
    return EqualFit(line["cosine"] - nearest["cosine"], nearest["steps"], line["fit"] / nearest["fit"])
