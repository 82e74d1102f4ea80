"""Looking at motion."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..sma.finite import check_finite
from ..sma.pictures import residual_pictures, to_images
from ..sma.residuals import frame_residuals


class MotionResiduals(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        kind = io.MatchType.Template("clip", [io.Image, io.Latent])
        return io.Schema(
            node_id="SMA_MotionResiduals",
            display_name="Motion Residuals",
            category="Spectral Motion/look",
            description="What changes from each frame to the next, which is what Spectral Motion Alignment learns from: "
            "the residuals themselves, and pictures of them.",
            search_aliases=["frame difference", "motion energy", "wavelet bands", "amplitude spectrum"],
            inputs=[
                io.MatchType.Input(
                    "clip",
                    template=kind,
                    tooltip="IMAGE: the frames of a clip. LATENT: a video latent, or one latent per frame as image VAEs "
                    "make them. At least 2 frames.",
                )
            ],
            outputs=[
                io.MatchType.Output(
                    template=kind,
                    display_name="residuals",
                    tooltip="One frame fewer, same kind as the input. LATENT: signed differences. IMAGE: 0.5 + "
                    "difference / 2, so that grey means no change.",
                ),
                io.Image.Output(
                    display_name="pictures",
                    tooltip="Four pictures: energy per frame, signed maps, wavelet bands over time, amplitude spectrum "
                    "with the weight of the local loss. Of a batch of videos, the first is drawn.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, clip: Tensor | dict[str, Any]) -> io.NodeOutput:
        values = clip if isinstance(clip, Tensor) else clip["samples"]
        if values.is_nested:
            raise ValueError("The clip holds sound beside the video; residuals need the video latent alone.")
        ranks = (4,) if isinstance(clip, Tensor) else (4, 5)
        if values.ndim not in ranks or not values.numel():
            raise ValueError(
                f"The clip is {list(values.shape)}; frames of an image or a latent are needed. Make it again."
            )
        check_finite("The clip", values, "Make the clip again, or encode it with the VAE in float32.")
        height, width = values.shape[1:3] if isinstance(clip, Tensor) else values.shape[-2:]
        if min(height, width) < 2:
            raise ValueError(f"The clip has {width}x{height} pixels; its spectrum needs 2 each way. Use a larger clip.")
        if isinstance(clip, Tensor):
            clip = clip[..., :3]  # no transparency, as VAE Encode takes frames
            signed = frame_residuals(clip.movedim(-1, 0)[None])  # [F, H, W, C] to [1, C, F-1, H, W]
            residuals: Tensor | dict[str, Tensor] = 0.5 + signed[0].movedim(0, -1) / 2
        else:
            samples = clip["samples"]
            if samples.ndim == 4:  # frames as batch: [F, C, H, W]
                signed = frame_residuals(samples.movedim(0, 1)[None])
                residuals = {"samples": signed[0].movedim(1, 0)}
            else:
                signed = frame_residuals(samples)
                residuals = {"samples": signed}
        pictures = to_images(residual_pictures(signed[0]))
        return io.NodeOutput(residuals, pictures, ui=ui.PreviewImage(pictures, cls=cls))
