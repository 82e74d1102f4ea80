"""Draws the example clips that ship with the pack: python scripts/harness.py run scripts/make_examples.py"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sma.clip import write_video  # noqa: E402
from sma.sprites.data import Scene, named_path  # noqa: E402

FPS = 8.0
CLIPS = {"red-circle-circling": "circle", "red-circle-back-and-forth": "back"}

for name, motion in CLIPS.items():
    video = Scene("red", "circle", named_path(motion)).render(256)
    write_video(video.movedim(0, -1), FPS, ROOT / "clips" / f"{name}.mp4")
