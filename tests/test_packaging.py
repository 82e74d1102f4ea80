"""What users get: the registry's own checks, the shipped files, and the house rules a machine can read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

import harness  # noqa: E402
import make_templates  # noqa: E402

SHIPPED_FILES = {"LICENSE", "README.md", "__init__.py", "pyproject.toml", "requirements.txt"}
SHIPPED_FOLDERS = {"clips", "nodes", "sma", "web", "workflows"}
LARGEST_ARCHIVE = 8_000_000  # bytes
# What is installed beside a host, old and new, without and with the diffusers of another pack.
OLD_HOST = {
    "torch": "2.8.0",
    "numpy": "1.26.4",
    "transformers": "4.57.3",
    "huggingface-hub": "0.36.2",
    "safetensors": "0.6.2",
}
NEW_HOST = {
    "torch": "2.13.0",
    "numpy": "2.4.6",
    "transformers": "5.24.0",
    "huggingface-hub": "2.4.0",
    "safetensors": "0.8.0",
}
HOST_ENVIRONMENTS = {
    "oldest": OLD_HOST
    | {"torch": "2.4.1", "transformers": "4.50.3", "huggingface-hub": "0.26.5", "safetensors": "0.4.3"},
    "old": OLD_HOST,
    "new": NEW_HOST,
    "old with diffusers": OLD_HOST | {"diffusers": "0.35.2"},
    "new with diffusers": NEW_HOST | {"diffusers": "0.42.1"},
}
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
    assert archive.stat().st_size <= LARGEST_ARCHIVE
    # What the tests' servers run is what users get.
    assert names == {file.as_posix() for file in harness.shipped_files()}


def test_the_host_finds_exactly_one_folder_of_templates():
    folders = {file.parts[0] for file in harness.shipped_files()} & TEMPLATE_FOLDERS
    assert folders == {"workflows"}


def test_the_templates_are_what_their_script_writes():
    written = make_templates.templates(make_templates.read_base())
    committed = {path.stem: json.loads(path.read_text()) for path in make_templates.WORKFLOWS.glob("*.json")}
    assert committed == written, "run `python scripts/harness.py run scripts/make_templates.py`"


def project() -> str:
    """pyproject.toml, as text: Python 3.10 has no reader for it."""
    return (ROOT / "pyproject.toml").read_text()


def requirements() -> list[str]:
    return (ROOT / "requirements.txt").read_text().split()


def test_both_lists_of_requirements_agree():
    dependencies = json.loads(re.search(r"^dependencies = (\[.*\])$", project(), re.MULTILINE)[1])
    assert sorted(requirements()) == sorted(dependencies)


def test_requirements_leave_the_hosts_own_packages_and_newer_ones_alone():
    """An upper bound downgrades what another pack brought, a package of the host's may bring versions that the host cannot read."""
    for line in requirements():
        assert re.fullmatch(r"[\w-]+>=[\d.]+", line), line
        assert line.partition(">")[0].lower() not in {*NEW_HOST, "diffusers", "accelerate", "peft"}, line


@pytest.fixture(params=HOST_ENVIRONMENTS)
def environment(request, tmp_path) -> tuple[str, dict[str, str]]:
    """(interpreter, versions by package) of an environment that holds, for pip and uv, a host's packages."""
    there = HOST_ENVIRONMENTS[request.param]
    venv.create(tmp_path / "environment", with_pip=False)
    python = (
        next((tmp_path / "environment").glob("bin/python"))
        if os.name != "nt"
        else tmp_path / "environment/Scripts/python.exe"
    )
    site_packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for name, version in there.items():
        record = Path(site_packages) / f"{name.replace('-', '_')}-{version}.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (record / "RECORD").write_text("")
    return str(python), there


def test_installing_the_requirements_changes_no_package_of_a_host(environment, tmp_path):
    python, there = environment
    report = tmp_path / "report.json"
    options = ["--dry-run", "--quiet", "--report", str(report), "-r", "requirements.txt"]
    result = tool(sys.executable, "-m", "pip", "--python", python, "install", *options)
    assert result.returncode == 0, result.stderr
    plan = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    planned = {item["name"].lower().replace("_", "-"): item["version"] for item in plan}
    assert {"pytorch-wavelets", "pywavelets"} <= planned.keys()
    assert not planned.keys() & there.keys(), planned


def test_nor_does_manager_which_installs_line_by_line_with_uv(environment):
    python, there = environment
    for line in requirements():
        assert_uv_only_adds(python, line, there)


@pytest.mark.parametrize("environment", ["oldest", "old", "new"], indirect=True)
def test_nor_does_the_command_that_brings_diffusers(environment):
    python, there = environment
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sma.networks.requirement import specifier; print(specifier('diffusers'))"
    specifier = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert_uv_only_adds(python, specifier, there)


def assert_uv_only_adds(python: str, requirement: str, there: dict[str, str]) -> None:
    result = tool("uv", "pip", "install", "--dry-run", "--python", python, requirement)
    assert result.returncode == 0, result.stderr
    changes = re.findall(r"^ ([-+~]) ([\w-]+)==", result.stderr, re.MULTILINE)
    assert changes, result.stderr
    assert {sign for sign, _ in changes} == {"+"}, result.stderr
    assert not {name for _, name in changes} & there.keys(), result.stderr


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
