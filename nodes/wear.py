"""A motion LoRA put on a MODEL: ours and other programs', everywhere or for some noise levels and frames."""

from __future__ import annotations

from comfy_api.latest import io

from .host import paths
from .host.animatediff import other_norms
from .host.lists import offered
from .host.moved import watch
from .host.report import Report
from .host.wear import AUTO, BYPASS, PATCH, LoRASource, files_of, read_source, wear
from .host.worn import Range, latent_range


class LoadMotionLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_LoadMotionLoRA",
            display_name="Load Motion LoRA",
            category="Spectral Motion/make",
            description="Puts a motion LoRA on a MODEL and says how many of its keys were applied, and how many change nothing. Reads ours, "
            "diffusers, PEFT, kohya, AnimateDiff and MotionDirector files, and refuses one that was made for another model. Several stack. "
            "Warns after a sampling in which a part of it changed nothing.",
            search_aliases=["load lora", "wear lora", "apply lora", "motiondirector", "animatediff motion lora"],
            inputs=[
                io.Model.Input("model", tooltip="The model the LoRA was trained on, or another one of its kind."),
                io.DynamicCombo.Input(
                    "source",
                    tooltip="file: from the LoRA folders. trained: straight from Train Motion LoRA.",
                    options=[
                        io.DynamicCombo.Option(
                            "file",
                            [
                                io.Combo.Input(
                                    "file",
                                    options=offered("models/loras and output/loras", paths.saved_loras),
                                    tooltip="A LoRA under models/loras or output/loras. Pickles (.pt, .ckpt, .bin) are read without running "
                                    "code.",
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "trained", [io.LoraModel.Input("lora", tooltip="From Train Motion LoRA.")]
                        ),
                    ],
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="1 is as trained, by the alphas of the file or of its metadata; 0 is off, more exaggerates.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Worn from this share of the sampling on. Motion is decided early, at high noise.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Worn up to this share of the sampling. For several ranges use several of these nodes in a row.",
                ),
                io.Int.Input(
                    "first_frame",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="First video frame that wears it. A frame range costs one more evaluation of the model per step: the "
                    "predictions with and without the LoRA are put together frame by frame.",
                ),
                io.Int.Input(
                    "last_frame",
                    default=-1,
                    min=-1,
                    max=1_000_000,
                    tooltip="Last video frame that wears it; -1 is the end of the video.",
                ),
                io.Combo.Input(
                    "apply",
                    options=[AUTO, PATCH, BYPASS],
                    default=AUTO,
                    advanced=True,
                    tooltip="patch weights: merged into the weights, no cost per step. bypass: computed beside the layers, exactly as in "
                    "training; right for fp8 and int8 weights, before and behind TorchCompileModel. auto: bypass where a range, quantised "
                    "weights or compiled blocks need it. Layers that ComfyUI computes without calling them are patched.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The MODEL with the LoRA on; the one that came in is unchanged."
                )
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def fingerprint_inputs(cls, source: io.DynamicCombo.Type | None = None, **_) -> str:
        """A file that was written anew under its old name is loaded anew."""
        name = (source or {}).get("file")
        return repr([path.stat().st_mtime for path in files_of(paths.lora_path(name))]) if name else ""

    @classmethod
    def execute(
        cls,
        model,
        source: io.DynamicCombo.Type,
        strength: float,
        start_percent: float,
        end_percent: float,
        first_frame: int,
        last_frame: int,
        apply: str,
    ) -> io.NodeOutput:
        report = Report(cls.hidden.unique_id)
        if start_percent >= end_percent:
            raise ValueError(
                f"start_percent is {start_percent} and end_percent {end_percent}; no noise level lies between. Raise end_percent."
            )
        if 0 <= last_frame < first_frame:
            raise ValueError(
                f"first_frame is {first_frame} and last_frame {last_frame}. Raise last_frame, or set it to -1."
            )
        if strength == 0.0:
            report.tell("strength is 0: nothing applied")
            return io.NodeOutput(model, ui=report.ui())
        if source["source"] == "file":
            lora = read_source(paths.lora_path(source["file"]))
        else:
            lora = LoRASource("The trained LoRA", source["lora"], getattr(source["lora"], "metadata", {}))
        ratio = getattr(model.get_model_object("latent_format"), "temporal_downscale_ratio", 1)
        where = Range(start_percent, end_percent, *latent_range(first_frame, last_frame, ratio))
        worn, applied = wear(model, lora, strength=strength, apply=apply, where=where, warn=report.warn)
        watch(model, worn, report)
        if text := other_norms(model, lora.metadata.get("group_norm")):
            report.warn(text)
        report.tell(applied)
        return io.NodeOutput(worn, ui=report.ui())
