"""The arrows between the rooms run one way: nodes -> nodes/host -> sma."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = ("comfy", "comfy_api", "comfy_extras", "execution", "folder_paths", "nodes", "server")

IMPORT_ALL = f"""
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HOST!r}:
            raise ImportError(f"sma imported {{name}} of the host")

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {str(ROOT)!r})
import sma
names = [info.name for info in pkgutil.walk_packages(sma.__path__, "sma.", onerror=importlib.import_module)]
for name in names:
    importlib.import_module(name)
for heavy in ("diffusers", "pytorch_wavelets", "transformers"):
    if heavy in sys.modules:
        sys.exit(f"importing sma loads {{heavy}}; import it inside the function that needs it")
sys.stdout.write("\\n".join(names))
"""


def absolute_imports(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it, by absolute name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return names


def python_files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def test_all_of_sma_imports_without_the_host_and_without_heavy_libraries(tmp_path):
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"sma.losses", "sma.prediction", "sma.residuals", "sma.spectral", "sma.wavelets"} <= set(done.stdout.split())


@pytest.mark.parametrize("path", python_files("sma"), ids=lambda path: str(path.relative_to(ROOT)))
def test_sma_never_imports_the_host(path):
    assert not {name for name in absolute_imports(path) if name.split(".")[0] in HOST}


@pytest.mark.parametrize("path", python_files("nodes"), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_nodes_host_touches_the_internals_of_comfy(path):
    if (ROOT / "nodes" / "host") in path.parents:
        return
    assert not {name for name in absolute_imports(path) if name.split(".")[0] == "comfy"}


@pytest.mark.parametrize(
    "path", python_files("sma") + python_files("nodes"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_our_modules_import_each_other_relatively(path):
    """The host imports the pack under a name of its own, and has a module called nodes."""
    assert not {name for name in absolute_imports(path) if name.split(".")[0] in ("sma", "nodes")}
