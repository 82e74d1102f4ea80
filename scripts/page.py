"""The host's web page, driven in a real browser: opening templates, and the API format the page makes of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from comfy_server import PACK_FOLDER, Client
from environment import CACHE, ROOT, HarnessError, ensure_playwright, find_chromium

WORKFLOWS = ROOT / "workflows"
TWINS = ROOT / "tests" / "workflows"
DRIVER = ROOT / "tests" / "browser" / "driver.cjs"
SCREENSHOTS = CACHE / "screenshots"


def missing_tools() -> str | None:
    """Why no page can be driven on this machine, or None where it can."""
    if find_chromium() is None:
        return "no Chromium on this machine"
    if shutil.which("node") is None:
        return "no Node.js on this machine"
    if ensure_playwright() is None:
        return "no npm on this machine, and playwright-core is not installed yet"
    return None


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


def reports_of_template(
    client: Client,
    name: str,
    screenshots: Path,
    *,
    nodes_2: bool = False,
    pack: str = PACK_FOLDER,
    timeout: float = 300,
) -> dict[str, Any]:
    """Run a sprites template with few steps, run it again, cancel a third run, reload the page, and read what stands on its nodes.

    Returns {"seen": {moment: {node type: {"report", "warnings", "height", "seen"}}}, "events": how the runs ended, "before" and
    "after": saved widget values and prompt inputs, "problems"}. nodes_2: in the page's newer renderer.
    """
    screenshots.mkdir(parents=True, exist_ok=True)
    job = {"action": "reports", "url": client.url, "pack": pack, "template": name, "screenshots": str(screenshots)}
    job["settings"] = {"Comfy.VueNodes.Enabled": nodes_2}
    return _drive(job | {"timeout": timeout}, timeout * 4)


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
