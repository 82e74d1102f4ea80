"""The motion benchmark's sums: intervals, pairs, equal fit, tables; which cells it runs and which lines count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.motion import arguments_of, completed, current, make_cells, missing, parse_pair, rounds
from benchmarks.motion_methods import FORMS, METHODS, MOTIONS, SNAPSHOTS, TABLE, TUNING_MOTIONS, UNTRAINED, Form
from benchmarks.motion_stats import Group, Interval, at_equal_fit, pairs, student_quantile
from benchmarks.motion_table import END, START, looks_table, main_table, motions_table, write_into
from benchmarks.motion_training import Protocol
from benchmarks.sprites_cells import Cell
from sma.spectral import REPAIRED

PROTOCOL = Protocol()


def line(method: str, form: str, motion: str, cosine: float, seed: int = 0, rate: float | None = None, **measured):
    cell = Cell.of(method, form, motion, seed, rate)
    shares = ("error", "visible", "colour_right", "shape_right", "colour_leak", "shape_leak", "ground_leak")
    figures = dict.fromkeys((*shares, "shade_distance", "unevenness", "flicker", "diversity"), 0.5)
    trained = {"fit": 0.01, "training_seconds": 40.0, "gradient_ratio": None, "snapshots": [{"steps": cell.steps}]}
    known = {**figures, **(trained if cell.trained else {}), "cosine": cosine, **measured}
    return {**cell.identity(PROTOCOL, "weights"), **known}


def row_of(table: str, method: str, form: str) -> dict[str, str]:
    columns, _, *rows = ([part.strip() for part in row.strip("|").split("|")] for row in table.splitlines())
    (found,) = (row for row in rows if row[:2] == [METHODS[method].title, FORMS[form].title if form else ""])
    return dict(zip(columns, found, strict=True))


@pytest.mark.parametrize(
    ("freedom", "level", "t"),
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.30265),
        (3, 0.95, 3.18245),
        (4, 0.95, 2.77645),
        (9, 0.95, 2.26216),
        (30, 0.95, 2.04227),
        (31, 0.95, 2.03951),
        (5, 0.99, 4.03214),
        (1000, 0.95, 1.96234),
    ],
)
def test_students_quantiles_are_those_of_the_tables(freedom, level, t):
    assert student_quantile(freedom, level) == pytest.approx(t, rel=1e-5)


def test_an_interval_is_students_and_one_value_has_none():
    found = Interval.of([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.count) == (2.5, 4)
    assert found.half == pytest.approx(3.18245 * 1.2909944 / 2, rel=1e-5)
    assert found.text("+.2f") == "+2.50 [+0.45, +4.55]"
    assert Interval.of([0.4]).text() == "0.40"


def test_cells_pair_by_motion_and_seed_within_one_learning_rate():
    lines = [
        line("plain", "off", "circle", 0.9, seed=0),
        line("plain", "off", "circle", 0.5, seed=1),
        line("plain", "off", "circle", 0.1, seed=0, rate=1e-2),
        line("plain", "repaired", "circle", 0.6, seed=0),
        line("plain", "repaired", "circle", 0.7, seed=1),
        line("plain", "repaired", "back", 0.1, seed=0),
        line("plain", "null", "circle", 0.8, seed=0),
        line("vmc_output", "off", "circle", 0.0, seed=0),
    ]
    group = Group.of(lines[3])
    found = pairs(lines, group, group.off)
    assert [(own["cosine"], off["cosine"]) for own, off in found] == [(0.6, 0.9), (0.7, 0.5)]
    row = row_of(main_table([own for own in lines if own["learning_rate"] == 6e-3]), "plain", "repaired")
    assert (row["cells"], row["better / worse"]) == ("3", "1 / 1")
    assert row["Δ to off"] == Interval.of([-0.3, 0.2]).text("+.2f")
    assert row["Δ at equal fit"] == ""
    motions = row_of(motions_table(lines[:2] + lines[3:]), "plain", "repaired")
    assert (motions["back"], motions["circle"]) == ("0.10", "0.65 (-0.05)")


def test_equal_fit_takes_the_snapshot_that_fits_most_alike():
    found = [
        {"steps": steps, "fit": fit, "cosine": cosine}
        for steps, fit, cosine in ((100, 0.04, 0.2), (200, 0.02, 0.5), (250, 0.01, 0.8))
    ]
    off = line("plain", "off", "circle", 0.8, snapshots=found)
    own = line("plain", "repaired", "circle", 0.6, fit=0.021)
    equal = at_equal_fit(own, off)
    assert (equal.steps, equal.difference) == (200, pytest.approx(0.1))
    assert equal.ratio == pytest.approx(1.05)
    row = row_of(main_table([off, own]), "plain", "repaired")
    assert (row["Δ to off"], row["Δ at equal fit"]) == ("-0.20", "+0.10")
    assert row["off at step, fit apart"] == "200, 5 %"
    # Halfway between two is nearer to the one it is a smaller multiple of.
    assert at_equal_fit({**own, "fit": 0.0285}, off).steps == 100
    assert at_equal_fit(own, {**off, "snapshots": found[-1:]}) is None


def test_leaks_are_read_against_the_base_of_the_same_noises():
    lines = [
        line("base", "off", "circle", 0.0, shade_distance=0.2, diversity=0.3, ground_leak=None),
        line("base", "off", "back", 0.0, shade_distance=0.9, diversity=0.9),
        line("plain", "off", "circle", 0.8, shade_distance=0.05, diversity=0.15, ground_leak=None),
    ]
    table = looks_table(lines)
    row = row_of(table, "plain", "off")
    assert (row["shade pull"], row["diversity"], row["ground leak"]) == ("0.75", "0.50", "")
    assert (row["fit"], row["training s"]) == ("0.0100", "40")
    base = row_of(table, "base", "")
    assert (base["shade pull"], base["diversity"], base["fit"]) == ("0.00", "1.00", "")


def test_the_table_replaces_what_stands_between_the_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_into(readme, "new")
    assert readme.read_text() == f"before\n{START}\nnew\n{END}\nafter\n"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="lacks"):
        write_into(readme, "new")


def test_a_table_has_every_row_it_is_read_against():
    assert completed([("dual", "repaired")]) == [
        *((name, "off") for name in UNTRAINED),
        ("dual", "off"),
        ("dual", "null"),
        ("dual", "repaired"),
    ]


def test_rows_of_the_benchmark_have_the_lengths_they_are_given():
    own = rounds([], None)
    assert len(own) == max(TABLE.values())
    for text, length in TABLE.items():
        method, form = parse_pair(text)
        if form not in ("off", "null"):
            assert sum((method, form) in chosen for chosen in own) == length
    assert all(("plain", "null") in chosen and len(chosen) == len(set(chosen)) for chosen in own)
    assert rounds([], 1) == own[:1]
    assert rounds([], 7) == [*own, own[-1], own[-1]]
    assert rounds([("dual", "off")], None) == [completed([("dual", "off")])]


def test_a_stop_leaves_rows_of_about_equal_length():
    cells = make_cells(rounds([("plain", "repaired")], 3), ["circle", "back"])
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    first = [cell for cell in cells if cell.seed == 0]
    assert [cell.motion for cell in first] == ["circle"] * 6 + ["back"] * 6


def test_a_sweep_runs_each_rate_once_and_the_null_at_its_own():
    cells = make_cells([[("base", "off"), ("plain", "off"), ("plain", "null")]], ["corner"], rates=(1e-3, 2e-3))
    assert [(cell.method, cell.form, cell.learning_rate) for cell in cells] == [
        ("base", "off", None),
        ("plain", "off", 1e-3),
        ("plain", "off", 2e-3),
        ("plain", "null", METHODS["plain"].learning_rate),
    ]


def test_lines_of_other_weights_settings_or_definitions_do_not_count(monkeypatch):
    cell = Cell.of("plain", "repaired", "circle", 0)
    lines = [line("plain", "repaired", "circle", 0.5)]
    assert missing([cell], lines, PROTOCOL, "weights") == [] and current(lines, PROTOCOL, "weights") == lines
    others = [(PROTOCOL, "other weights"), (replace(PROTOCOL, rank=3), "weights")]
    assert all(missing([cell], lines, *other) == [cell] and current(lines, *other) == [] for other in others)
    for other in (replace(cell, steps=3), replace(cell, learning_rate=1e-3), replace(cell, seed=1)):
        assert missing([other], lines, PROTOCOL, "weights") == [other]
    monkeypatch.setitem(FORMS, "repaired", Form("REPAIRED", replace(REPAIRED, local_weight=0.1)))
    assert missing([cell], lines, PROTOCOL, "weights") == [cell] and current(lines, PROTOCOL, "weights") == []
    monkeypatch.delitem(FORMS, "repaired")
    assert current(lines, PROTOCOL, "weights") == []


@pytest.fixture
def parsed(tmp_path):
    weights = tmp_path / "weights"
    weights.touch()
    return lambda *words: arguments_of([*words, "--weights", str(weights)])


def test_the_command_line_keeps_tuning_and_final_motions_apart(parsed):
    assert not set(MOTIONS) & set(TUNING_MOTIONS)
    assert parsed().motions == list(MOTIONS) and parsed().snapshots == SNAPSHOTS
    assert parsed("--no-snapshots").snapshots == ()
    tuning = parsed("--tune", "--methods", "dual", "--forms", "off", "balanced")
    assert tuning.motions == list(TUNING_MOTIONS) and len(tuning.rates) > 1
    assert {("dual", "off"), ("dual", "balanced"), ("dual", "null")} <= set(tuning.rounds[0])
    for words in (
        ("--tune", "--motions", "circle"),
        ("--motions", "corner"),
        ("--seeds", "0"),
        ("--pairs", "plain:none"),
    ):
        with pytest.raises(SystemExit):
            parsed(*words)
