"""The rule by which the answer to every attack is judged, and the counts of the answers."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
WORKED, REFUSED, LAST_RESORT = "worked", "refused in one sentence", "last resort"
LONGEST = 400  # characters
SLOWEST = 30.0  # seconds; no attack of a working pack takes one
# What belongs into a log and not before a user.
_FOREIGN = {
    "a path of the server": r"(?<![\w.])/(?:tmp|home|root|usr|var|opt|work|mnt|private)/",
    "an exception's name": r"\b[A-Z]\w*(?:Error|Exception|Warning|Interrupt)\b",
    "an error number": r"\[?Errno|os error \d",
    "a traceback": r"Traceback|File \"|, line \d+, in ",
    "a Python object": r"<class|<module|<function| object at 0x|NoneType|tensor\(|torch\.|dtype|positional argument",
    "a library's words": r"(?i)deserializing|invalid ?header|missing key|invalid load key|unpickl|patches welcome|Invalid data found|avcodec",
}


class Hung(BaseException):
    """An attack took longer than any may."""


@dataclass
class Counts:
    """How many attacks ended how; ``wrong`` holds a line about each that broke the rule."""

    worked: int = 0
    refused: int = 0
    last_resort: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, label: str, verdict: str) -> str:
        """Counts a verdict of :func:`judge` and returns it."""
        if verdict == WORKED:
            self.worked += 1
        elif verdict == REFUSED:
            self.refused += 1
        else:
            (self.last_resort if verdict.startswith(LAST_RESORT) else self.wrong).append(f"{label}: {verdict}")
        return verdict

    def lines(self) -> list[str]:
        """The closing counts, and what was wrong."""
        total = self.worked + self.refused + len(self.last_resort) + len(self.wrong)
        counts = f"{total} attacks: {self.worked} worked, {self.refused} refused in one sentence"
        counts += f", {len(self.last_resort)} ended in the last resort, {len(self.wrong)} broke the rule"
        return [counts, *self.last_resort, *self.wrong]


# Of the whole session, told at its end.
COUNTS = Counts()


def judge(error: BaseException | str | None, base: Path) -> str:
    """WORKED, REFUSED, or what is wrong with an answer.

    Args:
        error: what ended the node, or what the page shows of it.
        base: the server's folder, of which no message speaks.
    """
    if error is None:
        return WORKED
    said = str(error).strip()
    if isinstance(error, Hung):
        return f"hung for {SLOWEST:.0f} s"
    if "stopped on an unexpected error" in said:
        return f"{LAST_RESORT}: {said}"
    if isinstance(error, BaseException) and not isinstance(
        error, ValueError | ImportError | RuntimeError | MemoryError
    ):
        return f"raw {type(error).__name__}: {said[:300]}"
    if fault := fault_of(said, base):
        return f"{fault}: {type(error).__name__ if isinstance(error, BaseException) else ''} {said[:600]!r}"
    return REFUSED


def fault_of(said: str, base: Path) -> str:
    """Why a message is no sentence for a user; "" where it is one."""
    if not said:
        return "an empty message"
    if len(said.splitlines()) > 1:
        return "more than one line"
    if len(said) > LONGEST:
        return f"{len(said)} characters"
    if not said.endswith("."):
        return "no full stop"
    if any(str(place) in said for place in (base, ROOT, sys.prefix)):
        return "a path of the server"
    return next((f"holds {name}" for name, pattern in _FOREIGN.items() if re.search(pattern, said)), "")


@contextmanager
def in_time() -> Iterator[None]:
    """Raises Hung in what takes too long; the process is ended where not even that helps."""

    def late(*_: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SLOWEST)
    faulthandler.dump_traceback_later(10 * SLOWEST, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


class Field:
    """Runs attacks in the host's process and looks at what they left behind.

    Args:
        world: what is attacked.
        counts: where the verdicts go.
    """

    def __init__(self, world: Any, counts: Counts = COUNTS) -> None:
        self.world, self.counts, self.base = world, counts, Path(world.host.base)
        self.failures: list[str] = []
        self.last = ""  # what the last refusal said
        self.model = self.model_now()
        self.files = self.files_now()

    def attack(self, label: str, act: Callable[[], Any], *, look: bool = True) -> str:
        """The verdict on one attack; ``look`` at the MODEL and the files as well."""
        error: BaseException | None = None
        try:
            with in_time():
                act()
        except (Exception, Hung) as caught:  # noqa: BLE001  every one of them is judged
            error = caught
            self.last = str(caught)
        verdict = judge(error, self.base)
        del error
        if look and (harm := self.harm()):
            verdict = harm
        self.counts.add(label, verdict)
        if verdict not in (WORKED, REFUSED):
            self.failures.append(f"{label}: {verdict}")
        return verdict

    def check(self) -> None:
        """Fails with all that was wrong since the last time."""
        failures, self.failures = self.failures, []
        assert not failures, f"{len(failures)} broke the rule:\n" + "\n".join(failures)

    def harm(self) -> str:
        """What an attack left behind that it must not; "" for nothing."""
        import comfy.model_management

        if comfy.model_management.in_training:
            return "the host still believes that it trains"
        if self.model_now() != self.model:
            return "the MODEL is another"
        now, before = self.files_now(), self.files
        self.files = now
        if changed := sorted(str(path) for path in now.keys() | before.keys() if now.get(path) != before.get(path)):
            return f"files changed outside output/ and temp/: {', '.join(changed[:5])}"
        return ""

    def model_now(self) -> tuple:
        """Weights, hooks and replaced forwards of the MODEL."""
        module = self.world.model.model
        weights = [
            (name, id(value), zlib.crc32(memoryview(value.detach().numpy())), value.requires_grad)
            for name, value in (*module.named_parameters(), *module.named_buffers())
        ]
        hooked = [
            name
            for name, part in module.named_modules()
            if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or "forward" in vars(part)
        ]
        return weights, hooked, self.world.model.patches_uuid, list(self.world.model.patches)

    def files_now(self) -> dict[Path, tuple[int, int]]:
        """All that lies beside the folders where the pack may write, and beside the server's folder."""
        found = {path: (0, 0) for path in self.base.parent.iterdir()}
        for folder, folders, files in os.walk(self.base):
            place = Path(folder)
            if place == self.base:
                folders[:] = [name for name in folders if name not in ("output", "temp")]
            for name in files:
                facts = (place / name).lstat()
                found[place / name] = facts.st_size, facts.st_mtime_ns
        return found

    def settle(self) -> None:
        """Takes the files as they are now for untouched: a test put some there."""
        self.files = self.files_now()
