"""Which loss carries motion over to another sprite? `make bench-motion`; README.md here says how it is measured.

    python scripts/harness.py run benchmarks/motion.py                     what is missing of the tables, then the tables
    python scripts/harness.py run benchmarks/motion.py --table             the tables of what is there
    python scripts/harness.py run benchmarks/motion.py --fresh             everything anew
    python scripts/harness.py run benchmarks/motion.py --pairs plain:off plain:repaired --seeds 8 --motions circle back
    python scripts/harness.py run benchmarks/motion.py --tune --methods plain debiased --forms off --rates 3e-3 6e-3

Every finished cell is appended to motion.jsonl at once; a cell that is there for the same weights, settings, loss and seed is
not run again. The cells of a seed come before those of the next, so a stop leaves rows of about equal length.
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
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.motion_methods import (
    FORMS,
    METHODS,
    MOTIONS,
    SNAPSHOTS,
    STEPS,
    TABLE,
    TUNING_MOTIONS,
    TUNING_RATES,
    UNTRAINED,
)
from benchmarks.motion_table import END, START, TUNING_END, TUNING_START, report, write_into
from benchmarks.motion_training import Protocol
from benchmarks.sprites_cells import Cell, Line, run_cell
from sma.sprites.model import DEFAULT_WEIGHTS

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "motion.jsonl"
Pair = tuple[str, str]


def parse_pair(text: str) -> Pair:
    """ "plain:repaired" to a method and a form."""
    method, _, form = text.partition(":")
    if method not in METHODS or method in UNTRAINED or form not in FORMS:
        raise ValueError(
            f"{text!r} is no method:form; methods are {', '.join(name for name in METHODS if name not in UNTRAINED)}, "
            f"forms {', '.join(FORMS)}."
        )
    return method, form


def completed(chosen: Sequence[Pair]) -> list[Pair]:
    """The pairs, after what every table of them needs: the untrained rows, each method's off, and a null."""
    methods = list(dict.fromkeys(method for method, _ in chosen))
    null = "plain" if "plain" in methods else methods[0]
    needed = [(method, "off") for method in (*UNTRAINED, *methods)]
    return list(dict.fromkeys([*needed, (null, "null"), *chosen]))


def rounds(chosen: Sequence[Pair], seeds: int | None) -> list[list[Pair]]:
    """The pairs of every seed, completed. Without a choice those of the benchmark, which has rows of different lengths; with
    more seeds than it has, its longest rows grow."""
    if chosen:
        return [completed(chosen)] * (seeds or 1)
    lengths = {parse_pair(text): length for text, length in TABLE.items()}
    longest = max(lengths.values())
    return [
        completed([pair for pair, length in lengths.items() if length > min(seed, longest - 1)])
        for seed in range(seeds or longest)
    ]


def make_cells(
    rounds: Sequence[Sequence[Pair]],
    motions: Sequence[str],
    rates: Sequence[float] | None = None,
    steps: int = STEPS,
) -> list[Cell]:
    """Seed by seed, motion by motion; rates: learning rates to try instead of each method's own, the null left out."""
    found = [
        Cell.of(method, form, motion, seed, rate, steps)
        for seed, chosen in enumerate(rounds)
        for motion in motions
        for method, form in chosen
        for rate in (rates if rates and form != "null" else (None,))
    ]
    return list(dict.fromkeys(found))


def read_lines(results: Path) -> list[Line]:
    """What a killed run left of its last line is passed over; that cell runs again."""
    if not results.is_file():
        return []
    found = []
    for line in results.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def append(results: Path, line: Line) -> None:
    """Add a line, after ending one that a killed run left open."""
    whole = not results.is_file() or results.read_bytes()[-1:] in (b"", b"\n")
    with results.open("a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps(line) + "\n")


def current(lines: Sequence[Line], protocol: Protocol, weights_sha256: str) -> list[Line]:
    """The lines that stand for a cell of these weights and settings as methods and forms are defined now; of a cell that
    was run again, for its snapshots, the last one."""
    found: dict[Cell, Line] = {}
    for line in lines:
        if line["method"] not in METHODS or line["form"] not in FORMS:
            continue
        keys = ("method", "form", "motion", "seed", "learning_rate", "steps")
        cell = Cell(**{key: line[key] for key in keys})
        if all(line.get(key) == value for key, value in cell.identity(protocol, weights_sha256).items()):
            found[cell] = line
    return list(found.values())


def wanted_snapshots(cell: Cell, snapshots: Sequence[int]) -> tuple[int, ...]:
    """Only runs without spectral loss are compared with at other steps than their last."""
    return tuple(snapshots) if cell.trained and cell.form == "off" else ()


def missing(
    cells: Sequence[Cell], lines: Sequence[Line], protocol: Protocol, weights_sha256: str, snapshots: Sequence[int] = ()
) -> list[Cell]:
    """The cells that no line stands for, or none with all of its snapshots."""
    found = []
    for cell in cells:
        identity = cell.identity(protocol, weights_sha256)
        steps = set(wanted_snapshots(cell, snapshots))
        if not any(
            all(line.get(key) == value for key, value in identity.items())
            and steps <= {snapshot["steps"] for snapshot in line.get("snapshots", ())}
            for line in lines
        ):
            found.append(cell)
    return found


def run(
    cells: Sequence[Cell],
    protocol: Protocol,
    weights: Path,
    sha256: str,
    results: Path,
    *,
    processes: int,
    snapshots: Sequence[int] = (),
    sheets: Path | None = None,
) -> None:
    """Run the cells, one process per core, and append each result when it is there."""
    started = time.monotonic()
    # A forked child would inherit torch's threads in whatever state they are in.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(run_cell, cell, protocol, weights, wanted_snapshots(cell, snapshots), sheets): cell
            for cell in cells
        }
        try:
            for done, future in enumerate(as_completed(futures), 1):
                cell, result = futures[future], future.result()
                line = {**cell.identity(protocol, sha256), **result, "processes": processes}
                append(results, line)
                print(
                    f"[{done}/{len(cells)}] {cell.name}: cosine {result['cosine']:.2f} ± {result['sd']:.2f}, "
                    f"visible {result['visible']:.2f}, {result['seconds']:.0f} s",
                    flush=True,
                )
        finally:
            # After an error or Ctrl-C nothing that still waits is worth starting.
            pool.shutdown(cancel_futures=True)
    print(f"{len(cells)} cells in {(time.monotonic() - started) / 60:.1f} minutes on {processes} processes\n")


