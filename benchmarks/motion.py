"""Which loss carries motion over to another sprite? `make bench-motion`; README.md here says how it is measured.

    python scripts/harness.py run benchmarks/motion.py                   what is missing of the table, then the table
    python scripts/harness.py run benchmarks/motion.py --fresh           everything anew
    python scripts/harness.py run benchmarks/motion.py --table           the table of what is there
    python scripts/harness.py run benchmarks/motion.py --sweep weights   the spectral loss at 1, 0.3 and 0.1 of the paper's weights

Every finished cell is appended to motion.jsonl at once; a cell that is there for the same weights, settings and seeds is
not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.motion_table import Line, conditions, table, write_into
from benchmarks.sprites_cells import TRAINED, Cell, Protocol, run_cell
from sma.spectral import REPAIRED
from sma.sprites.data import MOTIONS
from sma.sprites.model import DEFAULT_WEIGHTS

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "motion.jsonl"
PAPER_WEIGHTS = {"global_weight": 0.4, "local_weight": 0.2}
SWEEP = (1.0, 0.3, 0.1)


def main_cells(motions: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """The benchmark: oracle and base per motion; per motion and seed both methods without and with spectral loss, and the null."""
    cells = [Cell(method, motion) for method in ("oracle", "base") for motion in motions]
    for seed in seeds:
        for motion in motions:
            for method in TRAINED:
                cells += [Cell(method, motion, spectral, seed) for spectral in (None, REPAIRED)]
            cells.append(Cell("plain", motion, None, seed, null=True))
    return cells


def sweep_cells(motions: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Plain denoising without the spectral loss and with it at shares of the paper's weights."""
    forms = [
        replace(REPAIRED, **{name: round(share * weight, 6) for name, weight in PAPER_WEIGHTS.items()})
        for share in SWEEP
    ]
    return [Cell("plain", motion, form, seed) for form in (None, *forms) for seed in seeds for motion in motions]


def identity(cell: Cell, protocol: Protocol, weights_sha256: str) -> Line:
    """What a line must agree in to stand for a cell, as it reads back from JSON."""
    return json.loads(json.dumps({**cell.identity(), "protocol": asdict(protocol), "weights_sha256": weights_sha256}))


def read_lines(results: Path) -> list[Line]:
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines() if line]


def missing(cells: Sequence[Cell], lines: Sequence[Line], protocol: Protocol, weights_sha256: str) -> list[Cell]:
    """The cells that no line stands for."""
    found = []
    for cell in cells:
        wanted = identity(cell, protocol, weights_sha256)
        if not any(all(line.get(key) == value for key, value in wanted.items()) for line in lines):
            found.append(cell)
    return found


def current(lines: Sequence[Line], protocol: Protocol, weights_sha256: str) -> list[Line]:
    """The lines of these weights and settings, whose spectral form is REPAIRED in all but its weights."""
    common = json.loads(json.dumps({"protocol": asdict(protocol), "weights_sha256": weights_sha256}))
    form = _form(json.loads(json.dumps(asdict(REPAIRED))))
    same = [line for line in lines if all(line[key] == value for key, value in common.items())]
    return [line for line in same if line["spectral"] is None or _form(line["spectral"]) == form]


def _form(spectral: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spectral.items() if key not in ("global_weight", "local_weight")}


def run(
    cells: Sequence[Cell],
    protocol: Protocol,
    weights: Path,
    sha256: str,
    results: Path,
    processes: int,
    sheets: Path | None,
) -> None:
    """Run the cells, one process per core, and append each result when it is there."""
    started = time.monotonic()
    # A forked child would inherit torch's threads in whatever state they are in.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run_cell, cell, protocol, weights, sheets): cell for cell in cells}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                cell, result = futures[future], future.result()
                line = {**identity(cell, protocol, sha256), **result, "processes": processes}
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(
                    f"[{done}/{len(cells)}] {cell.name}: cosine {result['cosine']:.2f} ± {result['sd']:.2f}, "
                    f"visible {result['visible']:.2f}, {result['seconds']:.0f} s",
                    flush=True,
                )
        finally:
            # After an error or Ctrl-C nothing that still waits is worth starting.
            pool.shutdown(cancel_futures=True)
    print(f"{len(cells)} cells in {(time.monotonic() - started) / 60:.1f} minutes on {processes} processes\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--fresh", action="store_true", help="forget the results file and start over")
    mode.add_argument("--table", action="store_true", help="run nothing")
    mode.add_argument(
        "--sweep", choices=["weights"], help="compare weights of the spectral loss beside plain denoising"
    )
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="training seeds 0 to N-1")
    parser.add_argument("--motions", nargs="+", choices=MOTIONS, default=["circle", "back"])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="cells at a time, one thread each")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--sheets", type=Path, metavar="FOLDER", help="leave a contact sheet of each cell's clips there"
    )
    arguments = parser.parse_args()
    if not arguments.weights.is_file():
        parser.error(
            f"there are no sprites weights at {arguments.weights}; train them with python -m sma.sprites.train"
        )

    protocol = Protocol()
    sha256 = hashlib.sha256(arguments.weights.read_bytes()).hexdigest()
    if arguments.fresh:
        arguments.results.unlink(missing_ok=True)
    if not arguments.table:
        make_cells = sweep_cells if arguments.sweep else main_cells
        cells = make_cells(arguments.motions, range(arguments.seeds))
        todo = missing(cells, read_lines(arguments.results), protocol, sha256)
        print(f"{len(cells) - len(todo)} of {len(cells)} cells are there already", flush=True)
        if todo:
            processes = max(1, min(arguments.processes, len(todo)))
            run(todo, protocol, arguments.weights, sha256, arguments.results, processes, arguments.sheets)

    lines = current(read_lines(arguments.results), protocol, sha256)
    if not lines:
        print(f"{arguments.results} has no cell of these weights and settings; run without --table first")
        return 1
    text = f"{table(lines)}\n\n{conditions(lines)}"
    print(text)
    if arguments.results == RESULTS:
        write_into(FOLDER / "README.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
