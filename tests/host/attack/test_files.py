"""Damaged files of every kind, through the nodes that read them.

A part of them, drawn anew by SPECTRAL_MOTION_ATTACK_SEED; SPECTRAL_MOTION_ATTACKS=10 draws ten times as many.
"""

from __future__ import annotations

import os
import random

import damage
import pytest
import torch

SEED = int(os.environ.get("SPECTRAL_MOTION_ATTACK_SEED", "0"))
TIMES = int(os.environ.get("SPECTRAL_MOTION_ATTACKS", "1"))
LOOK_EVERY = 25


@pytest.fixture
def lora(world) -> bytes:
    """The bytes of a LoRA file."""
    return damage.in_order((world.output / "loras" / world.lora_file).read_bytes())


def _damaged(data: bytes, drawn: random.Random) -> bytes:
    return (damage.in_header if drawn.random() < 0.6 else damage.in_bytes)(data, drawn)


def test_damaged_loras(world, field, lora):
    drawn, path = random.Random(f"loras {SEED}"), world.output / "loras" / "damaged.safetensors"
    inputs = world.inputs("SMA_LoadMotionLoRA") | {"source": {"source": "file", "file": path.name}}
    for number in range(250 * TIMES):
        path.write_bytes(_damaged(lora, drawn))
        field.attack(f"LoRA {number}", lambda: world.call("SMA_LoadMotionLoRA", inputs), look=number % LOOK_EVERY == 0)
    path.unlink()
    assert not field.harm()
    field.check()


def test_pickled_loras(world, field):
    drawn, folder = random.Random(f"pickles {SEED}"), world.output / "loras"
    small = dict(list(world.lora.items())[:6])
    trace = world.input / "the code ran"
    kinds = damage.pickles({name: tensor.clone() for name, tensor in small.items()}, trace)
    for kind, data in kinds.items():
        for number in range(1 if kind not in ("plain", "old") else 30 * TIMES):
            suffix = drawn.choice([".pt", ".ckpt", ".bin", ".pth"])
            path = folder / f"damaged{suffix}"
            path.write_bytes(data if number == 0 else damage.in_bytes(data, drawn))
            inputs = world.inputs("SMA_LoadMotionLoRA") | {"source": {"source": "file", "file": path.name}}
            field.attack(
                f"pickle {kind} {number}",
                lambda inputs=inputs: world.call("SMA_LoadMotionLoRA", inputs),
                look=number == 0,
            )
            path.unlink()
    assert not trace.exists() and not field.harm()
    field.check()


def test_damaged_states(world, field):
    folder = world.output / "spectral_motion"
    data, path = damage.in_order((folder / world.state_file).read_bytes()), folder / "damaged.safetensors"
    load_state = world.host.module("sma.files").load_state
    check_state = world.host.module("sma.finite").check_state
    drawn = random.Random(f"states {SEED}")
    for number in range(150 * TIMES):
        path.write_bytes(_damaged(data, drawn))
        if number % LOOK_EVERY:
            field.attack(f"state {number}", lambda: check_state(load_state(path), path.name), look=False)
        else:
            field.attack(f"state {number} resumed", lambda: world.train(resume_from=path.name, steps=3))
    path.unlink()
    field.check()


def test_damaged_films(world, field):
    clip, drawn = world.host.module("sma.clip"), random.Random(f"films {SEED}")
    request = clip.ClipRequest(width=16, height=16, start=0.0, frame_count=3, stride=1, crop="centre")
    for suffix, data in damage.films().items():
        path = world.input / f"damaged{suffix}"
        for number in range(25 * TIMES):
            path.write_bytes(data if number == 0 else damage.in_bytes(data, drawn))
            field.settle()
            if number:
                verdict = field.attack(
                    f"film {suffix} {number}", lambda path=path: clip.read_clip(path, request), look=False
                )
            else:
                inputs = world.inputs("SMA_LoadMotionClip") | {"file": path.name}
                verdict = field.attack(f"film {suffix}", lambda inputs=inputs: world.call("SMA_LoadMotionClip", inputs))
                assert verdict == "worked", field.last
        path.unlink()
    field.settle()
    field.check()


def test_damaged_pictures_in_a_folder(world, field):
    clip, drawn = world.host.module("sma.clip"), random.Random(f"pictures {SEED}")
    request = clip.ClipRequest(width=16, height=16, start=0.0, frame_count=3, stride=1, crop="centre")
    for suffix, data in damage.pictures().items():
        folder = world.input / f"folder{suffix}"
        folder.mkdir()
        paths = [folder / f"{number}{suffix}" for number in range(3)]
        for path in paths:
            path.write_bytes(data)
        for number in range(20 * TIMES):
            drawn.choice(paths).write_bytes(damage.in_bytes(data, drawn))
            field.attack(
                f"picture {suffix} {number}", lambda folder=folder: clip.read_clip(folder, request), look=False
            )
        for path in paths:
            path.unlink()
        folder.rmdir()
    field.check()


def test_files_that_are_called_something_else(world, field):
    """Each content under each suffix that a node looks at."""
    contents = {"lora": (world.output / "loras" / world.lora_file).read_bytes(), "text": b"hello\n" * 50, "empty": b""}
    contents |= {"film": damage.films()[".mp4"], "picture": damage.pictures()[".png"], "zeros": bytes(1000)}
    contents["pickle"] = damage.pickles({"a": torch.ones(2, 2)}, world.input / "ran")["plain"]
    for kind, data in contents.items():
        for suffix in (".mp4", ".gif", ".webp", ".mkv", ".yml"):
            path = world.input / f"other{suffix}"
            path.write_bytes(data)
            field.settle()
            node = "SMA_LoadOfficialConfig" if suffix == ".yml" else "SMA_LoadMotionClip"
            inputs = world.inputs(node) | {"file": path.name}
            field.attack(f"{kind} as {suffix}", lambda node=node, inputs=inputs: world.call(node, inputs))
            path.unlink()
        for suffix in (".safetensors", ".pt"):
            path = world.output / "loras" / f"other{suffix}"
            path.write_bytes(data)
            inputs = world.inputs("SMA_LoadMotionLoRA") | {"source": {"source": "file", "file": path.name}}
            field.settle()
            field.attack(f"{kind} as {suffix}", lambda inputs=inputs: world.call("SMA_LoadMotionLoRA", inputs))
            path.unlink()
        path = world.output / "spectral_motion" / "other.safetensors"
        path.write_bytes(data)
        field.attack(f"{kind} as a state", lambda path=path: world.train(resume_from=path.name, steps=3))
        path.unlink()
    field.settle()
    field.check()
