"""A server with nodes that stand in for text encoders, and a tiny random model of every native family."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
import torch
from tiny_models import write_hunyuan, write_hunyuan_vae, write_ltx, write_ltx_vae, write_wan, write_wan_i2v

STAND_INS = Path(__file__).resolve().parents[1] / "stand_in_nodes.py"


@pytest.fixture(scope="session")
def native_base(host, tmp_path_factory) -> Path:
    """A base directory with the models, the stand-ins, and drift.mp4: 20 frames of a square that moves.

    The pack's own clips are too short for LTX-Video.
    """
    base = tmp_path_factory.mktemp("native")
    write_wan(base / "models")
    write_wan_i2v(base / "models")
    for write in (write_ltx, write_ltx_vae, write_hunyuan, write_hunyuan_vae):
        write(base / "models")
    frames = torch.zeros(20, 64, 64, 3)
    for index in range(20):
        frames[index, 20:36, 2 * index : 2 * index + 16, 0] = 1.0
    (base / "input").mkdir()
    host.module("sma.clip").write_video(frames, 8, base / "input" / "drift.mp4")
    (base / "custom_nodes").mkdir()
    shutil.copy(STAND_INS, base / "custom_nodes")
    return base


@pytest.fixture(scope="session")
def native_server(native_base) -> Iterator[harness.Client]:
    python, host = harness.ensure_environment()
    with harness.serve(python, host, base=native_base) as client:
        yield client
