"""The shipped graph in a real server: as it is, on real clips, through a native model, cancelled and resumed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from template import by_type, short_template, through_wan, video_of
from tiny_models import write_wan

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT.parent / "shared" / "clips"

needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="no ../shared/clips beside this checkout")


@pytest.fixture
def graph() -> dict:
    return short_template()


@pytest.fixture(params=["man-skiing.mp4", "man_skate/"])
def clip(request, server) -> str:
    """A real clip in the server's input folder: 29.97 fps with data streams, and a folder of images."""
    target = server.base / "input" / request.param
    if not target.exists():
        source = CLIPS / request.param
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    return request.param


def test_the_template_runs_as_it_is_but_shorter(server, graph):
    by_type(graph)["SMA_TrainMotionLoRA"].update(save_every=3, save_prefix="shorter")
    result = server.run(graph)
    assert result.status == "success", result.messages
    assert video_of(result, graph, server).stat().st_size > 1000
    (lora,) = (server.base / "output" / "loras").glob("shorter*")
    with safe_open(lora, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["prompt"], metadata["fps"], metadata["frames"]) == ("red circle on plain", "8.0", "8")


def test_losses_that_core_cannot_plot_do_not_cost_the_video(host, server, graph):
    """One step, or losses that are all the same, here those of a finished run that is taken up once more. Core's plot divides by their range."""
    training = by_type(graph)["SMA_TrainMotionLoRA"]
    (plot,) = [key for key, node in graph.items() if node["class_type"] == "LossGraphNode"]

    def run(**changes):
        training.update(changes)
        by_type(graph)["SaveVideo"]["filename_prefix"] += "_"
        result = server.run(graph)
        assert result.status == "success", result.messages
        assert video_of(result, graph, server).stat().st_size > 1000
        return result

    assert plot not in run(steps=1).outputs
    assert plot not in run().outputs  # the trainer's output is cached by now
    assert plot in run(steps=3, save_every=3, save_prefix="flat").outputs
    files = host.module("sma.files")
    (path,) = (server.base / "output" / "spectral_motion").glob("flat*")
    state = files.load_state(path)
    flat = replace(state, history=tuple(replace(record, loss=0.25) for record in state.history))
    files.save_state(flat, path, files.state_about(path))
    assert plot not in run(resume_from=path.name).outputs


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
    graph = through_wan(graph)
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
    with safe_open(state, framework="pt") as file:
        step = int(file.metadata()["step"])
    assert step >= 1
    training.update(resume_from=state.name, steps=step + 2)
    result = server.run(graph)
    assert result.status == "success", result.messages
    assert f"Stopped at step {step} of 100000" in server.log.read_text(errors="replace")
