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

# What requirements.txt installs has to be enough for these.
WITHOUT_DIFFUSERS = f"""
import sys

for library in ("diffusers", "transformers", "huggingface_hub"):
    sys.modules[library] = None
sys.path.insert(0, {str(ROOT)!r})
import torch
from sma.networks.animatediff import unet_motion_config
from sma.networks.unet3d import build_unet3d
from sma.sprites.model import latent_shape, load_sprites

model = load_sprites()
context = model.prompt.encode(["red square on plain"])
loss = model.denoise(torch.randn(latent_shape(1)), torch.ones(1), context).square().mean()
loss.backward()
assert model.unet.conv_in.weight.grad.abs().max() > 0
small = {{"block_out_channels": [8], "down_block_types": ["DownBlock3D"], "up_block_types": ["UpBlock3D"], "norm_num_groups": 4,
         "attention_head_dim": 4, "cross_attention_dim": 6, "layers_per_block": 1, "fps_cond": True}}
video = build_unet3d(small)(torch.randn(1, 4, 2, 4, 4), torch.tensor([3]), torch.randn(1, 2, 6))
assert video.shape == (1, 4, 2, 4, 4)
try:
    unet_motion_config({{}}, {{}})
except ImportError as error:
    sys.stdout.write(str(error))
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


def test_sprites_and_unet3d_run_without_diffusers_and_animatediff_says_what_it_needs(tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT_DIFFUSERS], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("AnimateDiff needs diffusers, which is not installed. Run ")


def test_only_one_function_asks_for_diffusers():
    found = {path.name for room in ("sma", "nodes") for path in python_files(room) if _imports_diffusers(path)}
    assert found == set()


def _imports_diffusers(path: Path) -> bool:
    return any(name.partition(".")[0] in ("diffusers", "transformers") for name in absolute_imports(path))


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
