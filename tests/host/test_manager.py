"""The pack through the real ComfyUI Manager: installed from git, run, updated, disabled, uninstalled, in an environment of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import harness
import pytest
from environment import run_quietly
from startup import assert_loaded_in_silence
from template import short_template, video_of

PACK = "ComfyUI-Spectral-Motion"
# Prints what each installed package itself needs, optional extras aside.
NEEDS = """
from importlib.metadata import distributions
for package in distributions():
    print(*(need for need in package.requires or [] if "extra ==" not in need), sep="\\n")
"""


def names(lines: str) -> set[str]:
    """The packages that lines of requirements name."""
    found = (re.match(r"[\w.-]+", line) for line in lines.splitlines())
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in found if name}


class Manager:
    """A ComfyUI with Manager, as a user has it, and the pack's repository behind an address of this machine."""

    def __init__(self, folder: Path, address: str) -> None:
        source_python, host = harness.ensure_environment()
        self.address = f"{address}/{PACK}.git"
        self.source, self.bare = folder / "source", folder / "web" / f"{PACK}.git"
        self.host = folder / "ComfyUI"
        shutil.copytree(host, self.host, ignore=lambda path, entries: private_folders(host, path, entries))
        self.custom_nodes = self.host / "custom_nodes"
        self.custom_nodes.mkdir()
        self.python = copy_environment(source_python, folder / "venv")
        run_quietly([self.python, "-m", "pip", "install", "-q", "-r", self.host / "manager_requirements.txt"])
        # A version that newer releases of huggingface-hub break: an installation that brings one in stops this host from starting.
        run_quietly([self.python, "-m", "pip", "install", "-q", "transformers==4.57.3"])
        wanted = names((harness.ROOT / "requirements.txt").read_text())
        self.own = wanted - names(run_quietly([self.python, "-c", NEEDS]))

    def forget(self) -> dict[str, str]:
        """Take away what only the pack needs; returns what is left, as before an installation."""
        run_quietly([self.python, "-m", "pip", "uninstall", "-q", "-y", *self.own])
        return self.freeze()

    def configure(self, *, use_uv: bool) -> None:
        """Offline: Manager's lists of other packs are not asked for. It falls back on uv by itself where pip is slow to answer."""
        config = self.host / "user" / "__manager" / "config.ini"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(f"[default]\nnetwork_mode = offline\nuse_uv = {use_uv}\n")

    def command(self, *arguments: str) -> str:
        # Without --mode local, which reads the whole registry first.
        environment = os.environ | {"COMFYUI_PATH": str(self.host)}
        return run_quietly([self.python, "-m", "cm_cli", *arguments], env=environment, cwd=self.host)

    def freeze(self) -> dict[str, str]:
        """Every package of the environment and its version."""
        lines = run_quietly([self.python, "-m", "pip", "list", "--format=freeze"]).splitlines()
        pairs = (line.partition("==") for line in lines if "==" in line)
        return {name.lower().replace("_", "-"): version for name, _, version in pairs}

    def publish(self, message: str) -> str:
        """Commit what the source folder holds and put it on the address; returns the commit."""
        git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", self.source]
        run_quietly([*git, "add", "-A"])
        run_quietly([*git, "commit", "-q", "-m", message])
        run_quietly([*git, "push", "-q", self.bare, "HEAD:main"])
        # What a plain file server needs; few files make a quick clone.
        run_quietly(["git", "-C", self.bare, "repack", "-a", "-d", "-q"])
        run_quietly(["git", "-C", self.bare, "update-server-info"])
        return run_quietly([*git, "rev-parse", "HEAD"]).strip()


def private_folders(host: Path, path: str, entries: list[str]) -> list[str]:
    """What a copy of a host leaves behind: models, pictures, settings, other packs."""
    private = {".git", "custom_nodes", "input", "models", "output", "temp", "user"}
    return [entry for entry in entries if Path(path) == host and entry in private]


def copy_environment(python: Path, target: Path) -> Path:
    """A new environment with the packages of another, in hard links: installers replace files, they do not rewrite them."""

    def link(source: str, destination: str) -> None:
        try:
            os.link(source, destination)
        except OSError:
            shutil.copy2(source, destination)

    run_quietly([python, "-m", "venv", "--without-pip", target])
    copy = target / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib')); print(sysconfig.get_path('scripts'))"
    (packages, scripts), (own_packages, own_scripts) = (
        [Path(line) for line in run_quietly([interpreter, "-c", ask]).splitlines()] for interpreter in (python, copy)
    )
    shutil.copytree(packages, own_packages, symlinks=True, copy_function=link, dirs_exist_ok=True)
    for script in scripts.glob("uv*"):
        link(str(script), str(own_scripts / script.name))
    return copy


@pytest.fixture(scope="module")
def manager() -> Iterator[Manager]:
    # Beside the environment it is made from: hard links stay within one file system.
    folder = harness.CACHE / "manager"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "web").mkdir(parents=True)
    handler = partial(QuietHandler, directory=folder / "web")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        manager = Manager(folder, f"http://127.0.0.1:{server.server_port}")
        for file in harness.checkout_files():
            (manager.source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(harness.ROOT / file, manager.source / file)
        run_quietly(["git", "init", "-q", "-b", "main", manager.source])
        run_quietly(["git", "init", "-q", "--bare", "-b", "main", manager.bare])
        manager.publish("first")
        yield manager


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def install(manager: Manager, *, use_uv: bool) -> dict[str, str]:
    """Install the pack; returns the environment's packages, of which none has changed and only the pack's own are new."""
    manager.configure(use_uv=use_uv)
    before = manager.forget()
    said = manager.command("install", manager.address)
    after = manager.freeze()
    assert (manager.custom_nodes / PACK).is_dir(), said
    assert {name: after.get(name) for name in before} == before, said
    assert set(after) - set(before) == manager.own, said
    return after


def test_manager_installs_runs_updates_disables_and_uninstalls_the_pack(manager):
    pack = manager.custom_nodes / PACK
    packages = install(manager, use_uv=False)

    with harness.serve(
        manager.python, manager.host, base=manager.host, pack=False, flags=["--enable-manager"]
    ) as client:
        assert_loaded_in_silence(client, PACK)
        graph = short_template()
        result = client.run(graph)
        assert result.status == "success", result.messages
        assert video_of(result, graph, client).stat().st_size > 1000

    readme = manager.source / "README.md"
    readme.write_text(readme.read_text() + "\nAn update.\n")
    commit = manager.publish("second")
    said = manager.command("update", PACK)
    assert run_quietly(["git", "-C", pack, "rev-parse", "HEAD"]).strip() == commit, said

    said = manager.command("disable", PACK)
    assert not pack.exists() and (manager.custom_nodes / ".disabled" / PACK).is_dir(), said
    said = manager.command("uninstall", PACK)
    assert [path for path in manager.custom_nodes.rglob("*") if path.is_file()] == [], said
    assert manager.freeze() == packages


def test_uv_changes_no_package_either(manager):
    shutil.rmtree(manager.custom_nodes / PACK, ignore_errors=True)
    install(manager, use_uv=True)
