"""The host's web page, driven in a real browser: opening templates, and the API format the page makes of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
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
    client: Client,
    name: str,
    *,
    pack: str = PACK_FOLDER,
    steps: Sequence[str | tuple[str, str, Any]] = ("run",),
    vue: bool = False,
    timeout: float = 1200,
) -> dict[str, Any]:
    """Open a template from the page's template browser and do there what steps say.

    steps: "run" queues the graph, "reopen" opens it as if from a file, "reload" reloads the page, (node type, widget name, value) sets a
    widget. vue: nodes drawn by Nodes 2.0 instead of the classic canvas. timeout: seconds a run may take.

    Returns {"event": "execution_success" | "execution_error" | "execution_interrupted" | "refused" | "timeout" of the last run, or
    "opened", "detail": that event's data, "runs": event, detail and types of the "cached" nodes of each, "nodes": the node types of the
    graph, "boxes": [type, x, y, width, height] of its nodes, "problems": what page or console complained about, and failed requests};
    leaves a screenshot in .harness/screenshots.
    """
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    screenshot = SCREENSHOTS / f"{name}{'-2.0' if vue else ''}.png"
    job = {"action": "run", "url": client.url, "pack": pack, "template": name, "screenshot": str(screenshot)}
    return _drive(job | {"steps": steps, "vue": vue, "timeout": timeout}, timeout + 300)


def upload(
    client: Client,
    name: str,
    ways: Sequence[tuple[str, Path]],
    *,
    pack: str = PACK_FOLDER,
    widgets: Sequence[tuple[str, str, Any]] = (),
    vue: bool = False,
) -> dict[str, Any]:
    """Open a template, bring files to its Load Motion Clip as a user does, and run the graph with the last one.

    ways: ("choose" by the upload button or "drop" on the node, file). widgets: (node type, widget name, value) to set before.

    Returns {"uploads": [{"accept": what the browser's dialogue offers, "status" of the request, "chosen": the node's file, "film":
    width and height of the film that is shown}], "event" and "detail" of the run and "problems" as in run_template}.
    """
    job = {"action": "upload", "url": client.url, "pack": pack, "template": name, "vue": vue, "timeout": 300}
    files = [{"way": way, "file": str(file)} for way, file in ways]
    return _drive(job | {"widgets": list(widgets), "ways": files}, 600)


def refresh(
    client: Client, name: str, node: str, widget: str, file: Path, into: Path, *, vue: bool = False
) -> dict[str, list[str]]:
    """Open a template, add a node and see what R does to the list of one of its widgets when a file was copied meanwhile.

    Returns the list "before", "after" R, and "unfolded" when the choice that unfolds the widget was changed and changed back; and
    "problems" as in run_template.
    """
    job = {"action": "refresh", "url": client.url, "pack": PACK_FOLDER, "template": name, "vue": vue}
    return _drive(job | {"node": node, "widget": widget, "file": str(file), "into": str(into)}, 300)


def tour(
    client: Client, templates: Sequence[str], *, pack: str = PACK_FOLDER, vue: bool = False, screenshots: bool = True
) -> dict[str, dict[str, Any]]:
    """Open templates one after the other, in one page, and show previews of every kind on the pack's nodes.

    Returns by template {"problems", "nodes" as in run_template, "models": files the page misses {name, directory, url}, "film":
    width and height of a film that is shown, or None, "prompt": what the page would queue afterwards}.
    """
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    job = {"action": "tour", "url": client.url, "pack": pack, "templates": list(templates), "vue": vue}
    return _drive(job | {"screenshots": str(SCREENSHOTS) if screenshots else None}, 900)["sights"]


def reports_of_template(
    client: Client,
    name: str,
    screenshots: Path,
    *,
    vue: bool = False,
    pack: str = PACK_FOLDER,
    timeout: float = 300,
) -> dict[str, Any]:
    """Run a sprites template with few steps, run it again, cancel a third run, reload the page, and read what stands on its nodes.

    Returns {"seen": {moment: {node type: {"report", "warnings", "height", "seen"}}}, "events": how the runs ended, "before" and
    "after": saved widget values and prompt inputs, "problems"}. vue: nodes drawn by Nodes 2.0.
    """
    screenshots.mkdir(parents=True, exist_ok=True)
    job = {"action": "reports", "url": client.url, "pack": pack, "template": name, "screenshots": str(screenshots)}
    return _drive(job | {"vue": vue, "timeout": timeout}, timeout * 4)


def api_format(client: Client, workflows: list[Path]) -> list[dict[str, Any]]:
    """UI-format workflow files as prompts in API format, just as the page would queue them."""
    job = {"action": "convert", "url": client.url, "vue": False, "workflows": [str(path) for path in workflows]}
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
