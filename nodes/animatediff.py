"""AnimateDiff: a Stable Diffusion 1.5 that learned to move."""

from __future__ import annotations

from comfy_api.latest import io

from ..sma.networks.animatediff_norms import FORMS
from .host import animatediff
from .host.diffusers_folder import offered_folders
from .host.lists import offered, offered_host_files
from .host.report import Report
from .host.wrapped import STORAGE

GROUP_NORM = {f"as {form}": form for form in FORMS}


class LoadAnimateDiffModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_LoadAnimateDiffModel",
            display_name="Load AnimateDiff Model",
            category="Spectral Motion/models",
            description="Stable Diffusion 1.5 with an AnimateDiff motion module as one video model, as ordinary MODEL, CLIP and VAE. "
            "The published modules were trained on 16 frames and do best with about that many. It needs the package diffusers, which the pack "
            "does not install; without it the node says how to get it.",
            search_aliases=["animatediff", "motion module", "motion adapter", "mm_sd_v15", "v3_sd15_mm", "sd1.5 video"],
            inputs=[
                io.DynamicCombo.Input(
                    "base",
                    tooltip="The image model, any Stable Diffusion 1.5. No SD 2, SDXL or inpainting model.",
                    options=[
                        io.DynamicCombo.Option(
                            "checkpoint",
                            [
                                io.Combo.Input(
                                    "checkpoint",
                                    options=offered_host_files("checkpoints"),
                                    tooltip="A single file in models/checkpoints.",
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "diffusers folder",
                            [
                                io.Combo.Input(
                                    "folder",
                                    options=offered_folders("UNet2DConditionModel"),
                                    tooltip="A folder in models/diffusers with unet, vae, text_encoder and scheduler in it.",
                                )
                            ],
                        ),
                    ],
                ),
                io.Combo.Input(
                    "motion_module",
                    options=offered("models/animatediff_models", animatediff.motion_modules),
                    tooltip="A file in models/animatediff_models, such as v3_sd15_mm.ckpt or mm_sd_v15_v2.ckpt, or a MotionAdapter folder in "
                    "models/diffusers. v1 modules take at most 24 frames, v2 and v3 take 32.",
                ),
                io.Combo.Input(
                    "weights",
                    options=list(STORAGE),
                    tooltip="What the weights are kept in. 'as stored' follows the files; float16 or bfloat16 halves float32; "
                    "float8 halves that again and changes the picture a little.",
                ),
                # Last and optional: workflows and prompts that were saved without it still run.
                io.Combo.Input(
                    "group_norm",
                    options=list(GROUP_NORM),
                    default=next(iter(GROUP_NORM)),
                    optional=True,
                    tooltip="Whose arithmetic it follows: programs normalise each frame by itself, or all frames together. Use the same for "
                    "training and sampling. 'as original': AnimateDiff's own code; for v2 and v3 AnimateDiff-Evolved does the same. 'as "
                    "AnimateDiff-Evolved': differs for v1 modules only. 'as diffusers': its pipelines, some percent away from the others.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="Text-to-video model for core KSampler and Train Motion LoRA."
                ),
                io.Clip.Output(display_name="clip", tooltip="The base model's text encoder."),
                io.Vae.Output(
                    display_name="vae", tooltip="The base model's VAE; it takes and gives videos, frame by frame."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls, base: dict, motion_module: str, weights: str, group_norm: str = next(iter(GROUP_NORM))
    ) -> io.NodeOutput:
        report = Report(cls.hidden.unique_id)
        if base["base"] == "checkpoint":
            source = animatediff.Checkpoint(base["checkpoint"])
        else:
            source = animatediff.Folder(base["folder"])
        model = animatediff.load_model(source, motion_module, STORAGE[weights], group_norm=GROUP_NORM[group_norm])
        clip, vae = source.clip(), source.vae()
        report.tell(animatediff.describe(model))
        return io.NodeOutput(model, clip, vae, ui=report.ui())
