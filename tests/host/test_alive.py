"""Whatever becomes of the folders while the server runs, it lists all nodes and goes on with the next graph.

The server runs without the rights that let root read everything.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess

import harness
import pytest
from listening import is_one_plain_line
from template import by_type, short_template

BRACKETS = "[" * 100_000


def _without_rights() -> list[str]:
    """The start of a command that takes root's rights over files away from what follows."""
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    if shutil.which(command[0]) is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip(
            "root reads every file, and setpriv, which could take that right from the server, is missing or refused"
        )
    return command


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    python, host = harness.ensure_environment()
    starter = tmp_path_factory.mktemp("bin") / "python"
    starter.write_text(f'#!/bin/sh\nexec {" ".join([*_without_rights(), str(python)])} "$@"\n')
    starter.chmod(0o755)
    with harness.serve(starter, host) as client:
        for folder in FOLDERS:
            (client.base / folder).mkdir(parents=True, exist_ok=True)
        (client.base / "models" / "diffusers" / "m").mkdir()
        (client.base / "models" / "loras" / "a.safetensors").write_bytes(b"never read")
        client.ours = [name for name in client.object_info() if name.startswith("SMA_")]
        assert len(client.ours) > 10
        assert _run(client, _graph(training=False)) == "success"
        yield client


FOLDERS = [
    "output/loras",
    "output/spectral_motion",
    "input",
    "models/loras",
    "models/diffusers",
    "models/animatediff_models",
]


@contextlib.contextmanager
def _gone(path):
    away = path.with_name(path.name + " away")
    path.rename(away)
    yield
    if path.is_dir():  # the pack or the host may have made it anew
        shutil.rmtree(path)
    away.rename(path)


@contextlib.contextmanager
def _file_in_its_place(path):
    with _gone(path):
        path.write_bytes(b"x")
        yield
        path.unlink()


@contextlib.contextmanager
def _unreadable(path):
    path.chmod(0)
    yield
    path.chmod(0o755)


def _index(write):
    @contextlib.contextmanager
    def damaged(path):
        write(path)
        yield
        path.unlink()

    return damaged


def _huge(path):
    with path.open("wb") as file:
        file.truncate(50_000_000)


INDEX = "models/diffusers/m/model_index.json"
DAMAGE = [
    *itertools.product(FOLDERS, [_gone, _file_in_its_place, _unreadable]),
    (INDEX, _index(lambda path: path.write_text(BRACKETS))),
    (INDEX, _index(lambda path: path.write_text('{"unet": ' + BRACKETS))),
    (INDEX, _index(_huge)),
    (INDEX, _index(lambda path: path.write_bytes(bytes(range(256))))),
    (INDEX, _index(os.mkfifo)),
    ("models/diffusers/m/again", _index(lambda path: path.symlink_to(path.parent))),
    ("models/diffusers/m/config.json", _index(lambda path: path.write_text('{"_class_name": {"a": 1}}'))),
]

numbers = itertools.count(1)


def _graph(*, training: bool) -> dict:
    """A graph of nodes that list something, made anew each time, so that nothing is cached."""
    clip = {
        "file": "red-circle-circling.mp4 [example]",
        "timing": "fps",
        "timing.fps": 8.0,
        "crop": "centre",
        "folder_fps": 8.0,
    }
    size = {"start": next(numbers) / 1000, "frame_count": 4, "width": 32, "height": 32}
    where = {"start_percent": 0.0, "end_percent": 1.0, "first_frame": 0, "last_frame": -1, "apply": "auto"}
    worn = {"model": ["sprites", 0], "source": "file", "source.file": "a.safetensors", "strength": 0.0}
    graph = {
        "clip": {"class_type": "SMA_LoadMotionClip", "inputs": clip | size},
        "residuals": {"class_type": "SMA_MotionResiduals", "inputs": {"clip": ["clip", 0]}},
        "sprites": {"class_type": "SMA_LoadSpritesModel", "inputs": {}},
        "wear": {"class_type": "SMA_LoadMotionLoRA", "inputs": worn | where},
        "out": {"class_type": "PreviewAny", "inputs": {"source": ["wear", 0]}},
    }
    if training:
        graph = short_template()
        by_type(graph)["SMA_TrainMotionLoRA"].update(steps=1, seed=next(numbers))
    return graph


