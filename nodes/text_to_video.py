"""The models of the ZeroScope family, from a diffusers folder or from single files."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sma.networks.unet3d import DEFAULT_FPS
from .host import text_to_video
from .host.diffusers_folder import offered_folders
from .host.lists import host_file, offered_host_files
from .host.report import Report
from .host.wrapped import STORAGE

FOLDER = "diffusers folder"
FILES = "single files"


def _file(input_id: str, folder: str, tooltip: str) -> io.Input:
    return io.Combo.Input(input_id, options=offered_host_files(folder), tooltip=tooltip)


class LoadTextToVideoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_LoadTextToVideoModel",
            display_name="Load Text-to-Video Model",
            category="Spectral Motion/models",
            description="ZeroScope, ModelScope text-to-video, VideoCrafter2 and other models around a 3-D UNet, as ordinary "
            "MODEL, CLIP and VAE. In KSampler choose ddim with ddim_uniform: the steps these models are published with.",
            search_aliases=["zeroscope", "modelscope", "videocrafter", "text2video", "diffusers", "unet3d"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    tooltip="A whole model folder as it is published, or one file each of network, text encoder and VAE.",
                    options=[
                        io.DynamicCombo.Option(
                            FOLDER,
                            [
                                io.Combo.Input(
                                    "folder",
                                    options=offered_folders(*text_to_video.NETWORKS),
                                    tooltip="A folder with model_index.json, unet, vae, text_encoder and scheduler that you copied "
                                    "into ComfyUI's models/diffusers. Prediction and betas are read from its scheduler.",
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            FILES,
                            [
                                _file(
                                    "diffusion_model",
                                    "diffusion_models",
                                    "The UNet's weights, with diffusers' names.",
                                ),
                                _file(
                                    "text_encoder",
                                    "text_encoders",
                                    "Its CLIP: OpenCLIP-H, as in Stable Diffusion 2, for all of the family.",
                                ),
                                _file("vae", "vae", "Its VAE: Stable Diffusion 1's for all of the family."),
                                io.Combo.Input(
                                    "prediction",
                                    options=["epsilon", "v_prediction"],
                                    tooltip="What the network predicts. epsilon for all of the family; the file does not say.",
                                ),
                            ],
                        ),
                    ],
                ),
                io.Combo.Input(
                    "weights",
                    options=list(STORAGE),
                    tooltip="How the UNet's weights are kept. float8_e4m3fn halves the memory of float16, with rougher results; "
                    "ComfyUI chooses what it computes in.",
                ),
                io.Float.Input(
                    "fps",
                    default=DEFAULT_FPS,
                    min=1.0,
                    max=60.0,
                    advanced=True,
                    tooltip="VideoCrafter2 alone is told a frame rate: higher, and less happens from frame to frame. The others do not read it.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="For KSampler and Train Motion LoRA. Latents are videos."
                ),
                io.Clip.Output(display_name="clip", tooltip="Text encoder for CLIP Text Encode."),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="Encodes and decodes each frame by itself; width and height in multiples of 8.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, source: dict[str, Any], weights: str, fps: float = DEFAULT_FPS) -> io.NodeOutput:
        report = Report(cls.hidden.unique_id)
        dtype = STORAGE[weights]
        if source["source"] == FOLDER:
            loaded = text_to_video.load_folder(source["folder"], dtype, fps)
        else:
            loaded = text_to_video.load_files(
                host_file("diffusion_models", source["diffusion_model"]),
                host_file("text_encoders", source["text_encoder"]),
                host_file("vae", source["vae"]),
                source["prediction"],
                dtype,
                fps,
            )
        report.tell(loaded.report)
        return io.NodeOutput(loaded.model, loaded.clip, loaded.vae, ui=report.ui())
