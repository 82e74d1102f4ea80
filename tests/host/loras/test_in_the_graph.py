"""Save and Load Motion LoRA in a real server: the trained one, its file, and what the page is told when it does not fit."""

from __future__ import annotations

import os

import av
import pytest
import torch
from safetensors.torch import save_file
from template import by_type, short_template, video_of


def wearing(source: dict, **changes) -> dict:
    """The template with Load Motion LoRA in the place of the host's loader."""
    graph = short_template()
    (key,) = [key for key, node in graph.items() if node["class_type"] == "LoraModelLoader"]
    model = graph[key]["inputs"]["model"]
    inputs = {
        "strength": 1.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "first_frame": 0,
        "last_frame": -1,
        "apply": "auto",
    }
    graph[key] = {"class_type": "SMA_LoadMotionLoRA", "inputs": {"model": model, **source, **inputs} | changes}
    return graph


def frames(path) -> list[bytes]:
    """The pictures of a video, without the workflow the host writes into the file."""
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in video.decode(video=0)]


def cached(result) -> set[str]:
    return {node for kind, data in result.messages if kind == "execution_cached" for node in data["nodes"]}


def node_of(graph: dict, kind: str) -> str:
    (key,) = [key for key, node in graph.items() if node["class_type"] == kind]
    return key


@pytest.fixture(scope="module")
def trained() -> dict:
    return {"source": "trained", "source.lora": [node_of(short_template(), "SMA_TrainMotionLoRA"), 0]}


def test_the_trained_lora_is_worn_everywhere_and_in_ranges(server, trained):
    plain = short_template()
    expected = server.run(plain)
    assert expected.status == "success", expected.messages
    ours = wearing(trained)
    result = server.run(ours)
    assert result.status == "success", result.messages
    wanted = frames(video_of(expected, plain, server))
    assert frames(video_of(result, ours, server)) == wanted
    ranged = wearing(trained, end_percent=0.6, first_frame=2, last_frame=5)
    result = server.run(ranged)
    assert result.status == "success", result.messages
    assert frames(video_of(result, ranged, server)) != wanted


def test_a_saved_file_is_worn_cached_and_read_again_when_it_changes(server, trained):
    saving = wearing(trained)
    saving["save"] = {
        "class_type": "SMA_SaveMotionLoRA",
        "inputs": {"lora": trained["source.lora"], "filename_prefix": "worn", "format": "kohya"},
    }
    assert server.run(saving).status == "success"
    (path,) = (server.base / "output" / "loras").glob("worn*")
    graph = wearing({"source": "file", "source.file": path.name})
    key = node_of(graph, "SMA_LoadMotionLoRA")
    first = server.run(graph)
    assert first.status == "success", first.messages
    assert key not in cached(first)
    assert key in cached(server.run(graph))
    os.utime(path, (1, 1))
    assert key not in cached(server.run(graph))


def test_the_page_is_told_why_a_lora_does_not_fit(server, trained):
    folder = server.base / "output" / "loras"
    folder.mkdir(exist_ok=True)
    key = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {f"{key}.lora_A.weight": torch.ones(2, 3), f"{key}.lora_B.weight": torch.ones(3, 2)}, folder / "wan.safetensors"
    )
    result = server.run(wearing({"source": "file", "source.file": "wan.safetensors"}))
    assert result.status == "error"
    (error,) = [data for kind, data in result.messages if kind == "execution_error"]
    assert error["exception_message"].strip() == (
        "wan.safetensors was made for Wan (blocks.0.self_attn.q, ...); this model is UNet3D. Load the model it was trained on."
    )


def test_the_picker_lists_saved_loras(server):
    (server.base / "output" / "loras").mkdir(exist_ok=True)
    (server.base / "output" / "loras" / "listed.safetensors").write_bytes(b"")
    source = server.object_info()["SMA_LoadMotionLoRA"]["input"]["required"]["source"]
    (file,) = [option for option in source[1]["options"] if option["key"] == "file"]
    assert "listed.safetensors" in str(file)


def test_workflows_saved_before_the_format_existed_still_run(server):
    graph = short_template()
    assert "format" in server.object_info()["SMA_SaveMotionLoRA"]["input"]["optional"]
    graph["save"] = {
        "class_type": "SMA_SaveMotionLoRA",
        "inputs": {
            "lora": [node_of(graph, "SMA_TrainMotionLoRA"), 0],
            "filename_prefix": "old",
            "prompt": "",
            "fps": 0.0,
        },
    }
    assert by_type(graph)["SMA_SaveMotionLoRA"]
    assert server.run(graph).status == "success"
