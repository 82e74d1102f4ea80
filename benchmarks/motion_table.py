"""The motion benchmark's table, from the lines of its results file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START, END = "<!-- results: written by motion.py -->", "<!-- end of results -->"
_ORDER = ("oracle", "base", "plain", "vmc")
_NAMES = {
    "oracle": "oracle (drawn on the path)",
    "base": "base (no LoRA)",
    "plain": "plain denoising",
    "vmc": "VMC cosine",
}
_COLUMNS = (
    "method",
    "spectral loss (global, local weight)",
    "cells",
    "cosine",
    "Δ to off",
    "better / worse",
    "per cell",
    "error %",
    "visible",
    "colour",
    "shape",
    "shape leak",
    "flicker",
    "final MSE",
    "gradient ratio",
)

Line = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """The cells of one row of the table: one method in one spectral form."""

    method: str
    weights: tuple[float, float] | None
    null: bool

    @classmethod
    def of(cls, line: Line) -> Group:
        spectral = line["spectral"]
        weights = (spectral["global_weight"], spectral["local_weight"]) if spectral else None
        return cls(line["method"], weights, line["seed"] != line["init_seed"])

    @property
    def rank(self) -> tuple[int, bool, tuple[float, float]]:
        """Sorts rows: by method, off first, then the null row, then the spectral forms from strong to weak."""
        weights = self.weights or (float("inf"), 0.0)
        return _ORDER.index(self.method), self.weights is not None, self.null, (-weights[0], -weights[1])

    @property
    def form(self) -> str:
        if self.method in ("oracle", "base"):
            return ""
        if self.weights:
            return f"REPAIRED ({self.weights[0]:g}, {self.weights[1]:g})"
        return "off, other initial LoRA (null)" if self.null else "off"


def paired_differences(lines: Sequence[Line], group: Group) -> list[float]:
    """Cosine of each cell of the group minus that of the same motion and seed under the same method without spectral loss."""
    off = {(line["motion"], line["seed"]): line["cosine"] for line in lines if Group.of(line) == _off(group)}
    own = [line for line in lines if Group.of(line) == group]
    places = [((line["motion"], line["seed"]), line["cosine"]) for line in own]
    return [cosine - off[place] for place, cosine in places if place in off]


def table(lines: Sequence[Line]) -> str:
    """Markdown, one row per method and spectral form: means over cells, ± is the sample sd between cells."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS)]
    for group in sorted({Group.of(line) for line in lines}, key=lambda group: group.rank):
        own = sorted((line for line in lines if Group.of(line) == group), key=lambda line: line["motion"])
        differences = [] if group == _off(group) else paired_differences(lines, group)
        better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        rows.append(
            (
                _NAMES[group.method],
                group.form,
                str(len(own)),
                _spread([line["cosine"] for line in own]),
                _spread(differences, "+.2f") if differences else "",
                f"{better} / {worse}" if differences else "",
                _per_motion(own),
                f"{_mean(own, 'error'):.1f}",
                *(f"{_mean(own, key):.2f}" for key in ("visible", "colour_right", "shape_right", "shape_leak")),
                f"{_mean(own, 'flicker'):.3f}",
                f"{statistics.mean(line['losses']['denoising'] for line in own):.4f}" if own[0]["losses"] else "",
                _ratios(own),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def conditions(lines: Sequence[Line]) -> str:
    """One paragraph on where the lines come from and what they cost."""
    # CPU time: wall time says as much about what else the machine did.
    total = sum(line["cpu_seconds"] for line in lines) / 60
    processes = max(line["processes"] for line in lines)
    cost = f"{len(lines)} cells took {total:.1f} minutes of CPU time, {total / processes:.1f} minutes on {processes} idle cores"
    trained = [line["cpu_seconds"] for line in lines if line["losses"]]
    if trained:
        cost += f"; a trained cell {statistics.mean(trained):.0f} s"
    versions = [", ".join(sorted({line[key] for line in lines})) for key in ("pack", "sources", "torch", "machine")]
    return (
        f"{cost}. Pack {versions[0]} (sources {versions[1]}), torch {versions[2]}, {versions[3]}, "
        f"weights {lines[0]['weights_sha256'][:12]}."
    )


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


def _off(group: Group) -> Group:
    return Group(group.method, None, False)


def _mean(lines: Sequence[Line], key: str) -> float:
    return statistics.mean(line[key] for line in lines)


def _spread(values: Sequence[float], style: str = ".2f") -> str:
    mean = f"{statistics.mean(values):{style}}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _per_motion(lines: Sequence[Line]) -> str:
    """Every cell's cosine, seeds in ascending order: "back .97/.96, circle .94/.90"."""
    parts = []
    for motion in sorted({line["motion"] for line in lines}):
        cells = sorted((line for line in lines if line["motion"] == motion), key=lambda line: line["seed"] or 0)
        parts.append(f"{motion} " + "/".join(f"{line['cosine']:.2f}" for line in cells))
    return ", ".join(parts)


def _ratios(lines: Sequence[Line]) -> str:
    """Spectral gradient over the method's own, before and after training, means over cells."""
    ratios = [line["gradient_ratio"] for line in lines if line["gradient_ratio"]]
    if not ratios:
        return ""
    before, after = (statistics.mean(column) for column in zip(*ratios, strict=True))
    return f"{before:.1f} → {after:.1f}"
