"""Writing a motion LoRA to disk with everything a later user needs to know about it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from comfy_api.latest import io
from torch import Tensor

from ..sma.checks import shown
from ..sma.disk import DiskError
from ..sma.files import save_lora
from ..sma.finite import check_finite
from ..sma.lora_formats import to_format
from .host import paths
from .host.paths import new_loras
from .host.report import Report
from .training_options import named_after

COMFYUI = "ComfyUI"
FORMATS = {COMFYUI: "comfyui", "diffusers (PEFT)": "diffusers", "kohya": "kohya", "AnimateDiff-Evolved": "animatediff"}


class SaveMotionLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_SaveMotionLoRA",
            display_name="Save Motion LoRA",
            category="Spectral Motion/learn",
            description="Saves a motion LoRA under output/loras with its metadata: base model, losses, frames, rank, steps, seed, prompt.",
            search_aliases=["export lora", "save lora"],
            inputs=[
                io.LoraModel.Input("lora", tooltip="From Train Motion LoRA."),
                io.String.Input(
                    "filename_prefix", default="motion", tooltip="File name below output/loras; a counter is added."
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    optional=True,
                    tooltip="The prompt it was trained with, kept in the file. Empty: what the trainer found in the graph.",
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    optional=True,
                    tooltip="Frame rate the clip was read at, from Load Motion Clip, kept in the file. "
                    "0: what the trainer found in the graph.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default=COMFYUI,
                    optional=True,
                    tooltip="Who reads the file. ComfyUI: every LoRA loader of ComfyUI, diffusion-pipe, and diffusers' pipelines of Wan and "
                    "LTX-Video. diffusers (PEFT): diffusers' pipelines of Wan, LTX-Video, HunyuanVideo and AnimateDiff, and PEFT, through "
                    "which ZeroScope and ModelScope wear it; not core's Load LoRA. kohya: musubi-tuner, and core's Load LoRA but for the "
                    "feed-forward layers of HunyuanVideo. AnimateDiff-Evolved: its Load AnimateDiff LoRA, motion modules only. Whole weights, "
                    "as VMC trains them, fit into ComfyUI and kohya, for core's Load LoRA. Load Motion LoRA reads all four.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        lora: Mapping[str, Tensor],
        filename_prefix: str,
        prompt: str = "",
        fps: float = 0.0,
        format: str = COMFYUI,
    ) -> io.NodeOutput:
        report = Report(cls.hidden.unique_id)
        metadata = dict(getattr(lora, "metadata", {}))
        if prompt:
            metadata["prompt"] = prompt
        if fps:
            metadata["fps"] = fps
        for key, tensor in lora.items():
            check_finite(f"{shown(key)} of the LoRA", tensor, "Its training failed; train again.", math.inf)
        export = to_format(lora, FORMATS[format])
        if FORMATS[format] == "animatediff":
            # As AnimateDiff-MotionDirector writes it.
            metadata["model_type"] = "motion_director"
        if expert := metadata.get("expert"):
            filename_prefix = named_after(filename_prefix, expert)
        try:
            path = save_lora(export.tensors, metadata, new_loras(filename_prefix))
        except DiskError as error:
            raise ValueError(
                f"The LoRA could not be saved under output/loras: {error}. Mend that and run again."
            ) from error
        left_out = f", {export.left_out} outside motion modules left out" if export.left_out else ""
        size = path.stat().st_size / 1e6
        report.tell(
            f"Saved {paths.shown(path)} (press R to see it in the lists of LoRA loaders), {size:.1f} MB: "
            f"{export.written} layers{left_out} ({format} format)"
        )
        return io.NodeOutput(ui=report.ui())
