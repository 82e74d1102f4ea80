"""Talking to a process that is killed or starved, see victim.py."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
from safetensors import SafetensorError, safe_open

VICTIM = Path(__file__).with_name("victim.py")
PATIENCE = 120.0  # seconds until a silent process counts as hung


class Victims:
    """Trains in processes of their own.

    Attributes:
        base: the host's folder.
    """

    def __init__(self, process: subprocess.Popen, says: Any, base: Path) -> None:
        self.process, self.says, self.base = process, says, base

    def heard(self) -> dict[str, Any]:
        watch = threading.Timer(PATIENCE, self.process.kill)
        watch.start()
        try:
            line = self.says.readline()
        finally:
            watch.cancel()
        assert line, f"the process ended or said nothing for {PATIENCE:.0f} s"
        return json.loads(line)

    def begin(self, **changes: Any) -> int:
        """Lets a child train; returns its process number."""
        self.process.stdin.write(json.dumps(changes).encode() + b"\n")
        self.process.stdin.flush()
        return self.heard()["child"]

    def end(self) -> dict[str, Any]:
        """What the child said before it ended; nothing of one that was killed."""
        heard = self.heard()
        if "ended" in heard:
            return {"killed": True}
        self.heard()
        return heard

    def train(self, **changes: Any) -> dict[str, Any]:
        """What came of a training."""
        self.begin(**changes)
        return self.end()

    def kill(self, child: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@contextlib.contextmanager
def victims(before: Sequence[str] = (), base: Path | None = None) -> Iterator[Victims]:
    """A process to train in; ``before``: a command that starts it in other circumstances."""
    python, _ = harness.ensure_environment()
    with contextlib.ExitStack() as stack:
        if base is None:
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        read, write = os.pipe()
        says = stack.enter_context(os.fdopen(read, "rb"))
        log = stack.enter_context((base / "victim.log").open("w"))
        process = subprocess.Popen(
            [*before, str(python), "-I", str(VICTIM), str(base)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[write],
            env={**os.environ, "VICTIM_SAYS": str(write), "OMP_NUM_THREADS": "1"},
        )
        os.close(write)
        found = Victims(process, says, base)
        try:
            assert found.heard() == {"ready": True}
            yield found
        finally:
            process.stdin.close()
            process.kill()
            process.wait()


def small_disk(base: Path, size: str) -> list[str]:
    """The start of a command that runs with an output folder of this size under ``base``; nothing where that is not allowed."""
    (base / "output").mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0/output" && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(base)]
    if shutil.which(command[0]) is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        return []
    return command


def broken_files(folder: Path) -> list[str]:
    """Files that show up under their names and cannot be read."""
    broken = []
    for path in folder.rglob("*.safetensors"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue  # in the making when the process ended; hidden from lists
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    file.get_tensor(name)
        except SafetensorError as error:
            broken.append(f"{path.name}: {error}")
    return broken
