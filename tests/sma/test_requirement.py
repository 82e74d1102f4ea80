"""What a user reads where a library is missing, too old or broken, and the command that changes nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from sma.networks.requirement import require, specifier


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a library before all others: its version, and the code of its module, if it has one."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, version: str, code: str | None = None) -> None:
        record = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if code is not None:
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(code)
            for module in [module for module in sys.modules if module.partition(".")[0] == name]:
                monkeypatch.delitem(sys.modules, module)

    return install


def message(module: str = "diffusers.models.embeddings") -> str:
    with pytest.raises(ImportError) as caught:
        require(module, "AnimateDiff")
    return str(caught.value)


def test_a_missing_library_is_asked_for_by_one_command(installed, monkeypatch):
    installed("huggingface-hub", "0.36.2")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(sys, "executable", "/opt/comfy/bin/python")
    alone = " -s" if sys.flags.no_user_site else ""
    assert message() == (
        f'AnimateDiff needs diffusers, which is not installed. Run /opt/comfy/bin/python{alone} -m pip install "diffusers>=0.31,<0.36" '
        "and restart ComfyUI."
    )


def test_one_that_is_too_old_is_named(installed):
    installed("diffusers", "0.30.3", "raise AssertionError('not to be imported')")
    assert message().startswith("AnimateDiff needs diffusers 0.31 or newer, and 0.30.3 is installed. Run ")


@pytest.mark.parametrize(
    "code", ["raise RuntimeError('no hub\\nmore')", "import missing_part_of_it", "raise AttributeError('x')"]
)
def test_one_that_fails_to_import_is_a_sentence(installed, code):
    installed("diffusers", "0.42.1", code)
    text = message()
    assert text.startswith("AnimateDiff needs diffusers, and the installed 0.42.1 fails to import (")
    assert text.endswith('" and restart ComfyUI.') and "\n" not in text


@pytest.mark.parametrize(
    ("hub", "expected"),
    [
        ("0.26.5", "diffusers>=0.31,<0.33"),
        ("0.30.0", "diffusers>=0.31,<0.35"),
        ("0.34.0", "diffusers>=0.31,<0.36"),
        ("0.36.2", "diffusers>=0.31,<0.36"),
        ("2.4.0", "diffusers>=0.31,<0.36"),
    ],
)
def test_what_pip_is_asked_for_fits_the_hub_library_that_is_there(installed, hub, expected):
    installed("huggingface-hub", hub)
    assert specifier("diffusers") == expected


def test_the_command_fits_how_this_python_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(sys, "executable", r"C:\Comfy UI\python_embeded\python.exe")
    alone = " -s" if sys.flags.no_user_site else ""
    assert rf'Run "C:\Comfy UI\python_embeded\python.exe"{alone} -m pip install "diffusers>=' in message()
    monkeypatch.setitem(sys.modules, "pip", None)
    assert r'Run uv pip install --python "C:\Comfy UI\python_embeded\python.exe" "diffusers>=' in message()


def test_stand_ins_and_broken_records_of_other_packs_are_a_sentence_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    record = tmp_path / "diffusers-0.30.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: diffusers\n")
    stand_in = ModuleType("diffusers")
    monkeypatch.setitem(sys.modules, "diffusers", stand_in)
    monkeypatch.delitem(sys.modules, "diffusers.models", raising=False)
    monkeypatch.delitem(sys.modules, "diffusers.models.embeddings", raising=False)
    monkeypatch.setattr(sys, "executable", None)
    assert stand_in.__spec__ is None
    text = message()
    assert text.startswith("AnimateDiff needs diffusers, and the installed one fails to import (")
    assert "Run python" in text
