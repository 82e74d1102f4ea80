"""The step benchmark: every kind of contender runs and says what it measured, a restart runs only what is missing."""

from __future__ import annotations

import json

import pytest

from benchmarks import step
from benchmarks.step_table import tables

OFFICIAL_ALL, OURS_SMA = 1, 3


def job(backbone: str, index: int) -> dict:
    return step.jobs(backbone, "toy", "cpu", steps=1, rounds=1)[index]


def line(contender: dict, seconds: list[float], peak: int, **more) -> dict:
    first = step.jobs("zeroscope", "toy", "cpu", steps=len(seconds), rounds=1)[0]
    measured = {"weights_bytes": 2e9, "trained_values": 1_500_000, "compute": "float32"}
    return {**first, "contender": contender, "step_seconds": seconds, "peak_bytes": peak, **measured, **more}


@pytest.mark.parametrize(
    ("backbone", "index"), [("zeroscope", OFFICIAL_ALL), ("zeroscope", OURS_SMA), ("wan1.3b", OURS_SMA)]
)
def test_a_contender_trains_and_says_what_it_took(backbone, index):
    asked = job(backbone, index)
    found = step.measure(asked, "cpu")
    assert asked.items() <= found.items()
    assert json.loads(json.dumps(found)) == found
    assert len(found["step_seconds"]) == 1 and found["step_seconds"][0] > 0
    # At least the weights are held at the peak, all the time.
    assert found["peak_bytes"] > found["weights_bytes"] > 0
    assert found["trained_values"] > 0 and found["compute"] == "float32"
    # Warm-up and timed steps; weights that let activations explode would measure nothing real.
    assert len(found["losses"]) == 3 and all(0 < loss < 1e3 for loss in found["losses"])
    if asked["contender"]["loop"] == "ours":
        assert len(found["spectral_seconds"]) == 1 and found["spectral_seconds"][0] > 0
    else:
        assert found["optimizer_steps"] == 3


def test_a_contender_that_fails_says_why():
    with pytest.raises(RuntimeError, match="KeyError"):
        step.measure(job("zeroscope", 0) | {"size": "huge"}, "cpu")


def test_every_backbone_has_ours_with_and_without_sma_and_a_rival_where_there_is_one():
    for backbone in step.SIZES:
        entries = step.contenders(backbone)
        assert {"off", "repaired"} <= {entry["spectral"] for entry in entries if entry["loop"] == "ours"}
        assert any(entry["loop"] == "official" for entry in entries) == (backbone != "wan1.3b")
        assert len({json.dumps(entry) for entry in entries}) == len(entries)


def test_the_order_is_reversed_in_every_other_round():
    orders = [
        [entry["contender"] for entry in step.jobs("zeroscope", "toy", "cpu", 1, 2) if entry["round"] == number]
        for number in (0, 1)
    ]
    assert orders[0] == orders[1][::-1]


def test_a_restart_runs_only_what_is_missing_for_the_same_size_device_and_steps():
    wanted = step.jobs("zeroscope", "toy", "cpu", 1, 2)
    lines = [{**entry, "peak_bytes": 1} for entry in wanted[:-1]]
    assert step.missing(wanted, lines) == wanted[-1:]
    assert step.missing(wanted, [{**entry, "device": "another"} for entry in lines]) == wanted
    assert step.missing(step.jobs("zeroscope", "toy", "cpu", 2, 2), lines) == step.jobs("zeroscope", "toy", "cpu", 2, 2)


def test_the_table_pools_rounds_and_compares_with_the_official_loop():
    official, _, ours, sma, _ = step.contenders("zeroscope")
    lines = [
        line(sma, [3.0, 3.0], 4 * 10**9, spectral_seconds=[0.03, 0.03]),
        line(ours, [2.0, 3.0], 3 * 10**9),
        line(official, [4.0, 6.0], 8 * 10**9),
        line(ours, [2.0, 2.0], 2 * 10**9, round=1),
    ]
    text = tables(lines)
    assert text.count("TOY SIZE") == 1
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if row.startswith("|")]
    assert [row[0] + row[2] for row in cells[2:]] == ["officialofficial", "oursoff", "oursrepaired"]
    rows = {(row[0], row[2]): row[4:] for row in cells}
    assert rows["official", "official"] == ["1.5 M", "5 (4..6)", "1.00", "8.00", "1.00", ""]
    assert rows["ours", "off"][1:5] == ["2 (2..3)", "0.40", "3.00", "0.38"]
    assert rows["ours", "repaired"][1:] == ["3 (3..3)", "0.60", "4.00", "0.50", "1.00%"]
    # Another device is another table.
    assert tables([*lines, {**lines[0], "device": "another"}]).count("TOY SIZE") == 2
