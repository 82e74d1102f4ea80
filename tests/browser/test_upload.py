"""New files come into the nodes: the upload of Load Motion Clip takes every film, R renews every list of files, in both renderers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import harness  # noqa: E402
import page  # noqa: E402

CASES = Path(__file__).resolve().parents[1] / "cases" / "offered_but_unreadable"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Client]:
    reason = page.missing_tools()
    if reason:
        (pytest.fail if os.environ.get("SPECTRAL_MOTION_NO_SKIP") else pytest.skip)(reason)
    python, host = harness.ensure_environment()
    with harness.serve(python, host, base=tmp_path_factory.mktemp("base")) as client:
        yield client


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "nodes2.0"])
def test_films_of_any_kind_can_be_chosen_and_dropped_and_run(server, vue, tmp_path):
    frames = [Image.new("RGB", (32, 32), (25 * i, 40, 90)) for i in range(9)]
    gif = tmp_path / f"loop{vue:d}.gif"
    frames[0].save(gif, save_all=True, append_images=frames[1:], duration=125)
    film = tmp_path / f"old{vue:d}.wmv"
    film.write_bytes((CASES / "a.wmv").read_bytes())
    ways = [("drop", film), ("choose", gif)]
    short = [("SMA_TrainMotionLoRA", "steps", 1), ("KSampler", "steps", 2)]
    result = page.upload(server, "sprites-motion-transfer", ways, widgets=short, vue=vue)
    dropped, chosen = result["uploads"]
    assert (dropped["status"], dropped["chosen"]) == (200, film.name)
    assert (chosen["status"], chosen["chosen"]) == (200, gif.name)
    assert (server.base / "input" / film.name).read_bytes() == film.read_bytes()
    info = server.object_info()["SMA_LoadMotionClip"]["input"]["required"]["file"][1]
    assert set(chosen["accept"].split(",")) == set(info["clip_suffixes"]) >= {".mp4", ".webm", ".gif", ".mkv", ".mov"}
    assert (dropped["film"], chosen["film"], result["problems"]) == ([64, 64], [32, 32], [])
    assert result["event"] == "execution_success", json.dumps(result, indent=1)


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "nodes2.0"])
def test_r_brings_a_new_lora_into_the_list_of_a_node_that_is_there(server, vue):
    lora = CASES.parent / "all_zero_lora" / "b_zero.safetensors"
    into = server.base / "models" / "loras" / f"new{vue:d}.safetensors"
    into.parent.mkdir(exist_ok=True)
    lists = page.refresh(server, "sprites-motion-transfer", "SMA_LoadMotionLoRA", "source.file", lora, into, vue=vue)
    assert into.name not in lists["before"]
    assert into.name in lists["after"] and lists["unfolded"] == lists["after"]
    assert lists["problems"] == []