def arguments_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with `rounds`: the pairs of method and form of every seed, `motions`, and `snapshots` filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trained = [name for name in METHODS if name not in UNTRAINED]
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--fresh", action="store_true", help="forget the whole results file, tuning included, and start over"
    )
    mode.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument(
        "--tune",
        action="store_true",
        help=f"on {', '.join(TUNING_MOTIONS)}; default: every method, off, at the rates {TUNING_RATES}, without snapshots",
    )
    parser.add_argument("--pairs", nargs="+", metavar="METHOD:FORM", help="default: the benchmark's own")
    parser.add_argument("--methods", nargs="+", choices=trained, help="these, each in all of --forms")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["off"])
    parser.add_argument("--motions", nargs="+", choices=(*MOTIONS, *TUNING_MOTIONS))
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="training seeds 0 to N-1; default: the benchmark's own, else 1"
    )
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates; default: each method's own")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--no-snapshots", action="store_true", help="leave out what equal fit is compared at")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="cells at a time, one thread each")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--sheets", type=Path, metavar="FOLDER", help="leave a contact sheet of each cell's clips there"
    )
    arguments = parser.parse_args(argv)
    if arguments.seeds is not None and arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}; at least 1 is needed")
    allowed = TUNING_MOTIONS if arguments.tune else MOTIONS
    arguments.motions = arguments.motions or list(allowed)
    if strangers := set(arguments.motions) - set(allowed):
        parser.error(f"{', '.join(sorted(strangers))}: tuning and final motions are never mixed; see --tune")
    if not arguments.weights.is_file():
        parser.error(
            f"there are no sprites weights at {arguments.weights}; train them with python -m sma.sprites.train"
        )
    try:
        chosen = [parse_pair(text) for text in arguments.pairs or ()]
    except ValueError as error:
        parser.error(str(error))
    chosen += [(method, form) for method in arguments.methods or () for form in arguments.forms]
    if arguments.tune:
        chosen = chosen or [(method, "off") for method in trained]
        arguments.rates = arguments.rates or TUNING_RATES
    arguments.rounds = rounds(chosen, arguments.seeds)
    arguments.snapshots = () if arguments.no_snapshots or arguments.tune else SNAPSHOTS
    return arguments


def main() -> int:
    arguments = arguments_of()
    protocol = Protocol()
    sha256 = hashlib.sha256(arguments.weights.read_bytes()).hexdigest()
    if arguments.fresh:
        arguments.results.unlink(missing_ok=True)
    if not arguments.table:
        cells = make_cells(arguments.rounds, arguments.motions, arguments.rates, arguments.steps)
        todo = missing(cells, read_lines(arguments.results), protocol, sha256, arguments.snapshots)
        print(f"{len(cells) - len(todo)} of {len(cells)} cells are there already", flush=True)
        if todo:
            run(
                todo,
                protocol,
                arguments.weights,
                sha256,
                arguments.results,
                processes=max(1, min(arguments.processes, len(todo))),
                snapshots=arguments.snapshots,
                sheets=arguments.sheets,
            )

    found = False
    lines = current(read_lines(arguments.results), protocol, sha256)
    for motions, markers in ((MOTIONS, (START, END)), (TUNING_MOTIONS, (TUNING_START, TUNING_END))):
        own = [line for line in lines if line["motion"] in motions]
        if own:
            found = True
            print(f"{', '.join(motions)}\n\n{report(own)}\n")
            if arguments.results == RESULTS:
                write_into(FOLDER / "README.md", report(own), *markers)
    if not found:
        print(f"{arguments.results} has no cell of these weights and settings; run without --table first")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
