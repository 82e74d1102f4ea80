"""The motion benchmark: its cells pair and repeat, a restart runs only what is missing, its table does the sums."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.motion import current, identity, main_cells, missing, sweep_cells
from benchmarks.motion_table import END, START, Group, paired_differences, table, write_into
from benchmarks.sprites_cells import Cell, Protocol, run_cell
from sma.spectral import REPAIRED
from sma.sprites.model import SpritesModel, save

QUICK = Protocol(steps=2, noises=1, sampler_steps=2)
MEASURED = ("cosine", "sd", "error", "visible", "flicker", "losses", "gradient_ratio")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random ones: nothing here depends on what the model draws."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save(SpritesModel(), path)
    return path


def line(method: str, motion: str, cosine: float, *, seed: int = 0, spectral=None, null: bool = False) -> dict:
    cell = Cell(method, motion, spectral, seed, null)
    shares = dict.fromkeys(("error", "visible", "colour_right", "shape_right", "shape_leak", "flicker"), 0.5)
    ratio = [1.0, 2.0] if spectral else None
    measured = {"cosine": cosine, **shares, "losses": {"denoising": 0.01}, "gradient_ratio": ratio}
    return {**identity(cell, QUICK, "weights"), **measured}


def test_a_cell_gives_the_same_figures_again(weights):
    cell = Cell("vmc", "back", REPAIRED, seed=3)
    first, second = (run_cell(cell, QUICK, weights) for _ in range(2))
    assert {key: first[key] for key in MEASURED} == {key: second[key] for key in MEASURED}


def test_variants_of_one_seed_share_noise_and_initial_adapter_and_the_null_only_the_noise(weights):
    feather = replace(REPAIRED, global_weight=1e-9, local_weight=1e-9)
    one, two = replace(QUICK, steps=1), replace(QUICK, steps=2)
    cells = [Cell("plain", "circle", form, 0, null) for form, null in ((None, False), (feather, False), (None, True))]
    plain, spectral, null = (run_cell(cell, one, weights)["losses"] for cell in cells)
    # A fresh LoRA changes nothing, so the first step shows noise and levels alone, the second the adapter as well.
    assert plain == spectral == null
    plain, spectral, null = (run_cell(cell, two, weights)["losses"] for cell in cells)
    assert spectral == pytest.approx(plain, rel=1e-3)
    assert null != pytest.approx(plain, rel=1e-3)


def test_cells_of_other_seeds_see_other_noise(weights):
    one = replace(QUICK, steps=1)
    first, second = (run_cell(Cell("plain", "circle", None, seed), one, weights)["losses"] for seed in (0, 1))
    assert first != second


def test_the_gradient_ratio_is_proportional_to_the_spectral_weights(weights):
    double = replace(REPAIRED, global_weight=2 * REPAIRED.global_weight, local_weight=2 * REPAIRED.local_weight)
    single_ratio, double_ratio = (
        run_cell(Cell("plain", "circle", form, 0), QUICK, weights)["gradient_ratio"][0] for form in (REPAIRED, double)
    )
    assert single_ratio > 0
    assert double_ratio == pytest.approx(2 * single_ratio, rel=1e-3)


@pytest.mark.parametrize("motion", ["circle", "back"])
def test_the_oracle_needs_no_weights_and_scores_like_the_reference(motion, tmp_path):
    result = run_cell(Cell("oracle", motion), Protocol(), tmp_path / "absent")
    assert result["cosine"] > 0.98 and result["visible"] == 1.0
    assert result["colour_right"] == result["shape_right"] == 1.0
    assert result["shape_leak"] == result["flicker"] == 0.0


def test_a_contact_sheet_of_a_cell_can_be_kept(tmp_path):
    run_cell(Cell("oracle", "back"), Protocol(), tmp_path / "absent", tmp_path / "sheets")
    assert [file.name for file in (tmp_path / "sheets").iterdir()] == ["oracle_back.png"]


def test_the_benchmark_has_the_cells_it_promises():
    cells = main_cells(["circle", "back"], range(2))
    assert len(cells) == len(set(cells)) == 16 + 4 + 4
    assert sum(cell.seed is not None and not cell.null for cell in cells) == 16
    # Plain denoising without the spectral loss belongs to both, so that the sweep has something to pair with.
    assert set(sweep_cells(["circle"], [0])) & set(cells)


def test_a_restart_runs_only_what_is_missing():
    cells = main_cells(["circle"], range(1))
    lines = [identity(cell, QUICK, "weights") for cell in cells[:-1]]
    assert missing(cells, lines, QUICK, "weights") == cells[-1:]


def test_lines_of_other_weights_settings_or_knobs_do_not_count():
    cells = [Cell("plain", "circle", REPAIRED, 0)]
    lines = [line("plain", "circle", 0.5, spectral=REPAIRED)]
    assert missing(cells, lines, QUICK, "weights") == []
    assert missing(cells, lines, QUICK, "other weights") == cells
    assert missing(cells, lines, replace(QUICK, steps=3), "weights") == cells
    lighter = [replace(cells[0], spectral=replace(REPAIRED, local_weight=0.1))]
    assert missing(lighter, lines, QUICK, "weights") == lighter
    other_form = [line("plain", "circle", 0.5, spectral=replace(REPAIRED, residual="absolute"))]
    assert current(lines + other_form, QUICK, "weights") == lines
    assert current(lines, QUICK, "other weights") == []


def test_differences_pair_by_motion_and_seed():
    lines = [
        line("plain", "circle", 0.9, seed=0),
        line("plain", "circle", 0.5, seed=1),
        line("plain", "circle", 0.6, seed=0, spectral=REPAIRED),
        line("plain", "circle", 0.7, seed=1, spectral=REPAIRED),
        line("plain", "back", 0.1, seed=0, spectral=REPAIRED),
        line("plain", "circle", 0.8, seed=0, null=True),
        line("vmc", "circle", 0.0, seed=0),
    ]
    spectral = Group("plain", (REPAIRED.global_weight, REPAIRED.local_weight), False)
    assert paired_differences(lines, spectral) == pytest.approx([-0.3, 0.2])
    assert paired_differences(lines, Group("plain", None, True)) == pytest.approx([-0.1])
    rows = {tuple(row.split(" | ")[:2]): row.split(" | ") for row in table(lines).splitlines()}
    row = rows["| plain denoising", f"REPAIRED ({REPAIRED.global_weight:g}, {REPAIRED.local_weight:g})"]
    assert row[2:7] == ["3", "0.47 ± 0.32", "-0.05 ± 0.35", "1 / 1", "back 0.10, circle 0.60/0.70"]
    assert rows["| plain denoising", "off"][3:6] == ["0.70 ± 0.28", "", ""]


def test_the_table_replaces_what_stands_between_the_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_into(readme, "new")
    assert readme.read_text() == f"before\n{START}\nnew\n{END}\nafter\n"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="lacks"):
        write_into(readme, "new")
