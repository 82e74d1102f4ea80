"""The host's web page, driven in a real browser: opening templates, and the API format the page makes of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from comfy_server import PACK_FOLDER, Client
from environment import CACHE, ROOT, HarnessError, ensure_playwright, find_chromium, missing_browser_tools

WORKFLOWS = ROOT / "workflows"
TWINS = ROOT / "tests" / "workflows"
DRIVER = ROOT / "tests" / "browser" / "driver.cjs"
SCREENSHOTS = CACHE / "screenshots"


def missing_tools() -> str | None:
    """What keeps the page from being driven on this machine and the command that brings it, or None."""
    missing = missing_browser_tools()
    if not missing:
        return None
    names = {"chromium": "Chromium or Chrome", "nodejs": "Node.js", "npm": "npm"}
    lack = f"this machine has no {', no '.join(names[package] for package in missing)}"
    if shutil.which("apt-get") is None:
        return f"{lack} on its PATH; install what is missing"
    as_root = "" if os.geteuid() == 0 else "sudo "
    return f"{lack}; `{as_root}apt-get install {' '.join(missing)}` brings what is missing"


def _drive(job: dict[str, Any], timeout: float) -> dict[str, Any]:
    reason = missing_tools()
    if reason:
        raise HarnessError(f"The page cannot be driven: {reason}.")
    job["chromium"] = find_chromium()
    command = ["node", str(DRIVER), json.dumps(job)]
    environment = {**os.environ, "NODE_PATH": str(ensure_playwright())}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    if result.returncode:
        raise HarnessError(f"The browser driver failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def run_template(
    client: Client, name: str, *, pack: str = PACK_FOLDER, queue: bool = True, timeout: float = 1200
) -> dict[str, Any]:
    """Open a template from the page's template browser and queue it there, or only open it.

    Returns {"event": "execution_success" | "execution_error" | "execution_interrupted" | "refused" | "timeout" | "opened",
    "detail": that event's data, "nodes": the node types of the graph, "problems": what page or console complained
    about}; leaves a screenshot in .harness/screenshots. timeout: seconds the prompt may run.
    """
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    screenshot = SCREENSHOTS / f"{name}.png"
    job = {"action": "run", "url": client.url, "pack": pack, "template": name, "screenshot": str(screenshot)}
    return _drive(job | {"queue": queue, "timeout": timeout}, timeout + 300)


def api_format(client: Client, workflows: list[Path]) -> list[dict[str, Any]]:
    """UI-format workflow files as prompts in API format, just as the page would queue them."""
    job = {"action": "convert", "url": client.url, "workflows": [str(path) for path in workflows]}
    result = _drive(job, 300)
    if result["problems"]:
        raise HarnessError("The page complained:\n" + "\n".join(result["problems"]))
    return result["prompts"]


def twin(workflow: Path) -> Path:
    """Where the API-format twin of a template lives."""
    return TWINS / f"{workflow.stem}.api.json"


def write_twins(client: Client) -> list[Path]:
    """Write the twin of every template; returns the files."""
    workflows = sorted(WORKFLOWS.glob("*.json"))
    TWINS.mkdir(exist_ok=True)
    for workflow, prompt in zip(workflows, api_format(client, workflows), strict=True):
        twin(workflow).write_text(json.dumps(prompt, indent=2) + "\n")
    return [twin(workflow) for workflow in workflows]
