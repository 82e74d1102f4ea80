"""Seconds per training step and peak memory, of ours and of the official loop. README.md here says how it is measured.

    python scripts/harness.py run benchmarks/step.py --backbone zeroscope   what is missing, then the table
    python scripts/harness.py run benchmarks/step.py --fresh                that backbone anew on this device
    python scripts/harness.py run benchmarks/step.py --table                the tables of what is there

At the real size on CUDA. On a CPU at a reduced size, which says little about a GPU; every row and table says so. Every
measurement is a process of its own, appended to step.jsonl when it is finished; one that is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.append(str(FOLDER.parent))
sys.path.append(str(FOLDER.parent / "scripts"))

import environment  # noqa: E402,F401  before torch: sets the number of threads
import torch  # noqa: E402

from benchmarks.motion_table import write_into  # noqa: E402
from benchmarks.step_networks import SIZES  # noqa: E402
from benchmarks.step_table import END, START, tables  # noqa: E402

RESULTS = FOLDER / "step.jsonl"
Line = dict[str, Any]


def contenders(backbone: str) -> list[dict[str, str]]:
    """Who runs: the official loop in both ways of checkpointing where it exists, and ours without and with SMA."""
    official = [
        {"loop": "official", "storage": "float32", "spectral": "official", "checkpoint": checkpoint}
        for checkpoint in ("as Show-1", "all")
    ]
    ours = [
        {"loop": "ours", "storage": "bfloat16", "spectral": spectral, "checkpoint": checkpoint}
        for spectral, checkpoint in (("off", "on"), ("repaired", "on"), ("repaired", "off"))
    ]
    if backbone == "wan1.3b":
        # The official code knows no video transformer.
        return [*ours, {"loop": "ours", "storage": "float8_e4m3fn", "spectral": "repaired", "checkpoint": "on"}]
    return [*official, *ours]


def device_of(name: str) -> Line:
    """What figures depend on besides the code."""
    cuda = name == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
        "threads": None if cuda else torch.get_num_threads(),
        "torch": torch.__version__,
    }


def jobs(backbone: str, size: str, device: str, steps: int, rounds: int) -> list[Line]:
    """All measurements: in every other round in reverse order, so that a machine that slows down favours nobody."""
    described = asdict(SIZES[backbone][size])
    found = []
    for number in range(rounds):
        order = contenders(backbone)[:: -1 if number % 2 else 1]
        common = {"backbone": backbone, "size": size, "sizes": described, **device_of(device)}
        found += [{**common, "contender": contender, "steps": steps, "round": number} for contender in order]
    # As it reads back from JSON.
    return json.loads(json.dumps(found))


def read_lines(results: Path) -> list[Line]:
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines() if line]


def missing(wanted: Sequence[Line], lines: Sequence[Line]) -> list[Line]:
    """The measurements that no line stands for."""
    return [job for job in wanted if not any(job.items() <= line.items() for line in lines)]


def measure(job: Line, device: str) -> Line:
    """Runs a measurement in a process of its own; returns its line.

    Raises:
        RuntimeError: it failed; with the last lines it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "job.json"), Path(folder, "result.json")
        asked.write_text(json.dumps({**job, "device": device}), encoding="utf-8")
        # -P: the host owns a module called `nodes`, and this folder's parent would offer ours.
        command = [sys.executable, "-P", str(FOLDER / "step_child.py"), str(asked), str(answered)]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode:
            tail = "\n".join(run.stdout.splitlines()[-20:])
            raise RuntimeError(f"{job['contender']} ended with {run.returncode}:\n{tail}")
        return {**job, **rounded(json.loads(answered.read_text(encoding="utf-8")))}


def rounded(value: Any) -> Any:
    """Floats to 5 significant digits, so that the committed file stays readable."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=["real", "reduced", "toy"], help="default: real on cuda, reduced on cpu")
    parser.add_argument("--steps", type=int, help="timed steps of each process; default: 10 on cuda, 2 on cpu")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each contender")
    parser.add_argument("--results", type=Path, default=RESULTS)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--fresh", action="store_true", help="forget what is there of this backbone, size and device")
    mode.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args(argv)
    size = options.size or ("real" if options.device == "cuda" else "reduced")
    steps = options.steps or (10 if options.device == "cuda" else 2)

    wanted = [job for name in options.backbone for job in jobs(name, size, options.device, steps, options.rounds)]
    lines = read_lines(options.results)
    if options.fresh:
        places = [{key: job[key] for key in ("backbone", "size", "device")} for job in wanted]
        lines = [line for line in lines if not any(place.items() <= line.items() for place in places)]
        options.results.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    todo = [] if options.table else missing(wanted, lines)
    if todo:
        print(f"{len(wanted) - len(todo)} of {len(wanted)} measurements are there already", flush=True)
    failed = False
    for number, job in enumerate(todo, 1):
        name = f"[{number}/{len(todo)}] {job['backbone']} ({job['size']} size), {' '.join(job['contender'].values())}"
        try:
            line = measure(job, options.device)
        except RuntimeError as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr)
            continue
        with options.results.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")
        seconds = ", ".join(f"{value:.3g}" for value in line["step_seconds"])
        print(f"{name}: {seconds} s, {line['peak_bytes'] / 1e9:.2f} GB", flush=True)

    lines = read_lines(options.results)
    if not lines:
        print(f"{options.results} has no measurement; run without --table first")
        return 1
    text = tables(lines)
    print(f"\n{text}")
    if options.results == RESULTS:
        write_into(FOLDER / "README.md", text, START, END)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
