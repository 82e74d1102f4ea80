"""What the numbers in the names of a folder's images say: gaps, repeats and several series."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePath

_NUMBER = re.compile(r"[0-9]+")
_LISTED = 4  # gaps named at most


def numbering_notes(names: Sequence[str]) -> list[str]:
    """Say where the numbers of image files are not those of one film: "images missing by their numbers: 12 and 14-20".

    Args:
        names: in the order in which they are read. Names without a common pattern are not judged.
    """
    series = _series(names)
    notes = []
    if len(series) > 1 and all(len(members) > 1 for members in series.values()):
        runs = [f"{members[0][1]} to {members[-1][1]}" for members in series.values()]
        notes.append(f"{len(runs)} series of names are read as one film: {', then '.join(runs)}")
    elif len(series) > 1:
        return []
    for members in series.values():
        where = f" between {members[0][1]} and {members[-1][1]}" if len(series) > 1 else ""
        by_number = defaultdict(list)
        for number, name in members:
            by_number[number].append(name)
        if twice := next((names for names in by_number.values() if len(names) > 1), None):
            notes.append(f"{' and '.join(twice)} have one number and are read one after the other")
        if gaps := _gaps(sorted(by_number)):
            notes.append(f"images missing by their numbers{where}: {gaps}")
    return notes


def _series(names: Sequence[str]) -> dict[str, list[tuple[int, str]]]:
    """Names by their pattern, each with its number: the only part that differs, or else the last number."""
    stems = [PurePath(name).stem.casefold() for name in names]
    if not all(map(_NUMBER.search, stems)):
        return {}
    patterns = {_NUMBER.sub("#", stem) for stem in stems}
    columns = list(zip(*map(_NUMBER.findall, stems), strict=True)) if len(patterns) == 1 else []
    varying = [i for i, column in enumerate(columns) if len(set(map(int, column))) > 1]
    series = defaultdict(list)
    for name, stem in zip(names, stems, strict=True):
        matches = list(_NUMBER.finditer(stem))
        match = matches[varying[0]] if len(varying) == 1 else matches[-1]
        series[f"{stem[: match.start()]}#{stem[match.end() :]}"].append((int(match[0]), name))
    return dict(series)


def _gaps(numbers: Sequence[int]) -> str:
    """The numbers that are missing from a row; "" where it has no step that at least half of its neighbours keep."""
    steps = [after - before for before, after in pairwise(numbers)]
    step = min(steps, default=0)
    if not steps or 2 * steps.count(step) < len(steps) or any(other % step for other in steps):
        return ""
    gaps = [(before + step, after - step) for before, after in pairwise(numbers) if after - before > step]
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in gaps]
    if len(texts) > _LISTED:
        texts[_LISTED:] = [f"{len(texts) - _LISTED} more"]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
