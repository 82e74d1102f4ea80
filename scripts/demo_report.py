"""What the demo leaves behind: the clips, a contact sheet, and the motion score of both results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open

from sma.clip import ClipRequest, read_clip, write_video
from sma.pictures import contact_sheet
from sma.sprites.score import motion_score

SIZE = 256


def collect(folder: Path, source: Path, videos: Mapping[str, Path], lora: Path, load: Mapping[str, Any]) -> None:
    """Copies what the host made, before its temporary folder goes.

    source: the film; load: inputs of Load Motion Clip, so that reference.mp4 shows the frames the model saw, but larger.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, path in videos.items():
        shutil.copy2(path, folder / f"{name}.mp4")
    shutil.copy2(lora, folder / "motion_lora.safetensors")
    request = ClipRequest(
        width=SIZE, height=SIZE, start=load["start"], frame_count=load["frame_count"], fps=load["timing.fps"]
    )
    write_video(read_clip(source, request).frames, load["timing.fps"], folder / "reference.mp4")


def report(folder: Path, facts: dict[str, Any], nodes: Mapping[str, Mapping[str, Any]], *, scored: bool) -> None:
    """Writes report.json and contact_sheet.png beside the videos, and says what was measured.

    nodes: inputs by node type, as they were queued; scored: whether the reference shows a sprite that can be followed.
    """
    frames = nodes["SMA_LoadMotionClip"]["frame_count"]
    request = ClipRequest(width=SIZE, height=SIZE, frame_count=frames)
    names = ("reference", "without_lora", "with_lora")
    clips = {name: read_clip(folder / f"{name}.mp4", request).frames for name in names}
    training = nodes["SMA_TrainMotionLoRA"]
    with safe_open(folder / "motion_lora.safetensors", framework="pt") as file:
        weights = {loss["name"]: loss["weight"] for loss in json.loads(file.metadata()["losses"])}
    facts |= {
        "sampling_seed": nodes["KSampler"]["seed"],
        "training": {name: training[name] for name in ("steps", "rank", "learning_rate", "batch_size", "seed")},
        "spectral_loss": {
            "form": nodes["SMA_SpectralLoss"]["form"],
            "global_weight": weights.get("spectral_global", 0),
            "local_weight": weights.get("spectral_local", 0),
        },
        "motion_score": None,
    }
    if scored:
        without, worn = (motion_score(clips[name], clips["reference"]) for name in names[1:])
        facts["motion_score"] = {"without_lora": asdict(without), "with_lora": asdict(worn)}
        facts["remark"] = (
            "Motion score against the reference (cosine of the sprite's path and size over time): "
            f"{without.cosine:.2f} without the LoRA, {worn.cosine:.2f} with it; mean path error {without.error:.1f} % and "
            f"{worn.error:.1f} % of the frame width. This is one seed; benchmarks/README.md has many."
        )
    else:
        facts["remark"] = (
            "The motion score follows one sprite on a plain background; it does not apply to this clip. The sprites model has "
            "never seen such pictures, so the LoRA takes over much of the clip's look too; real models are for real clips."
        )
    (folder / "report.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    labels = ("reference clip", "without LoRA", "with motion LoRA")
    rows = [(label, clips[name]) for label, name in zip(labels, names, strict=True)]
    caption = f"prompt “{facts['prompt']}”, the same seed twice; frames from left to right"
    contact_sheet(rows, title="Spectral Motion", caption=caption).save(folder / "contact_sheet.png")
    print(facts["remark"])
    print(f"{folder.name}/ holds {', '.join(sorted(path.name for path in folder.iterdir()))}.")
