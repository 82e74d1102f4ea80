"""The shipped graph in a real server: as it is, on real clips, through a native model, cancelled and resumed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
from tiny_models import write_wan

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT.parent / "shared" / "clips"
TWIN = ROOT / "tests" / "workflows" / "sprites-motion-transfer.api.json"

needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="no ../shared/clips beside this checkout")


def by_type(graph: dict) -> dict:
    return {node["class_type"]: node["inputs"] for node in graph.values()}


@pytest.fixture
def graph() -> dict:
    """The template with a training of three steps."""
    graph = json.loads(TWIN.read_text())
    by_type(graph)["SMA_TrainMotionLoRA"].update(steps=3, save_every=0)
    by_type(graph)["KSampler"].update(steps=3)
    return graph


@pytest.fixture(params=["man-skiing.mp4", "man_skate/"])
def clip(request, server) -> str:
    """A real clip in the server's input folder: 29.97 fps with data streams, and a folder of images."""
    target = server.base / "input" / request.param
    if not target.exists():
        source = CLIPS / request.param
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    return request.param


def wan(graph: dict) -> dict:
    """The same graph with the model swapped for a native Wan; the sprites CLIP still conditions it."""
    graph = copy.deepcopy(graph)
    unet, vae = "tiny_wan.safetensors", "tiny_wan_vae.safetensors"
    graph["unet"] = {"class_type": "UNETLoader", "inputs": {"unet_name": unet, "weight_dtype": "default"}}
    graph["vae"] = {"class_type": "VAELoader", "inputs": {"vae_name": vae}}
    (sprites,) = [key for key, node in graph.items() if node["class_type"] == "SMA_LoadSpritesModel"]
    for node in graph.values():
        for name, value in node["inputs"].items():
            if value == [sprites, 0]:
                node["inputs"][name] = ["unet", 0]
            elif value == [sprites, 2]:
                node["inputs"][name] = ["vae", 0]
    by_type(graph)["SMA_LoadMotionClip"].update(frame_count=5, width=32, height=32)
    return graph


def video_of(result, graph, server) -> Path:
    (key,) = [key for key, node in graph.items() if node["class_type"] == "SaveVideo"]
    return server.output_file(result.outputs[key]["images"][0])


def test_the_template_runs_as_it_is_but_shorter(server, graph):
    result = server.run(graph)
    assert result.status == "success", result.messages
    assert video_of(result, graph, server).stat().st_size > 1000


@needs_clips
def test_real_clips_through_sprites(server, graph, clip):
    by_type(graph)["SMA_LoadMotionClip"]["file"] = clip
    result = server.run(graph)
    assert result.status == "success", result.messages
    assert video_of(result, graph, server).stat().st_size > 1000


@needs_clips
def test_real_clips_through_a_native_wan(host, server, graph, clip):
    if not (server.base / "models" / "vae" / "tiny_wan_vae.safetensors").exists():
        write_wan(server.base / "models")
    graph = wan(graph)
    by_type(graph)["SMA_LoadMotionClip"]["file"] = clip
    result = server.run(graph)
    assert result.status == "success", result.messages
    assert video_of(result, graph, server).stat().st_size > 1000


def test_cancel_keeps_a_state_that_resumes(server, graph):
    """Interrupted through the host's own button; the next run takes the state and the same cached MODEL."""
    training = by_type(graph)["SMA_TrainMotionLoRA"]
    training.update(steps=100_000, save_prefix="cancelled")

    def interrupt_once_it_runs(event, data):
        if event == "progress" and data["max"] == 100_000 and data["value"] >= 1:
            server.interrupt()

    result = server.run(graph, on_event=interrupt_once_it_runs)
    assert result.event("execution_interrupted"), result.messages
    (state,) = (server.base / "output" / "spectral_motion").glob("cancelled*.safetensors")
    from safetensors import safe_open

    with safe_open(state, framework="pt") as file:
        step = int(file.metadata()["step"])
    assert step >= 1
    training.update(resume_from=state.name, steps=step + 2)
    result = server.run(graph)
    assert result.status == "success", result.messages
    assert f"Stopped at step {step} of 100000" in server.log.read_text(errors="replace")
