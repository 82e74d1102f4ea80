"""Finds or unpacks a real ComfyUI, builds its environment, starts it with this pack, runs the tests.

    python scripts/harness.py env                     build the environment, say where it is
    python scripts/harness.py serve [--port N]        a server with this pack, until Ctrl-C
    python scripts/harness.py test [pytest options]   every test
    python scripts/harness.py run script.py [...]     a script of this repository inside the environment
    python scripts/harness.py twins                   workflows/*.json -> tests/workflows/*.api.json

Python 3.10 or newer is all it needs; everything else is installed into .harness/venv. COMFYUI_PATH names a ComfyUI to
use instead of the unpacked one, SPECTRAL_MOTION_PYTHON an environment to use as it is. pip is used with your own
settings, so an index configured there decides which build of torch is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import page
from comfy_server import Client, Result, checkout_files, install_pack, serve, shipped_files, unwind_on_signals
from environment import CACHE, ROOT, HarnessError, ensure_environment, find_host, say

__all__ = [
    "CACHE",
    "ROOT",
    "Client",
    "HarnessError",
    "Result",
    "checkout_files",
    "ensure_environment",
    "enter",
    "find_host",
    "install_pack",
    "serve",
    "shipped_files",
]

# The rooms' tests cannot share a process: the host owns a top-level module called `nodes`, and so do we.
SUITES = [
    ["tests/sma", "tests/test_door.py", "tests/test_harness.py", "tests/test_packaging.py"],
    ["tests/host"],
    ["tests/browser"],
]


def _become(command: list[str]) -> None:
    """Replace this process by another, so that signals reach that one alone."""
    if os.name != "nt":
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        # Ctrl-C reaches the child as well, which needs the time to stop its server.
        with contextlib.suppress(KeyboardInterrupt):
            sys.exit(process.wait())


def enter() -> None:
    """Continue the calling script inside the environment, which is built first; returns when already there."""
    python, _ = ensure_environment()
    if Path(sys.prefix).resolve() != python.parent.parent.resolve():
        _become([str(python), *sys.argv])


class _Room:
    """One suite in its own pytest process; the lines that it prints are shown with the suite's name before them."""

    def __init__(self, python: Path, suite: list[str], options: list[str]) -> None:
        self.name = " ".join(suite)
        # -I keeps the repository root off sys.path, where it would shadow the host's modules.
        self.command = [str(python), "-I", "-m", "pytest", "-q", "-rfEs", *suite, *options]
        self.label = f"{Path(suite[0]).name}: "
        self.process: subprocess.Popen[str] | None = None
        self.closing, self.skipped = "", Counter[str]()

    def run(self) -> int:
        """Run it to its end; returns pytest's exit status."""
        say(f"pytest {self.name}")
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in self.process.stdout:
            print(f"{self.label}{line}", end="", flush=True)
            if skip := re.match(r"SKIPPED \[(\d+)\] \S+: (.*)", line):
                self.skipped[skip[2]] += int(skip[1])
            elif re.search(r"\d+ (passed|failed|skipped|error)|no tests ran", line):
                self.closing = line.strip()
        return self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def test(options: list[str]) -> int:
    started = time.monotonic()
    python, _ = ensure_environment()
    rooms = [_Room(python, suite, options) for suite in SUITES]
    # Two at a time: every room mostly keeps one core busy.
    with unwind_on_signals(), ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        try:
            statuses = list(pool.map(_Room.run, rooms))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for room in rooms:
                room.stop()
    # 5: no test fits the options, which is no failure of the suite.
    failed = any(status not in ((0, 5) if options else (0,)) for status in statuses)
    left_out, lines = 0, []
    for room, status in zip(rooms, statuses, strict=True):
        left_out += room.skipped.total()
        lines.append(f"{room.name}: {room.closing or f'pytest ended with {status}'}")
        lines += [f"    {count} skipped: {reason}" for reason, count in room.skipped.items()]
    print("\n" + "\n".join(lines))
    outcome = "FAILED" if failed else "all others passed" if left_out else "all tests passed"
    say(f"{f'{left_out} tests skipped, ' if left_out else ''}{outcome} in {time.monotonic() - started:.0f} s")
    return int(failed)


def _serve_until_interrupted(version: str | None, port: int, base: Path) -> None:
    python, host = ensure_environment()
    host = find_host(version) if version else host
    say(f"starting {host}")
    with serve(python, host, base=base, port=port) as client:
        say(f"ComfyUI runs at {client.url} with this pack; base directory {client.base}, log {client.log}")
        say("Ctrl-C stops it")
        while True:
            time.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("env")
    server = commands.add_parser("serve")
    server.add_argument("--host", help="a ComfyUI version to unpack, such as 0.20.1")
    server.add_argument("--port", type=int, default=8188)
    server.add_argument("--base", type=Path, default=CACHE / "base", help="base directory, kept between runs")
    commands.add_parser("test", prefix_chars="\0").add_argument("options", nargs="*")
    commands.add_parser("run", prefix_chars="\0").add_argument("argv", nargs="+")
    commands.add_parser("twins")
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "env":
                python, host = ensure_environment()
                say(f"python {python}, host {host}")
            case "serve":
                _serve_until_interrupted(arguments.host, arguments.port, arguments.base)
            case "test":
                return test(arguments.options)
            case "twins":
                python, host = ensure_environment()
                with serve(python, host) as client:
                    for file in page.write_twins(client):
                        say(f"wrote {file.relative_to(ROOT)}")
            case "run":
                _become([str(ensure_environment()[0]), *arguments.argv])
    except HarnessError as error:
        print(f"[harness] {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
