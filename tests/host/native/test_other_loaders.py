"""Clips from other loaders than ours, VideoHelperSuite's and core's, through the shipped graph."""

from __future__ import annotations

import pytest
from native_graph import key_of
from template import by_type, short_template, video_of


def without_our_loader() -> dict:
    """The shipped graph of the embedded model with its clip still to come, from the nodes "images" and "rate"."""
    graph = short_template()
    ours = key_of(graph, "SMA_LoadMotionClip")
    del graph[ours]
    for node in graph.values():
        for name, value in node["inputs"].items():
            if value in ([ours, 0], [ours, 1]):
                node["inputs"][name] = ["images", 0] if value == [ours, 0] else ["rate", 0]
    graph["look"] = {"class_type": "SMA_MotionResiduals", "inputs": {"clip": ["images", 0]}}
    return graph


def helper_suite(alpha: bool) -> dict:
    size = {"custom_width": 16, "custom_height": 16, "frame_load_cap": 8, "alpha": alpha}
    return {
        "images": {"class_type": "StandInLoadVideo", "inputs": {"video": "drift.mp4", **size}},
        "rate": {"class_type": "StandInVideoInfo", "inputs": {"video_info": ["images", 3]}},
    }


def core() -> dict:
    scale = {"upscale_method": "area", "width": 16, "height": 16, "crop": "center"}
    return {
        "film": {"class_type": "LoadVideo", "inputs": {"file": "drift.mp4"}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["film", 0]}},
        "first": {"class_type": "ImageFromBatch", "inputs": {"image": ["parts", 0], "batch_index": 0, "length": 8}},
        "images": {"class_type": "ImageScale", "inputs": {"image": ["first", 0], **scale}},
        "rate": {"class_type": "PrimitiveFloat", "inputs": {"value": 8.0}},
    }


@pytest.mark.parametrize(
    "loader", [helper_suite(False), helper_suite(True), core()], ids=["VHS", "VHS with alpha", "core"]
)
def test_a_clip_of_another_loader_is_trained_on_and_looked_at(native_server, loader):
    graph = without_our_loader() | loader
    by_type(graph)["SaveVideo"]["filename_prefix"] = f"other{len(loader)}{'StandInLoadVideo' in str(loader)}"
    result = native_server.run(graph)
    assert result.status == "success", result.messages
    assert video_of(result, graph, native_server).stat().st_size > 1000
    assert len(result.outputs["look"]["images"]) == 4
