"""Draws the example clips that ship with the pack: python scripts/harness.py run scripts/make_examples.py"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sma.clip import write_video  # noqa: E402
from sma.sprites.data import Scene, named_path  # noqa: E402

# Eight frames for the sprites model; four seconds of film for models that take more frames at other rates.
CLIPS = {
    "red-circle-circling": (named_path("circle"), 256, 8.0),
    "red-circle-back-and-forth": (named_path("back"), 256, 8.0),
    "red-circle-to-and-fro": (torch.cat([named_path("back", 48)] * 2), 512, 24.0),
}

for name, (path, size, fps) in CLIPS.items():
    video = Scene("red", "circle", path).render(size)
    write_video(video.movedim(0, -1), fps, ROOT / "clips" / f"{name}.mp4")
