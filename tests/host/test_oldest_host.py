"""The oldest ComfyUI the pack claims to run on: it trains and samples there, through sprites and a native model."""

from __future__ import annotations

import re

import harness
import pytest
from startup import assert_loaded_in_silence
from template import by_type, short_template, through_wan, video_of
from tiny_models import write_wan

PROJECT = (harness.ROOT / "pyproject.toml").read_text()
OLDEST = re.search(r'^requires-comfyui = ">=(.*)"$', PROJECT, re.MULTILINE)[1]


@pytest.fixture(scope="module")
def oldest():
    python, _ = harness.ensure_environment()
    with harness.serve(python, harness.find_host(OLDEST)) as client:
        yield client


def test_the_pack_loads_without_a_word(oldest):
    assert oldest.get("/system_stats")["system"]["comfyui_version"] == OLDEST
    assert any(node_id.startswith("SMA_") for node_id in oldest.object_info())
    assert_loaded_in_silence(oldest)


def test_the_template_trains_and_samples(oldest):
    graph = short_template()
    result = oldest.run(graph)
    assert result.status == "success", result.messages
    assert video_of(result, graph, oldest).stat().st_size > 1000


@pytest.mark.parametrize("leading", ["..", "../models", str(harness.ROOT / "clips" / "red-circle-circling.mp4")])
def test_no_clip_is_read_from_outside_the_hosts_folders(oldest, leading):
    """This host itself lets every name through."""
    graph = short_template()
    by_type(graph)["SMA_LoadMotionClip"]["file"] = leading
    with pytest.raises(harness.HarnessError, match="There is no clip"):
        oldest.queue(graph)


def test_a_native_wan_trains_and_samples(host, oldest):
    write_wan(oldest.base / "models")
    graph = through_wan(short_template())
    result = oldest.run(graph)
    assert result.status == "success", result.messages
    assert video_of(result, graph, oldest).stat().st_size > 1000
