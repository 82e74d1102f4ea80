"""Bringing a clip into the graph, and making room for a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..sma.clip import ClipRequest, read_clip, write_video
from ..sma.clip.folder import image_files
from ..sma.clip.formats import FILM_SUFFIXES
from ..sma.clip.size import ClipSize
from ..sma.stillness import still_warning
from .host import clips
from .host.memory import check_room, free_memory
from .host.progress import raise_if_cancelled
from .host.report import Report
from .host.rules import family_of_model
from .host.vae import frame_counts, nearest_side, what_it_leaves_out
from .snap import read_snapped


class LoadMotionClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_LoadMotionClip",
            display_name="Load Motion Clip",
            category="Spectral Motion/clip",
            description="Takes the frames a motion LoRA learns from out of a video, an animated gif or webp, or a folder "
            "of images, and says in one line what the model will see.",
            search_aliases=["load video", "load gif", "image sequence", "reference video", "motion reference"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=clips.choices(),
                    upload=io.UploadType.video,
                    extra_dict={"clip_suffixes": sorted(FILM_SUFFIXES)},  # for web/clip_upload.js
                    tooltip="A video, a gif, a webp or a folder of images (ends in /) in ComfyUI's input folder. Upload or drop "
                    "a film, copy a folder there. [example] clips come with this pack. Transparent parts become black.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.01,
                    tooltip="Seconds into the film where the clip begins.",
                ),
                io.Int.Input(
                    "frame_count",
                    default=16,
                    min=0,
                    max=4096,
                    tooltip="Frames the model will see, at least 2. 0 takes all from start to the end. "
                    "The sprites model needs 8.",
                ),
                io.DynamicCombo.Input(
                    "timing",
                    tooltip="fps: retime, whatever the film's rate. stride: take every n-th frame as it is.",
                    options=[
                        io.DynamicCombo.Option(
                            "fps",
                            [
                                io.Float.Input(
                                    "fps",
                                    default=8.0,
                                    min=0.1,
                                    max=240.0,
                                    step=0.01,
                                    tooltip="Frames per second of the clip; each is the film's frame nearest in time. "
                                    "At most the film's own rate: frames are never repeated.",
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "stride",
                            [
                                io.Int.Input(
                                    "stride",
                                    default=1,
                                    min=1,
                                    max=1000,
                                    tooltip="1 takes every frame, 2 every second one, and so on.",
                                )
                            ],
                        ),
                    ],
                ),
                io.Int.Input(
                    "width",
                    default=256,
                    min=2,
                    max=8192,
                    step=2,
                    tooltip="Width of the frames in pixels. The model's VAE may need a multiple of 8, 16 or 32.",
                ),
                io.Int.Input(
                    "height",
                    default=256,
                    min=2,
                    max=8192,
                    step=2,
                    tooltip="Height of the frames in pixels. The model's VAE may need a multiple of 8, 16 or 32.",
                ),
                io.Combo.Input(
                    "crop",
                    options=["centre", "stretch"],
                    tooltip="centre: keep the shapes, cut what is too long. stretch: keep everything, distort.",
                ),
                io.Float.Input(
                    "folder_fps",
                    default=8.0,
                    min=0.1,
                    max=240.0,
                    step=0.01,
                    display_name="fps of image folder",
                    tooltip="Only for a folder of images, which does not know how fast it was filmed.",
                ),
                # What follows came later: sockets, which move no widget of a saved workflow. The page keeps the widget of the
                # upload behind all others, so that a new one would take over its value.
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The VAE that will encode the clip. When connected, the report says how many frames and "
                    "pixels it sees: VAE Encode cuts off the rest, and many video VAEs take only 4n+1 or 8n+1 frames.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that will learn. When connected, frame_count, width and height are rounded to the "
                    "nearest that it takes whole, such as 4n+1 frames and multiples of 16 pixels for Wan, and the report "
                    "says so.",
                ),
                io.Boolean.Input(
                    "skip_damaged",
                    optional=True,
                    force_input=True,
                    tooltip="Connect a Boolean node set to true to pass over frames and images that are damaged; the report "
                    "names them. Otherwise a damaged one is refused.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, for VAE Encode."),
                io.Float.Output(display_name="fps", tooltip="Frames per second of the clip, for Create Video."),
                io.Int.Output(display_name="frame_count", tooltip="Number of frames, for Empty Video Latent."),
                io.String.Output(display_name="report", tooltip="What was taken from the film, in one line."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None, *, timing: Any = None) -> bool | str:
        # A linked file arrives as None. The host hands every DynamicCombo over, asked for or not, and repeats the message for each
        # positional argument.
        try:
            return file is None or bool(clips.find(file))
        except ValueError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_: Any) -> list[tuple[str, int]]:
        if file is None:  # linked: what feeds it decides whether to run again
            return []
        try:
            path = clips.find(file)
            files = image_files(path) if path.is_dir() else [path]
            return [(entry.name, entry.stat().st_mtime_ns) for entry in files]
        except (OSError, ValueError):  # gone or out of bounds, which execute tells the user
            return []

    @classmethod
    def execute(
        cls,
        file: str,
        start: float,
        frame_count: int,
        timing: dict[str, Any],
        width: int,
        height: int,
        crop: str,
        folder_fps: float,
        vae: Any = None,
        model: Any = None,
        skip_damaged: bool = False,
    ) -> io.NodeOutput:
        report = Report(cls.hidden.unique_id)
        request = ClipRequest(
            width=width,
            height=height,
            start=start,
            frame_count=frame_count,
            fps=timing.get("fps"),
            stride=timing.get("stride", 1),
            crop=crop,
            folder_fps=folder_fps,
            memory=free_memory(torch.device("cpu")),
            damaged="skip" if skip_damaged else "refuse",
        )
        path = clips.find(file)
        if model is None:
            clip = read_clip(path, request, raise_if_cancelled)
        else:
            clip = read_snapped(path, request, family_of_model(model), raise_if_cancelled)
        taken = clip.report
        if vae is not None and (left_out := what_it_leaves_out(vae, *clip.frames.shape[:3])):
            taken += f"; {left_out}"
        report.tell("; ".join(part for part in taken.split("; ") if part not in clip.warnings))
        frames, height, width, _ = clip.frames.shape
        still = still_warning(clip.frames.movedim(-1, 0)[None])
        for text in filter(None, (*clip.warnings, still, _unlike_training(vae, ClipSize(frames, width, height)))):
            report.warn(text)
        preview = cls._preview(clip.frames, clip.fps)
        return io.NodeOutput(clip.frames, clip.fps, len(clip.frames), taken, ui=report.ui(preview))

    @classmethod
    def _preview(cls, frames: torch.Tensor, fps: float) -> ui.PreviewVideo:
        """The clip as a film on the node, in place of the source that the upload widget shows."""
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            "sma_clip", folder_paths.get_temp_directory()
        )
        file = f"{name}_{counter:05}_.mp4"
        even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
        write_video(even, fps, Path(folder) / file)
        return ui.PreviewVideo([ui.SavedResult(file, subfolder, io.FolderType.temp)])


def _unlike_training(vae: Any, size: ClipSize) -> str:
    trained = getattr(vae, "trained_on", None)
    return "" if trained is None else trained.warning(size, "The model of this VAE")


class EmptyVideoLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        size = {"default": 256, "min": 2, "max": 8192, "step": 2}
        return io.Schema(
            node_id="SMA_EmptyVideoLatent",
            display_name="Empty Video Latent",
            category="Spectral Motion/clip",
            description="Room for a new video, for any model: asks the VAE how many channels, latent frames and latent "
            "pixels it makes of a clip. Core's empty latents know one family each.",
            search_aliases=["empty latent video", "video size", "video length"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE that will decode the video."),
                io.Int.Input("width", **size, tooltip="Width of the video in pixels."),
                io.Int.Input("height", **size, tooltip="Height of the video in pixels."),
                io.Int.Input(
                    "frame_count",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Frames of the video. Many VAEs can only make 4n+1 or 8n+1 of them; the node says how many "
                    "come out.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Videos to make at once."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="Zeros [batch, channels, frames, height, width].")
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, vae: Any, width: int, height: int, frame_count: int, batch_size: int) -> io.NodeOutput:
        report = Report(cls.hidden.unique_id)
        factor = vae.spacial_compression_encode()
        for side, pixels in (("Width", width), ("Height", height)):
            if pixels % factor:
                near = nearest_side(vae, pixels)
                raise ValueError(f"{side} is {pixels}; this VAE needs multiples of {factor}. Use {near}.")
        frames, decoded = frame_counts(vae, frame_count)
        shape = (batch_size, vae.latent_channels, frames, height // factor, width // factor)
        check_room(shape, vae.output_device, "an empty latent", "frame_count, width, height or batch_size")
        latent = torch.zeros(shape, device=vae.output_device)
        short = "" if decoded == frame_count else f" ({frame_count} asked; this VAE cannot make that number)"
        report.tell(f"{decoded} frames, {width}x{height}{short}")
        if text := _unlike_training(vae, ClipSize(decoded, width, height)):
            report.warn(text)
        return io.NodeOutput({"samples": latent, "downscale_ratio_spacial": factor}, ui=report.ui())
