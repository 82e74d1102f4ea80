"""The pack's door: on too old a ComfyUI it says so in one line and loads nothing; everywhere it names one number."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

import environment  # noqa: E402

V3 = ["comfy_api", "comfy_api.latest"]


def enter(monkeypatch: pytest.MonkeyPatch, version: object, modules: list[str] = V3) -> ModuleType:
    """The pack as a host of that version imports it, with a stand-in for its nodes; version None: the host has no such file."""
    monkeypatch.setattr(
        sys, "path", [entry for entry in sys.path if not (Path(entry) / "comfyui_version.py").is_file()]
    )
    for name in ["comfy", "comfy.utils", *modules, "comfyui_version", "door.nodes"]:
        module = ModuleType(name)
        module.__spec__ = importlib.util.spec_from_loader(name, None)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["door.nodes"].comfy_entrypoint = "entry point"
    sys.modules["comfyui_version"].__version__ = version
    if version is None:
        monkeypatch.delitem(sys.modules, "comfyui_version")
    spec = importlib.util.spec_from_file_location("door", ROOT / "__init__.py", submodule_search_locations=[])
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "door", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "version", ["0.20.1", "0.20.2", "0.30.0", "0.46.0", "1.0.0", "0.33.0+40", "v0.33.0-40-g1a2b3c4", "unknown", 7, None]
)
def test_a_host_that_is_new_enough_gets_the_nodes(version, monkeypatch, caplog):
    door = enter(monkeypatch, version)
    assert door.comfy_entrypoint == "entry point" and (ROOT / door.WEB_DIRECTORY).is_dir()
    assert caplog.records == []


@pytest.mark.parametrize("version", ["0.3.64", "0.18.2", "0.20.0", "0.9.0", "v0.18.2-3-g1a2b3c4", "0.18.2+12"])
def test_a_host_that_is_too_old_gets_one_line_and_no_node(version, monkeypatch, caplog):
    assert refusal(enter(monkeypatch, version), caplog) == f"Spectral Motion needs ComfyUI ≥ 0.20.1, this is {version}."


@pytest.mark.parametrize("modules", [[], ["comfy_api"]], ids=["none", "without V3"])
def test_a_host_that_tells_no_version_is_too_old_without_the_nodes_interface(modules, monkeypatch, caplog):
    for name in V3:
        monkeypatch.delitem(sys.modules, name, raising=False)
    sentence = refusal(enter(monkeypatch, None, modules), caplog)
    assert sentence == "Spectral Motion needs ComfyUI ≥ 0.20.1, this is older than 0.3.48."


def refusal(door: ModuleType, caplog: pytest.LogCaptureFixture) -> str:
    """The first sentence that the door logged, which must be an error with a remedy, and all that happened."""
    assert not hasattr(door, "comfy_entrypoint") and not hasattr(door, "WEB_DIRECTORY")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and record.exc_info is None
    sentence, remedy = re.match(r"(.*?\.) (.*)", record.getMessage()).groups()
    assert remedy.startswith("Update ComfyUI")
    return sentence


def test_without_a_host_the_folder_can_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "comfy", None)
    spec = importlib.util.spec_from_file_location("door", ROOT / "__init__.py", submodule_search_locations=[])
    door = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(door)
    assert not hasattr(door, "comfy_entrypoint")


def test_door_project_readme_and_the_host_that_a_test_boots_name_one_number(monkeypatch):
    oldest = enter(monkeypatch, "1.0.0").OLDEST_HOST
    assert f'\nrequires-comfyui = ">={oldest}"\n' in (ROOT / "pyproject.toml").read_text()
    assert f"Needs ComfyUI {oldest} or newer" in (ROOT / "README.md").read_text()
    # tests/host/test_oldest_host.py boots the project's number.
    assert oldest in environment.ARCHIVES
