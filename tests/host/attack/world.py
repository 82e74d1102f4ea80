"""The graph that is attacked: the sprites model, a short clip, one file of each kind, and inputs of every node that work."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

CONFIG = """
vid_name: "man_skate"
train_steps: 500
lr: 1e-4
ld_global: 0.08
ld_local: 0.53
num_levels: 2
ld_levels: [1., 1., 1.]
train_dataset:
  prompt: "A man is skateboarding."
"""
TRAINING = {
    "layers": {"layers": "motion"},
    "rank": 2,
    "steps": 1,
    "learning_rate": 5e-3,
    "seed": 1,
    "save_every": 0,
    "resume_from": "start anew",
    "batch_size": 1,
    "accumulation": 1,
    "dropout": 0.0,
    "warmup_steps": 0,
    "schedule": "constant",
    "noise_low": 0.01,
    "noise_high": 0.99,
    "noise_bias": 0.4,
    "clip_norm": 1.0,
    "weight_decay": 0.0,
    "save_prefix": "attack",
    "checkpointing": True,
}
CLIP = {
    "file": "good.mp4",
    "start": 0.0,
    "frame_count": 3,
    "timing": {"timing": "stride", "stride": 1},
    "width": 16,
    "height": 16,
    "crop": "centre",
    "folder_fps": 8.0,
}
WEARING = {
    "strength": 1.0,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "first_frame": 0,
    "last_frame": -1,
    "apply": "auto",
}


class World:
    """What the attacks start from.

    Attributes:
        works: node id -> inputs with which it works.
    """

    def __init__(self, host: Any) -> None:
        self.host = host
        self.input, self.output = Path(host.base) / "input", Path(host.base) / "output"
        self._there = self._files()
        self.model, self.clip, self.vae = host.call("SMA_LoadSpritesModel")
        self.frames = torch.zeros(4, 16, 16, 3)
        for index in range(4):
            self.frames[index, 4:9, index * 2 + 1 : index * 2 + 6, 0] = 1.0
        (self.latent,) = host.call("VAEEncode", pixels=self.frames, vae=self.vae)
        (self.positive,) = host.call("CLIPTextEncode", clip=self.clip, text="red square")
        (self.loss,) = host.call("SMA_AlignmentLoss", method={"method": "denoising"})

    def _files(self) -> set[Path]:
        return {path for folder in (self.input, self.output) for path in folder.rglob("*") if not path.is_dir()}

    def clear(self) -> None:
        """Takes away what the attacks left for other tests to find."""
        for path in self._files() - self._there:
            path.unlink()

    def train(self, **changes: Any) -> tuple:
        """Outputs of Train Motion LoRA."""
        learned = {"model": self.model, "latent": self.latent, "positive": self.positive, "motion_loss": self.loss}
        return self.host.call("SMA_TrainMotionLoRA", **learned | TRAINING | changes)

    def furnish(self) -> None:
        """Puts a film, a LoRA, a state and a config where the nodes look for them, and finds inputs that work for every node."""
        import folder_paths

        write_video = self.host.module("sma.clip").write_video
        # Of this size the nodes' own previews are quick.
        write_video(self.frames.repeat_interleave(2, 1).repeat_interleave(2, 2), 8.0, self.input / "good.mp4")
        (self.input / "good.yml").write_text(CONFIG)
        self.lora, _ = self.train(steps=2, save_every=2, save_prefix="good")
        # As the host's launcher does.
        folder_paths.add_model_folder_path("loras", str(self.output / "loras"))
        (self.lora_file,) = (path.name for path in (self.output / "loras").glob("good*"))
        (self.state_file,) = (path.name for path in (self.output / "spectral_motion").glob("good*"))
        knobs = next(
            option
            for item in self.host.node("SMA_SpectralLoss").define_schema().inputs
            if item.id == "form"
            for option in item.options
            if option.key == "custom"
        )
        custom = {"form": "custom"}
        for knob in knobs.inputs:
            options = getattr(knob, "options", None)
            custom[knob.id] = options[0] if options and knob.default is None else knob.default
        self.works = {
            "SMA_LoadMotionClip": CLIP,
            "SMA_EmptyVideoLatent": {"vae": self.vae, "width": 16, "height": 16, "frame_count": 3, "batch_size": 1},
            "SMA_MotionResiduals": {"clip": self.frames},
            "SMA_AlignmentLoss": {
                "method": {
                    "method": "residual cosine (VMC)",
                    "denoising_weight": 1.0,
                    "compare": "noise",
                    "form": "code",
                }
            },
            "SMA_SpectralLoss": {
                "motion_loss": self.loss,
                "global_weight": 0.4,
                "local_weight": 0.2,
                "form": custom,
            },
            "SMA_LoadOfficialConfig": {"file": "good.yml", "compare": "noise"},
            "SMA_TrainMotionLoRA": {
                "model": self.model,
                "latent": self.latent,
                "positive": self.positive,
                "motion_loss": self.loss,
                "expert": "one model for all noise",
                "expert_boundary": 0.0,
                "blocks": "",
                "method": "one adapter",
                "adapter": "LoRA",
            }
            | TRAINING,
            "SMA_SaveMotionLoRA": {
                "lora": self.lora,
                "filename_prefix": "attack",
                "prompt": "",
                "fps": 8.0,
                "format": "ComfyUI",
            },
            "SMA_LoadMotionLoRA": {"model": self.model, "source": {"source": "file", "file": self.lora_file}} | WEARING,
            "SMA_InvertClip": {
                "model": self.model,
                "latent": self.latent,
                "positive": self.positive,
                "steps": 1,
                "refinements": 0,
            },
            "SMA_MotionNoise": {
                "inverted": self.latent,
                "seed": 1,
                "method": {"method": "low frequencies, blended detail", "p": 0.5, "factor": 2},
                "renormalise": False,
            },
        }

    def inputs(self, node: str) -> dict[str, Any]:
        """A copy of inputs that work, of which any part may be replaced."""
        return {
            name: copy.copy(value) if isinstance(value, dict) else value for name, value in self.works[node].items()
        }

    def call(self, node: str, inputs: dict[str, Any]) -> Any:
        """Runs a node, and whatever it promises for later."""
        outputs = self.host.call(node, **inputs)
        if node == "SMA_MotionNoise":
            with torch.inference_mode():
                return outputs[0].generate_noise(self.latent)
        return outputs
