"""A real ComfyUI server with this pack installed, and a small client for its HTTP API."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environment import ROOT, HarnessError

PACK_FOLDER = "spectral-motion"
FLAGS = ["--cpu", "--disable-api-nodes", "--use-pytorch-cross-attention", "--disable-auto-launch"]


def _files(*ignore_files: str) -> list[Path]:
    """The files of this checkout that no pattern of the given ignore files names, relative to the repository root.

    Git is not needed: the patterns are kept to plain names and /anchored names, which fnmatch reads as git does.
    tests/test_packaging.py compares the outcome with that of `comfy node pack`.
    """
    lines = [line.strip() for name in ignore_files for line in (ROOT / name).read_text().splitlines()]
    patterns = ["/.git", *(line for line in lines if line and not line.startswith("#"))]

    def ignored(path: Path) -> bool:
        anchored = "/" + path.relative_to(ROOT).as_posix()
        return any(
            fnmatch.fnmatch(anchored if pattern.startswith("/") else path.name, pattern.rstrip("/"))
            for pattern in patterns
            if path.is_dir() or not pattern.endswith("/")
        )

    def walk(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if not ignored(path):
                yield from walk(path) if path.is_dir() else [path.relative_to(ROOT)]

    return list(walk(ROOT))


def checkout_files() -> list[Path]:
    """The files of the repository, tracked or about to be."""
    return _files(".gitignore")


def shipped_files() -> list[Path]:
    """The files of the pack a user gets."""
    return _files(".gitignore", ".comfyignore")


def install_pack(base: Path) -> Path:
    """Copy the pack into base/custom_nodes as its users have it; returns the folder."""
    target = base / "custom_nodes" / PACK_FOLDER
    shutil.rmtree(target, ignore_errors=True)
    for file in shipped_files():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target / file)
    return target


@dataclass(frozen=True)
class Result:
    """What became of one queued prompt."""

    prompt_id: str
    status: str  # "success" or "error" (an interrupted prompt too)
    messages: list[list[Any]]  # [event name, data], oldest first
    outputs: dict[str, dict[str, Any]]  # by node id: what the node shows

    def event(self, name: str) -> dict[str, Any] | None:
        """The data of the first message of that name: execution_error, execution_cached, ..."""
        return next((data for event, data in self.messages if event == name), None)


class Client:
    """Talks to one running server. Standard library only, except where progress is asked for."""

    def __init__(self, url: str, base: Path, log: Path) -> None:
        self.url, self.base, self.log = url, base, log

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as response:
            return json.load(response)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise HarnessError(f"{path} answered {error.code}: {error.read().decode()}") from error
        return json.loads(text) if text else None

    def object_info(self) -> dict[str, Any]:
        return self.get("/object_info")

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def queue(self, prompt: dict[str, Any], client_id: str | None = None) -> str:
        """Queue a prompt in API format, return its id. A prompt the host refuses raises HarnessError."""
        return self.post("/prompt", {"prompt": prompt, "client_id": client_id or uuid.uuid4().hex})["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600) -> Result:
        """Wait until a queued prompt has ended, well or not."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return Result(prompt_id, entry["status"]["status_str"], entry["status"]["messages"], entry["outputs"])
            time.sleep(0.1)
        raise HarnessError(f"The prompt was not done after {timeout:.0f} s; the server's log is {self.log}.")

    def run(
        self,
        prompt: dict[str, Any],
        *,
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        timeout: float = 600,
    ) -> Result:
        """Queue a prompt and wait for its end.

        on_event gets every message of the host's websocket as (type, data): "progress" {value, max, node}, "executing"
        {node}, "progress_text" is binary and left out like previews.
        """
        if on_event is None:
            return self.wait(self.queue(prompt), timeout)
        import websocket

        client_id = uuid.uuid4().hex
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        with contextlib.closing(websocket.create_connection(address, timeout=timeout)) as socket_:
            prompt_id = self.queue(prompt, client_id)
            while True:
                message = socket_.recv()
                if not isinstance(message, str):
                    continue
                event = json.loads(message)
                on_event(event["type"], event["data"])
                ended = event["type"] in ("execution_success", "execution_error", "execution_interrupted")
                if ended and event["data"].get("prompt_id") == prompt_id:
                    return self.wait(prompt_id, timeout)

    def output_file(self, entry: dict[str, str]) -> Path:
        """The file behind one {filename, subfolder, type} of a result's outputs."""
        return self.base / entry["type"] / entry["subfolder"] / entry["filename"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_up(process: subprocess.Popen, client: Client, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            client.get("/system_stats")
            return
        time.sleep(0.2)
    tail = "\n".join(client.log.read_text(errors="replace").splitlines()[-40:])
    state = "is silent" if process.poll() is None else f"ended with {process.returncode}"
    raise HarnessError(f"The ComfyUI server {state}; its log ends with\n{tail}")


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def unwind_on_signals() -> Iterator[None]:
    """Inside the block a termination is a KeyboardInterrupt, as Ctrl-C is, so that servers are stopped on the way out.

    Ctrl-C is set as well because shells start background jobs with it ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def serve(
    python: Path,
    host: Path,
    *,
    base: Path | None = None,
    pack: bool = True,
    port: int | None = None,
    flags: Sequence[str] = (),
    timeout: float = 180,
) -> Iterator[Client]:
    """A running server with the pack installed, on 127.0.0.1; it is stopped however the block ends.

    base: its base directory (custom_nodes, models, input, output, user); without one a temporary folder is used and
    removed. pack: False leaves custom_nodes as it is. flags: further options of the host's main.py.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(unwind_on_signals())
        if base is None:
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        for name in ("custom_nodes", "models", "input", "output", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        if pack:
            install_pack(base)
        port = port or _free_port()
        command = [python, host / "main.py", *FLAGS, "--port", port, "--base-directory", base]
        command += ["--user-directory", base / "user", "--database-url", "sqlite:///:memory:", *flags]
        log = base / "server.log"
        stream = stack.enter_context(log.open("w"))
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=host,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        stack.callback(_stop, process)
        client = Client(f"http://127.0.0.1:{port}", base, log)
        _wait_until_up(process, client, timeout)
        yield client
