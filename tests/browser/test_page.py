"""The real web page: every template opens from its template browser and runs; the committed API twins are its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import harness  # noqa: E402
import page  # noqa: E402

TEMPLATES = sorted(page.WORKFLOWS.glob("*.json"))
# A graph of core nodes; with "batch_size" above its maximum the host refuses it.
PICTURE = {
    "last_node_id": 2,
    "last_link_id": 1,
    "nodes": [
        {
            "id": 1,
            "type": "EmptyImage",
            "pos": [0, 0],
            "size": [300, 130],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
            "properties": {},
            "widgets_values": [64, 64, 1, 255],
        },
        {
            "id": 2,
            "type": "PreviewImage",
            "pos": [400, 0],
            "size": [300, 270],
            "flags": {},
            "order": 1,
            "mode": 0,
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "outputs": [],
            "properties": {},
            "widgets_values": [],
        },
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    "groups": [],
    "config": {},
    "extra": {},
    "version": 0.4,
}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Client]:
    """A server with the pack, and beside it a pack that brings two broken templates."""
    reason = page.missing_tools()
    if reason:
        (pytest.fail if os.environ.get("SPECTRAL_MOTION_NO_SKIP") else pytest.skip)(reason)
    base = tmp_path_factory.mktemp("base")
    broken = base / "custom_nodes" / "broken-templates"
    (broken / "workflows").mkdir(parents=True)
    (broken / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    unknown, refused = (json.loads(json.dumps(PICTURE)) for _ in range(2))
    unknown["nodes"][0]["type"] = "NoSuchNode"
    refused["nodes"][0]["widgets_values"][2] = 10**6
    (broken / "workflows" / "unknown_node.json").write_text(json.dumps(unknown))
    (broken / "workflows" / "refused_value.json").write_text(json.dumps(refused))
    for model in named_models():
        # Empty: the page asks for names only, and complains about every file that is missing.
        file = base / "models" / model["directory"] / model["name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    python, host = harness.ensure_environment()
    with harness.serve(python, host, base=base) as client:
        yield client


def named_models() -> list[dict[str, str]]:
    """Files that the templates' loaders name for download."""
    nodes = [node for template in TEMPLATES for node in json.loads(template.read_text())["nodes"]]
    return [model for node in nodes for model in node["properties"].get("models", [])]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_opens_from_the_template_browser_and_runs(server, template):
    """The embedded model's runs. Those of real models ask for files of gigabytes: tests/host runs their twins on tiny ones."""
    runs = template.stem.startswith("sprites")
    result = page.run_template(server, template.stem, queue=runs)
    outcome = (result["event"], result["problems"])
    assert outcome == ("execution_success" if runs else "opened", []), json.dumps(result, indent=1)
    types = {node["type"] for node in json.loads(template.read_text())["nodes"]}
    assert set(result["nodes"]) == types


def test_the_committed_twins_are_what_the_page_would_queue(server):
    prompts = page.api_format(server, TEMPLATES)
    committed = [json.loads(page.twin(template).read_text()) for template in TEMPLATES]
    assert committed == prompts, "run `python scripts/harness.py twins` after changing a template"


def test_an_unknown_node_is_noticed(server):
    result = page.run_template(server, "unknown_node", pack="broken-templates")
    assert "missing node: NoSuchNode" in result["problems"]
    assert any(problem.startswith("error-overlay: Missing node") for problem in result["problems"])


def test_a_prompt_the_host_refuses_is_noticed(server):
    result = page.run_template(server, "refused_value", pack="broken-templates")
    assert result["event"] == "refused"
    assert "1" in result["detail"]["node_errors"]
