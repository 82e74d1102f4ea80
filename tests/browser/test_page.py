"""The real web page: every template opens from its template browser and runs; the committed API twins are its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import harness  # noqa: E402
import page  # noqa: E402

Sights = dict[str, dict[str, Any]]

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
    python, host = harness.ensure_environment()
    with harness.serve(python, host, base=base) as client:
        yield client


def stem(template: Path) -> str:
    return template.stem


def embedded(template: Path) -> bool:
    """Whether a template's model is in the pack."""
    return template.stem.startswith("sprites")


def named_models(template: Path) -> list[dict[str, str]]:
    """Files that the loaders of a template name for download."""
    nodes = json.loads(template.read_text())["nodes"]
    return [model for node in nodes for model in node["properties"].get("models", [])]


@pytest.fixture(scope="session")
def without_files(server: harness.Client) -> Sights:
    """The templates of real models as they open where none of their files is there yet; afterwards all of them are."""
    sights = page.tour(server, [path.stem for path in TEMPLATES if not embedded(path)], screenshots=False)
    for model in (model for template in TEMPLATES for model in named_models(template)):
        # Empty: the page asks for names only, and complains about every file that is missing.
        file = server.base / "models" / model["directory"] / model["name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return sights


@pytest.fixture(scope="session", params=[False, True], ids=["classic", "nodes2.0"])
def vue(request: pytest.FixtureRequest) -> bool:
    """The two ways in which the page draws nodes."""
    return request.param


@pytest.fixture(scope="session")
def sights(server: harness.Client, without_files: Sights, vue: bool) -> Sights:
    """Every template as it opens, with all its files there and nothing run yet."""
    return page.tour(server, [template.stem for template in TEMPLATES], vue=vue)


each_template = pytest.mark.parametrize("template", TEMPLATES, ids=stem)


@pytest.mark.parametrize("template", [path for path in TEMPLATES if not embedded(path)], ids=stem)
def test_a_template_offers_every_file_it_needs(without_files, template):
    needed = {(model["name"], model["directory"], model["url"]) for model in named_models(template)}
    assert len(needed) >= 2
    offered = without_files[template.stem]["models"]
    assert {(model["name"], model.get("directory"), model.get("url")) for model in offered} == needed


@each_template
def test_a_template_opens_whole_from_the_template_browser(sights, template):
    """No node, file or request is missing, and the clip is shown."""
    sight = sights[template.stem]
    assert sight["problems"] == []
    assert set(sight["nodes"]) == {node["type"] for node in json.loads(template.read_text())["nodes"]}
    assert sight["film"], "no film is shown"


@each_template
def test_what_is_shown_on_a_node_does_not_enter_the_prompt(sights, template):
    twin = json.loads(page.twin(template).read_text())
    ours = {number: node["inputs"] for number, node in twin.items() if node["class_type"].startswith("SMA_")}
    assert {number: sights[template.stem]["prompt"][number]["inputs"] for number in ours} == ours


def test_a_portrait_film_does_not_grow_over_the_node_below(server, vue):
    """As the first film that a node shows: it settles the height."""
    with av.open(str(server.base / "input" / "tall.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 320, "yuv420p"
        for shade in range(8):
            picture = np.full((320, 64, 3), 30 * shade, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    steps = [("SMA_LoadMotionClip", "file", "tall.mp4"), "reopen"]
    result = page.run_template(server, "sprites-motion-transfer", steps=steps, vue=vue)
    assert result["problems"] == []
    boxes = {kind: box for kind, *box in result["boxes"]}
    _, top, width, height = boxes["SMA_LoadMotionClip"]
    assert top + height < boxes["VAEEncode"][1]
    assert height > 1.5 * width  # the film has room


def test_a_second_run_with_another_seed_does_not_train_again(server, vue):
    """Nor does one after the page was reloaded. The clip is a folder of images, whose film the pack makes for the page."""
    folder = server.base / "input" / "frames"
    folder.mkdir(exist_ok=True)
    for number in range(8):
        Image.new("RGB", (32, 32), (30 * number, 40, 90)).save(folder / f"{number}.png")
    steps = [("SMA_LoadMotionClip", "file", "frames/"), ("SMA_TrainMotionLoRA", "steps", 2 + vue), "reopen", "run"]
    steps += [("KSampler", "seed", 1), "run", "reload", ("KSampler", "seed", 2), "run", ("KSampler", "seed", 3), "run"]
    result = page.run_template(server, "sprites-motion-transfer", steps=steps, vue=vue)
    assert [run["event"] for run in result["runs"]] == ["execution_success"] * 4, json.dumps(result, indent=1)
    assert result["problems"] == []
    trained = {"SMA_LoadMotionClip", "VAEEncode", "SMA_TrainMotionLoRA"}
    assert [trained & set(run["cached"]) for run in result["runs"][1:]] == [trained] * 3
    assert "SMA_TrainMotionLoRA" not in result["runs"][0]["cached"]
    assert all("KSampler" not in run["cached"] for run in result["runs"])


@pytest.mark.parametrize("template", [path for path in TEMPLATES if embedded(path)], ids=stem)
def test_a_template_of_the_embedded_model_runs(server, template):
    """Those of real models ask for files of gigabytes: tests/host runs their twins on tiny ones. One is trained to its end."""
    shorter = [] if template.stem == "sprites-motion-transfer" else [("SMA_TrainMotionLoRA", "steps", 40)]
    result = page.run_template(server, template.stem, steps=[*shorter, "run"])
    assert (result["event"], result["problems"]) == ("execution_success", []), json.dumps(result, indent=1)


def without_news(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt without what newer pages add: the pack and version of a node, and a codec that Save Video has with each format."""
    return {
        number: {
            "class_type": node["class_type"],
            "title": node["_meta"]["title"],
            "inputs": {name: value for name, value in node["inputs"].items() if name not in ("codec", "format.codec")},
        }
        for number, node in prompt.items()
    }


def test_the_committed_twins_are_what_the_page_would_queue(server):
    prompts = page.api_format(server, TEMPLATES)
    committed = [json.loads(page.twin(template).read_text()) for template in TEMPLATES]
    assert list(map(without_news, committed)) == list(map(without_news, prompts)), (
        "run `python scripts/harness.py twins` after changing a template"
    )


def test_an_unknown_node_is_noticed(server):
    result = page.run_template(server, "unknown_node", pack="broken-templates")
    assert "missing node: NoSuchNode" in result["problems"]
    assert any(problem.startswith("error-overlay: ") for problem in result["problems"])


def test_a_prompt_the_host_refuses_is_noticed(server):
    result = page.run_template(server, "refused_value", pack="broken-templates")
    assert result["event"] == "refused"
    assert "1" in result["detail"]["node_errors"]
