"""The harness says at its end what it did not run, and how to run it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

import environment  # noqa: E402
import harness  # noqa: E402
import page  # noqa: E402

ROOM = """
import pytest

@pytest.fixture
def browser():
    pytest.skip("the web page needs a browser; `get browser` brings it")

@pytest.mark.parametrize("template", range(3))
def test_page(browser, template): pass

@pytest.mark.skipif(True, reason="no clips beside this checkout")
def test_clips(): pass

def test_that_runs(): pass
"""


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """Two small rooms instead of the repository's own."""
    (tmp_path / "rooms").mkdir()
    first, second = tmp_path / "rooms" / "first.py", tmp_path / "rooms" / "second.py"
    first.write_text(ROOM)
    second.write_text("def test_that_runs(): pass\n")
    monkeypatch.setattr(harness, "SUITES", [[str(first)], [str(second)]])
    monkeypatch.setattr(harness, "ensure_environment", lambda: (Path(sys.executable), Path()))
    return first, second


def test_the_closing_lines_say_what_was_skipped_and_why(rooms, capfd):
    assert harness.test([]) == 0
    first, second = rooms
    said, *lines = capfd.readouterr().out.rpartition("\n\n")[2].splitlines()
    assert said.startswith(f"{first}: 1 passed, 4 skipped")
    assert lines[:2] == [
        "    3 skipped: the web page needs a browser; `get browser` brings it",
        "    1 skipped: no clips beside this checkout",
    ]
    assert lines[2].startswith(f"{second}: 1 passed")
    assert "4 tests skipped, all others passed" in lines[3]


def test_a_python_that_is_not_there_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setenv("SPECTRAL_MOTION_PYTHON", "no/such/python")
    monkeypatch.setattr(environment, "find_host", Path)
    with pytest.raises(environment.HarnessError, match="SPECTRAL_MOTION_PYTHON is 'no/such/python', which is no file"):
        environment.ensure_environment()


def test_no_test_is_called_left_out_where_all_ran(rooms, monkeypatch, capfd):
    monkeypatch.setattr(harness, "SUITES", [[str(rooms[1])]])
    assert harness.test([]) == 0
    closing = capfd.readouterr().out.rpartition("\n\n")[2]
    assert " skipped" not in closing and "all tests passed" in closing


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        ([], "Chromium or Chrome, no Node.js, no npm; `apt-get install chromium nodejs npm`"),
        (["node", "npm"], "Chromium or Chrome; `apt-get install chromium`"),
        (["google-chrome"], "Node.js, no npm; `apt-get install nodejs npm`"),
        (["chromium", "node"], "npm; `apt-get install npm`"),
        (["chromium", "playwright"], "Node.js; `apt-get install nodejs`"),
        (["chromium", "node", "npm"], None),
        (["chromium", "node", "playwright"], None),
    ],
    ids=lambda value: "+".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_the_command_brings_only_what_is_missing(present, missing, tmp_path, monkeypatch):
    reason = missing_on(tmp_path, monkeypatch, ["apt-get", *present])
    assert reason == (missing and f"this machine has no {missing} brings what is missing")


def test_a_machine_without_debians_packages_reads_the_names_alone(tmp_path, monkeypatch):
    reason = missing_on(tmp_path, monkeypatch, ["node", "npm"])
    assert reason.startswith("this machine has no Chromium or Chrome on its PATH;") and "apt" not in reason


def test_who_is_not_root_asks_for_it(tmp_path, monkeypatch):
    reason = missing_on(tmp_path, monkeypatch, ["apt-get", "chromium", "node"], user=1000)
    assert "`sudo apt-get install npm`" in reason


def missing_on(folder: Path, monkeypatch: pytest.MonkeyPatch, present: list[str], *, user: int = 0) -> str | None:
    """page.missing_tools on a machine that has just these commands."""
    commands = folder / "bin"
    commands.mkdir()
    for command in present:
        (commands / command).touch(mode=0o755)
    if "playwright" in present:
        package = folder / "node" / "node_modules" / "playwright-core" / "package.json"
        package.parent.mkdir(parents=True)
        package.write_text(json.dumps({"version": environment.PLAYWRIGHT.rpartition("@")[2]}))
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.setattr(environment, "CACHE", folder)
    monkeypatch.setattr("os.geteuid", lambda: user, raising=False)
    return page.missing_tools()
