"""What attacks need, and their counts at the end of a session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from rule import COUNTS, Field  # noqa: E402
from world import World  # noqa: E402


@pytest.fixture(scope="module")
def world(host) -> Iterator[World]:
    made = World(host)
    made.furnish()
    yield made
    made.clear()


@pytest.fixture
def field(world) -> Field:
    return Field(world)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS.worked or COUNTS.refused:
        terminalreporter.section("attacks")
        for line in COUNTS.lines():
            terminalreporter.write_line(line)