def _run(server, graph) -> str:
    """Success, or what the server says of a graph that it refuses or cannot run."""
    try:
        result = server.run(graph, timeout=60)
    except harness.HarnessError as error:
        assert " answered 400: " in str(error) and "exception_during" not in str(error), error
        return "refused"
    if result.status == "success":
        return result.status
    said = result.event("execution_error")["exception_message"]
    assert is_one_plain_line(said, server.base), result.messages
    return said


@pytest.mark.parametrize(("folder", "damage"), DAMAGE, ids=lambda part: getattr(part, "__name__", str(part)))
def test_the_server_lists_all_nodes_and_goes_on(weak, folder, damage):
    with damage(weak.base / folder):
        _run(weak, _graph(training=False))
        if folder == "output/loras":
            assert _run(weak, _graph(training=True)) == "success"
        for node in weak.ours:
            assert node in weak.get(f"/object_info/{node}")


def test_it_runs_afterwards_as_before(weak):
    assert _run(weak, _graph(training=False)) == "success"


def test_the_lists_say_what_is_wrong(weak):
    def offered(node, name):
        return json.dumps(weak.get(f"/object_info/{node}")[node]["input"]["required"][name])

    with _unreadable(weak.base / "input"):
        assert '"input cannot be read (permission denied)"' in offered("SMA_LoadOfficialConfig", "file")
        clips = offered("SMA_LoadMotionClip", "file")
        assert '[example]", "input cannot be read (permission denied)"' in clips
    with _unreadable(weak.base / "models" / "diffusers"):
        assert "models/diffusers cannot be read (permission denied)" in offered("SMA_LoadTextToVideoModel", "source")
    with _file_in_its_place(weak.base / "output" / "spectral_motion"):
        assert "start anew" in offered("SMA_TrainMotionLoRA", "resume_from")
    assert "nothing found in input" in offered("SMA_LoadOfficialConfig", "file")


def _alone(node, **inputs) -> dict:
    """One node and what shows its first output."""
    return {
        "node": {"class_type": node, "inputs": inputs},
        "out": {"class_type": "PreviewAny", "inputs": {"source": ["node", 0]}},
    }


def test_files_that_may_not_be_read_are_named(weak):
    clip, config = weak.base / "input" / "closed.mp4", weak.base / "input" / "closed.yml"
    lora = weak.base / "models" / "loras" / "closed.safetensors"
    for path in (clip, config, lora):
        path.write_bytes(b"x")
        path.chmod(0)
    graphs = [_graph(training=False) for _ in range(2)]
    graphs[0]["clip"]["inputs"]["file"] = clip.name
    graphs[1]["wear"]["inputs"].update({"source.file": lora.name, "strength": 1.0})
    graphs.append(_alone("SMA_LoadOfficialConfig", file=config.name, compare="noise"))
    for graph, path in zip(graphs, (clip, lora, config), strict=True):
        assert _run(weak, graph).strip() == f"{path.name} may not be read by ComfyUI. Change its permissions."
        path.unlink()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("start", float("nan"), "start is nan; it needs a number from 0 to 1000000. Set it on the node."),
        ("timing.fps", float("nan"), "timing.fps is nan; it needs a number from 0.1 to 240. Set it on the node."),
        (
            "folder_fps",
            float("nan"),
            "fps of image folder is nan; it needs a number from 0.1 to 240. Set it on the node.",
        ),
        ("width", 1e400, "refused"),
        ("frame_count", 10**6, "refused"),
        ("frame_count", "many", "refused"),
        ("timing", "seconds", "timing has no known value; the choices are 'fps', 'stride'. Choose one of them."),
        ("file", "gone.mp4", "refused"),
        ("file", "a\0b", "refused"),
        ("file", "\udcff", "refused"),
        ("file", "x" * 100_000, "refused"),
    ],
)
def test_values_over_the_wire(weak, name, value, said):
    graph = {key: _graph(training=False)[key] for key in ("clip", "residuals")}
    graph["clip"]["inputs"][name] = value
    assert _run(weak, graph).strip() == said
