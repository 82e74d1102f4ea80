"""The motion benchmark's tables, from the lines of its results file."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.motion_methods import FORMS, METHODS, UNTRAINED
from benchmarks.motion_stats import Group, Interval, Line, at_equal_fit, cells_of, pairs

START, END = "<!-- results: written by motion.py -->", "<!-- end of results -->"
TUNING_START, TUNING_END = "<!-- tuning: written by motion.py -->", "<!-- end of tuning -->"
_BASE = Group("base", "off", None, None)
_MAIN = (
    "method",
    "spectral loss",
    "rate",
    "cells",
    "cosine",
    "Δ to off",
    "better / worse",
    "Δ at equal fit",
    "off at step, fit apart",
    "error %",
    "visible",
    "colour",
    "shape",
)
_LOOKS = (
    "method",
    "spectral loss",
    "rate",
    "cells",
    "colour leak",
    "shape leak",
    "ground leak",
    "shade pull",
    "unevenness",
    "flicker",
    "diversity",
    "fit",
    "gradient ratio",
    "training s",
)


def main_table(lines: Sequence[Line]) -> str:
    """Markdown, one row per group: how well the motion is repeated. Intervals are of 95 % over cells."""
    rows = []
    for group in _groups(lines):
        own = cells_of(lines, group)
        rows.append(
            (
                *_head(group, own),
                _cosine(group, own),
                *_differences(lines, group),
                f"{_mean(own, 'error'):.1f}",
                *(f"{_mean(own, key):.2f}" for key in ("visible", "colour_right", "shape_right")),
            )
        )
    return _markdown(_MAIN, rows)


def looks_table(lines: Sequence[Line]) -> str:
    """Markdown, one row per group: what else came over from the reference, and what training cost."""
    rows = []
    for group in _groups(lines):
        own = cells_of(lines, group)
        beside = pairs(lines, group, _BASE)
        shade, variety = _of_base(beside, "shade_distance"), _of_base(beside, "diversity")
        rows.append(
            (
                *_head(group, own),
                *(_text(_mean(own, key)) for key in ("colour_leak", "shape_leak", "ground_leak")),
                _text(None if shade is None else 1 - shade),
                *(_text(_mean(own, key), ".3f") for key in ("unevenness", "flicker")),
                _text(variety),
                _text(_mean(own, "fit"), ".4f"),
                _ratios(own),
                _text(_mean(own, "training_seconds"), ".0f"),
            )
        )
    return _markdown(_LOOKS, rows)


def motions_table(lines: Sequence[Line]) -> str:
    """Markdown, groups by motions: mean cosine, in brackets the mean difference to off."""
    motions = sorted({line["motion"] for line in lines})
    rows = []
    for group in _groups(lines):
        row = list(_head(group, cells_of(lines, group))[:3])
        for motion in motions:
            here = [line for line in lines if line["motion"] == motion]
            own = cells_of(here, group)
            beside = [] if group == group.off else _cosine_differences(here, group)
            difference = f" ({statistics.mean(beside):+.2f})" if beside else ""
            row.append(f"{_mean(own, 'cosine'):.2f}{difference}" if own else "")
        rows.append(row)
    return _markdown(("method", "spectral loss", "rate", *motions), rows)


def conditions(lines: Sequence[Line]) -> str:
    """One paragraph on where the lines come from and what they cost."""
    # CPU time: wall time says as much about what else the machine did.
    total = sum(line["cpu_seconds"] for line in lines) / 60
    processes = max(line["processes"] for line in lines)
    cost = f"{len(lines)} cells took {total:.0f} minutes of CPU time, {total / processes:.0f} minutes on {processes} idle cores"
    versions = [", ".join(sorted({line[key] for line in lines})) for key in ("pack", "sources", "torch", "machine")]
    return (
        f"{cost}. Pack {versions[0]} (sources {versions[1]}), torch {versions[2]}, {versions[3]}, "
        f"weights {lines[0]['weights_sha256'][:12]}."
    )


def report(lines: Sequence[Line]) -> str:
    """All tables of lines that belong together."""
    return "\n\n".join(make(lines) for make in (main_table, looks_table, motions_table, conditions))


def write_into(readme: Path, text: str, start_marker: str = START, end_marker: str = END) -> None:
    """Replace what stands between two markers of a README.

    Raises:
        ValueError: a marker is missing.
    """
    content = readme.read_text(encoding="utf-8")
    head, start, rest = content.partition(start_marker)
    _, end, tail = rest.partition(end_marker)
    if not start or not end:
        raise ValueError(f"{readme.name} lacks {start_marker} or {end_marker}; put both where the table should stand.")
    readme.write_text(f"{head}{start_marker}\n{text}\n{end_marker}{tail}", encoding="utf-8")


def _groups(lines: Sequence[Line]) -> list[Group]:
    return sorted({Group.of(line) for line in lines}, key=lambda group: group.rank)


def _head(group: Group, own: Sequence[Line]) -> tuple[str, ...]:
    rate = "" if group.learning_rate is None else f"{group.learning_rate:g}"
    return METHODS[group.method].title, _form(group), rate, str(len(own))


def _cosine(group: Group, own: Sequence[Line]) -> str:
    """The oracle is drawn, so that its cells of one motion repeat each other: no interval."""
    found = Interval.of([line["cosine"] for line in own])
    return f"{found.mean:.2f}" if group.method == "oracle" else found.text()


def _form(group: Group) -> str:
    return "" if group.method in UNTRAINED else FORMS[group.form].title


def _cosine_differences(lines: Sequence[Line], group: Group) -> list[float]:
    return [line["cosine"] - off["cosine"] for line, off in pairs(lines, group, group.off)]


def _differences(lines: Sequence[Line], group: Group) -> tuple[str, str, str, str]:
    """Against the off runs of the same motions and seeds: at equal steps, and at equal fit with how equal it is."""
    beside = [] if group == group.off else pairs(lines, group, group.off)
    if not beside:
        return "", "", "", ""
    differences = _cosine_differences(lines, group)
    steps = Interval.of(differences).text("+.2f")
    tally = f"{sum(d > 0 for d in differences)} / {sum(d < 0 for d in differences)}"
    equal = [found for line, off in beside if (found := at_equal_fit(line, off)) is not None]
    if not equal:
        return steps, tally, "", ""
    at_step = statistics.mean(found.steps for found in equal)
    apart = 100 * (math.exp(statistics.mean(abs(math.log(found.ratio)) for found in equal)) - 1)
    fit = Interval.of([found.difference for found in equal]).text("+.2f")
    return steps, tally, fit, f"{at_step:.0f}, {apart:.0f} %"


def _of_base(beside: Sequence[tuple[Line, Line]], key: str) -> float | None:
    """Mean over cells as a share of that of the base model under the same noises."""
    known = [(line[key], base[key]) for line, base in beside if line[key] is not None and base[key] is not None]
    return sum(own for own, _ in known) / sum(base for _, base in known) if known else None


def _mean(lines: Sequence[Line], key: str) -> float | None:
    """Over the cells that have it: a plain reference has no texture to leak, and an oracle no training."""
    values = [line[key] for line in lines if line.get(key) is not None]
    return statistics.mean(values) if values else None


def _text(value: float | None, style: str = ".2f") -> str:
    return "" if value is None else f"{value:{style}}"


def _ratios(lines: Sequence[Line]) -> str:
    """Spectral gradient over the method's own, before and after training, means over cells."""
    ratios = [line["gradient_ratio"] for line in lines if line.get("gradient_ratio")]
    if not ratios:
        return ""
    before, after = (statistics.mean(column) for column in zip(*ratios, strict=True))
    return f"{before:.2g} → {after:.2g}"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows))
