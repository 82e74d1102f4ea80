"""The step benchmark's tables, from the lines of its results file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

START, END = "<!-- step results: written by step.py -->", "<!-- end of step results -->"
_COLUMNS = (
    "loop",
    "weights",
    "SMA",
    "run again in backward",
    "trained values",
    "s per step, median (min..max)",
    "of official",
    "peak GB",
    "of official",
    "SMA alone, share of a step",
)
_SIZES = {"real": "real size", "reduced": "REDUCED SIZE", "toy": "TOY SIZE"}
_WHERE = ("backbone", "size", "device", "threads", "torch", "sizes")

Line = dict[str, Any]


def tables(lines: Sequence[Line]) -> str:
    """Markdown: a heading, a table and a note for every backbone, size and device, in the order of the file."""
    groups: list[list[Line]] = []
    for line in lines:
        for group in groups:
            if all(group[0][key] == line[key] for key in _WHERE):
                group.append(line)
                break
        else:
            groups.append([line])
    return "\n\n".join(_table(group) for group in groups)


def _table(lines: Sequence[Line]) -> str:
    first = lines[0]
    contenders: list[Line] = []
    for line in lines:
        if line["contender"] not in contenders:
            contenders.append(line["contender"])
    contenders.sort(key=_place)
    own = [[line for line in lines if line["contender"] == contender] for contender in contenders]
    rival = next((group for group in own if group[0]["contender"]["checkpoint"] == "as Show-1"), None)
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(_row(group, rival) for group in own)]
    sizes = first["sizes"]
    size = _SIZES[first["size"]] + (f", {sizes['note']}" if sizes["note"] else "")
    threads = f", {first['threads']} thread{'s' * (first['threads'] > 1)}" if first["threads"] else ""
    computes = sorted({f"{line['contender']['loop']} in {line['compute']}" for line in lines})
    return "\n".join(
        [
            f"**{first['backbone']}**, {size}: {sizes['pixels']} pixels, latent {sizes['latent']}, rank {sizes['rank']}. "
            f"{first['device']}{threads}, torch {first['torch']}; {', '.join(computes)}.",
            "",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def _place(contender: Line) -> tuple:
    """Sorts rows whichever was measured first: the official loop, then ours; in each the plainest first."""
    plain = contender["spectral"] == "off", contender["checkpoint"] in ("as Show-1", "on")
    return contender["loop"] == "ours", contender["storage"], *(not simple for simple in plain)


def _row(lines: Sequence[Line], rival: Sequence[Line] | None) -> tuple[str, ...]:
    first = lines[0]
    contender = first["contender"]
    median = _median_step(lines)
    seconds = [value for line in lines for value in line["step_seconds"]]
    spectral = [value for line in lines for value in line.get("spectral_seconds", ())]
    return (
        contender["loop"],
        f"{contender['storage']}, {first['weights_bytes'] / 1e9:.3g} GB",
        contender["spectral"],
        contender["checkpoint"],
        f"{first['trained_values'] / 1e6:.1f} M",
        f"{median:.3g} ({min(seconds):.3g}..{max(seconds):.3g})",
        f"{median / _median_step(rival):.2f}" if rival else "",
        f"{_peak(lines) / 1e9:.2f}",
        f"{_peak(lines) / _peak(rival):.2f}" if rival else "",
        f"{statistics.median(spectral) / median:.2%}" if spectral else "",
    )


def _median_step(lines: Sequence[Line]) -> float:
    return statistics.median(value for line in lines for value in line["step_seconds"])


def _peak(lines: Sequence[Line]) -> int:
    return max(line["peak_bytes"] for line in lines)
