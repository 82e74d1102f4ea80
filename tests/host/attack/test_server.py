"""A whole server: odd graphs through its API, its own cancel, and its death in the midst of a training."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import time
from pathlib import Path

import harness
import pytest
from rule import COUNTS, REFUSED, WORKED, judge
from safetensors import safe_open
from safetensors.torch import load_file
from victims import broken_files
from world import TRAINING

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL of POSIX")

# Links to outputs that are not there are left out: of those into a choice that decides what belongs to it, and into inputs that it does not
# know, the host's own worker dies.
ODD = [
    math.nan,
    math.inf,
    -1,
    0,
    1.5,
    2**70,
    10**400,
    1e308,
    None,
    "",
    "x" * 3000,
    "a\0b",
    "half \ud83d",
    "..",
    "../../x",
]
ODD += [
    "nul",
    "a/../../b",
    True,
    [],
    {},
    [[]],
    {"a": 1},
    ["sprites", 0],
    ["clip", 3],
    ["train", 0],
    ["prompt", 0],
    ["loss", 0],
]
ODD += ["日本語", "%date%", "([a-z0-9_.]+)+!", "start anew", [1, 2, 3], ["latent", 0], "9" * 5000]


LONG = 400  # steps; the host tells of every 200th part of a run


def _graph() -> dict:
    """Every node that needs no model file, and the least that makes them run."""

    def node(kind: str, **inputs: object) -> dict:
        return {"class_type": kind, "inputs": inputs}

    train = TRAINING | {"layers": "motion", "save_prefix": "plain"}
    timing = {"timing": "stride", "timing.stride": 1, "crop": "centre", "folder_fps": 8.0}
    worn = {
        "strength": 1.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "first_frame": 0,
        "last_frame": -1,
        "apply": "auto",
    }
    return {
        "sprites": node("SMA_LoadSpritesModel"),
        "clip": node(
            "SMA_LoadMotionClip",
            file="red-circle-circling.mp4 [example]",
            start=0.0,
            frame_count=8,
            width=16,
            height=16,
            **timing,
        ),
        "latent": node("VAEEncode", pixels=["clip", 0], vae=["sprites", 2]),
        "prompt": node("CLIPTextEncode", clip=["sprites", 1], text="red circle"),
        "loss": node("SMA_AlignmentLoss", method="denoising"),
        "spectral": node(
            "SMA_SpectralLoss", motion_loss=["loss", 0], global_weight=0.4, local_weight=0.2, form="repaired"
        ),
        "train": node(
            "SMA_TrainMotionLoRA",
            model=["sprites", 0],
            latent=["latent", 0],
            positive=["prompt", 0],
            motion_loss=["spectral", 0],
            **train,
        ),
        "save": node("SMA_SaveMotionLoRA", lora=["train", 0], filename_prefix="saved", format="ComfyUI"),
        "wear": node(
            "SMA_LoadMotionLoRA", model=["sprites", 0], source="trained", **{"source.lora": ["train", 0]}, **worn
        ),
        "invert": node(
            "SMA_InvertClip", model=["wear", 0], latent=["latent", 0], positive=["prompt", 0], steps=1, refinements=0
        ),
        "noise": node(
            "SMA_MotionNoise",
            inverted=["invert", 0],
            seed=1,
            method="blend (MotionDirector)",
            **{"method.p": 0.5},
            renormalise=False,
        ),
        "residuals": node("SMA_MotionResiduals", clip=["clip", 0]),
        "out": node("PreviewAny", source=["noise", 0]),
    }


def _answer(client: harness.Client, graph: dict) -> str:
    """The verdict on what the server says of a graph."""
    try:
        result = client.run(graph, timeout=40)
    except harness.HarnessError as error:
        said = str(error)
        # The host's own words about a value that its widget does not take.
        clean = " answered 400: " in said and "exception_during" not in said and str(client.base) not in said
        return REFUSED if clean and "Traceback" not in said else f"the host failed: {said[:300]}"
    if result.status == "success":
        return WORKED
    return judge(result.event("execution_error")["exception_message"], client.base)


def _places(base: Path) -> set[Path]:
    """All files beside output/, temp/ and what the host keeps for itself."""
    own = ("output", "temp", "user", "custom_nodes")
    return {path for path in base.rglob("*") if path.is_file() and path.relative_to(base).parts[0] not in own}


def _learned(client: harness.Client, prefix: str) -> dict:
    """What a training of that name saved."""
    graph = _graph()
    graph["train"]["inputs"]["save_prefix"] = prefix
    assert client.run(graph).status == "success"
    (path,) = (client.base / "output" / "loras").glob(f"{prefix}_step*")
    return load_file(path)


@contextlib.contextmanager
def _serve(base: Path):
    python, host = harness.ensure_environment()
    starter = base / "python"
    starter.write_text(f'#!/bin/sh\necho $$ > "{base}/pid"\nexec "{python}" "$@"\n')
    starter.chmod(0o755)
    with harness.serve(starter, host, base=base) as client:
        yield client


def _odd_graphs(drawn: random.Random, count: int):
    for _ in range(count):
        graph = _graph()
        name = drawn.choice(
            [key for key, node in graph.items() if node["class_type"].startswith("SMA_") and node["inputs"]]
        )
        inputs = graph[name]["inputs"]
        key, odd = drawn.choice(list(inputs)), drawn.choice(ODD)
        match drawn.randrange(8):
            case 0:
                how = f"without {key}"
                del inputs[key]
            case 1:
                how, inputs[f"{key}.unheard_of"] = f"{key}.unheard_of", odd
            case 2:
                how, graph[name]["inputs"] = "no inputs", {}
            case _:
                how, inputs[key] = f"{key} = {str(odd)[:20]!a}", odd
        yield f"server {name}: {how}", graph


def _state(base: Path, prefix: str) -> Path:
    (path,) = (base / "output" / "spectral_motion").glob(f"{prefix}*")
    return path


def _step(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


def _long(prefix: str, **changes: object) -> dict:
    graph = {
        key: node
        for key, node in _graph().items()
        if key in ("sprites", "clip", "latent", "prompt", "loss", "spectral", "train", "save")
    }
    graph["train"]["inputs"].update({"steps": LONG, "save_prefix": prefix} | changes)
    return graph


def _goes_on(client: harness.Client, prefix: str) -> None:
    """A run that was cut short is taken up where it was left."""
    state = _state(client.base, prefix)
    step = _step(state)
    graph = _long(f"{prefix}_more", steps=step + 2, resume_from=state.name)
    assert client.run(graph).status == "success"
    assert list((client.base / "output" / "loras").glob(f"{prefix}_more_step{step + 2:05}_*"))
    assert not list((client.base / "output").rglob(".spectral_motion_partial*"))


def test_a_server_under_attack(tmp_path):
    drawn = random.Random(9)
    with _serve(tmp_path) as client:
        first, places = _learned(client, "first"), _places(tmp_path)
        failures = []
        for label, graph in _odd_graphs(drawn, 32):
            verdict = COUNTS.add(label, _answer(client, json.loads(json.dumps(graph))))
            assert "was not done" not in verdict, f"{label}: {verdict}"
            if verdict not in (WORKED, REFUSED):
                failures.append(f"{label}: {verdict}")
        assert _places(tmp_path) == places
        assert not failures, "\n".join(failures)
        for number in range(4):
            prefix, at = f"cancelled{number}", drawn.randint(1, 12)

            def cancel(event, data, at=at):
                if event == "progress" and data["max"] == LONG and data["value"] >= at:
                    client.interrupt()

            result = client.run(_long(prefix, seed=number, save_every=drawn.choice([0, 2])), on_event=cancel)
            assert result.event("execution_interrupted"), result.messages
            assert broken_files(tmp_path / "output") == []
            _goes_on(client, prefix)
            COUNTS.add(f"cancel {number}", WORKED)
        last = _learned(client, "last")
        assert all(last[name].equal(first[name]) for name in first), "the MODEL is as it was"
        _killed(client, drawn, "dead0")
    with _serve(tmp_path) as client:
        _goes_on(client, "dead0")
        _killed(client, drawn, "dead1")
    with _serve(tmp_path) as client:
        _goes_on(client, "dead1")


def _killed(client: harness.Client, drawn: random.Random, prefix: str) -> None:
    """Kills the server in the midst of a training."""
    client.queue(_long(prefix, save_every=1))
    deadline = time.monotonic() + 60
    while not list((client.base / "output" / "spectral_motion").glob(f"{prefix}*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(drawn.uniform(0, 0.6))
    os.kill(int((client.base / "pid").read_text()), signal.SIGKILL)
    time.sleep(0.2)
    assert broken_files(client.base / "output") == []
    COUNTS.add(f"server {prefix}", WORKED)
