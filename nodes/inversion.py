"""The noise that a clip would have come from."""

from __future__ import annotations

import time
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from .host import inversion_cache
from .host.inversion import invert
from .host.noise import video_samples
from .host.progress import Progress, raise_if_cancelled
from .host.report import Report


class InvertClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_InvertClip",
            display_name="Invert Clip",
            category="Spectral Motion/make",
            description="The noise from which this model would make the clip (DDIM inversion; for flow models Euler's). New videos that start "
            "from it, or from a part of it, take over the clip's layout and motion. Kept in temp/ until ComfyUI restarts.",
            search_aliases=["ddim inversion", "unsample", "noise prior", "inverted latent", "rectified flow inversion"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample, with or without the motion LoRA."),
                io.Latent.Input("latent", tooltip="The clip, encoded by the VAE of this model."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="Prompt of the way up. The papers leave it empty, so that the new prompt meets no other. No guidance is used.",
                ),
                io.Int.Input(
                    "steps",
                    default=25,
                    min=1,
                    max=999,
                    tooltip="From clip to noise. About as many as sampling will take.",
                ),
                io.Int.Input(
                    "refinements",
                    default=1,
                    min=0,
                    max=20,
                    tooltip="Extra network calls per step that make sampling lead back to the clip (fixed-point iteration). The papers have 0 "
                    "and 50 to 75 steps; on sprites 25 steps with 1 cost as much as 50 with 0 and come back twice as close.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="inverted",
                    tooltip="Noise, to Motion Noise. Not a picture: a VAE cannot decode it.",
                )
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, model: Any, latent: dict, positive: list, steps: int, refinements: int) -> io.NodeOutput:
        report, samples = Report(cls.hidden.unique_id), video_samples(latent)
        kept = inversion_cache.cache_file(model, samples, positive, steps, refinements)
        started = time.monotonic()
        inverted = inversion_cache.read(kept)
        how = "from cache"
        if inverted is None:
            progress = Progress(model, steps, report.node_id)

            def on_step(step: int, _: Tensor, x0_hat: Tensor) -> None:
                progress.update(step, f"step {step}/{steps}", x0_hat)
                raise_if_cancelled()

            inverted = invert(model, samples, positive, steps=steps, refinements=refinements, on_step=on_step)
            inversion_cache.write(kept, inverted)
            how = f"{steps} steps in {time.monotonic() - started:.0f} s"
        report.tell(f"{how}; standard deviation {inverted.std(correction=0):.2f} (noise has 1)")
        return io.NodeOutput({"samples": inverted}, ui=report.ui())
