"""What users get: the registry's own checks, the shipped files, and the house rules a machine can read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

import harness  # noqa: E402
import make_templates  # noqa: E402

SHIPPED_FILES = {"LICENSE", "README.md", "__init__.py", "pyproject.toml", "requirements.txt"}
# docs and benchmarks: the pictures and the table the README links to.
SHIPPED_FOLDERS = {"benchmarks", "clips", "docs", "nodes", "sma", "web", "workflows"}
# The host looks for templates in all of these, but serves the files of only the first one it finds.
TEMPLATE_FOLDERS = {"example_workflows", "example", "examples", "workflow", "workflows"}


def tool(*command: str, cwd: Path = ROOT, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment with its output captured, without tracking and away from the user's settings."""
    folder = Path(sys.executable).parent
    environment = {**os.environ, "DO_NOT_TRACK": "1", "NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb"}
    environment["PATH"] = f"{folder}{os.pathsep}{environment['PATH']}"
    if home:
        environment |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "USERPROFILE": str(home)}
    return subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A git repository that tracks the files of this checkout, as the publisher's would."""
    copy = tmp_path_factory.mktemp("published") / "spectral-motion"
    for file in harness.checkout_files():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, copy / file)
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=copy, check=True)
    return copy


def test_the_registry_finds_nothing_to_complain_about(published, tmp_path):
    result = tool("comfy", "--skip-prompt", "node", "validate", cwd=published, home=tmp_path)
    text = result.stdout + result.stderr
    assert "All validation checks passed" in text, text
    # The exit status stays 0 where there are warnings.
    assert not re.search(r"warning|error", text, re.IGNORECASE), text


def test_the_archive_holds_the_pack_and_nothing_else(published, tmp_path):
    result = tool("comfy", "--skip-prompt", "node", "pack", cwd=published, home=tmp_path)
    archive = published / "node.zip"
    assert archive.is_file(), result.stdout + result.stderr
    with zipfile.ZipFile(archive) as content:
        names = {name for name in content.namelist() if not name.endswith("/")}
    top = {name.partition("/")[0] for name in names}
    assert top == SHIPPED_FILES | SHIPPED_FOLDERS
    assert {name for name in names if "/" not in name} == SHIPPED_FILES
    # What the tests' servers run is what users get.
    assert names == {file.as_posix() for file in harness.shipped_files()}


def test_the_host_finds_exactly_one_folder_of_templates():
    folders = {file.parts[0] for file in harness.shipped_files()} & TEMPLATE_FOLDERS
    assert folders == {"workflows"}


def test_the_templates_are_what_their_script_writes():
    written = make_templates.templates(make_templates.read_base())
    committed = {path.stem: json.loads(path.read_text()) for path in make_templates.WORKFLOWS.glob("*.json")}
    assert committed == written, "run `python scripts/harness.py run scripts/make_templates.py`"


def test_both_lists_of_requirements_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert sorted(lines) == sorted(project["dependencies"])


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_is_content(command):
    result = tool("ruff", *command, "--no-cache", ".")
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_file_names_a_path_of_one_machine_or_a_package_registry():
    path = rb"(?<![\w.~$}])/(?:home/\w|Users/\w|root/|work/|tmp/\w|mnt/\w)|[A-Z]:\\\\?Users"
    pattern = re.compile(path + rb"|\b(?:pypi|npmjs|pythonhosted)\.(?:org|com)\b")
    found = []
    for file in harness.checkout_files():
        data = (ROOT / file).read_bytes()
        if b"\0" not in data and file != Path(__file__).relative_to(ROOT):
            found += [f"{file}: {match.group().decode()}" for match in pattern.finditer(data)]
    assert found == []
