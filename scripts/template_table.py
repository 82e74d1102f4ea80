"""What the templates of real models differ by: loaders and files, sizes, settings, prompts and the note."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Model(NamedTuple):
    """A file the template needs: the page offers it for download where it is missing."""

    name: str
    url: str
    directory: str


@dataclass(frozen=True)
class Loader:
    """A node that brings MODEL, CLIP or VAE; takes: those of loaders before it that it passes on changed."""

    kind: str
    widgets: dict[str, Any]
    outputs: tuple[str, ...]
    models: tuple[Model, ...] = ()
    takes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backbone:
    """One template.

    Attributes:
        size: width, height in pixels.
        training, sampling: widgets that differ from the base's.
        bypass: the LoRA runs beside the weights, which are quantised, instead of being added to them.
        snap: the clip is rounded to the lengths and sizes the model takes.
        second: the file of a second expert, for low noise, which takes over at the sampling step ``switch``.
    """

    name: str
    loaders: tuple[Loader, ...]
    size: tuple[int, int]
    frames: int
    fps: float
    sampling: dict[str, Any]
    note: str
    training: dict[str, Any] = field(default_factory=dict)
    training_prompt: str = "a red circle is moving"
    prompt: str = "a red balloon is flying over a meadow, film"
    negative_prompt: str = "low resolution, blurry, watermark"
    bypass: bool = False
    snap: bool = False
    second: Model | None = None
    switch: int = 0


HUB = "https://huggingface.co"


def repository(name: str, files: tuple[str, ...], folder: str) -> tuple[Model, ...]:
    """Files of a model repository under models/diffusers."""
    models = []
    for file in files:
        parent, _, base = file.rpartition("/")
        directory = f"diffusers/{folder}/{parent}".rstrip("/")
        models.append(Model(base, f"{HUB}/{name}/resolve/main/{file}", directory))
    return tuple(models)


def text_to_video_folder(folder: str, models: tuple[Model, ...]) -> Loader:
    widgets = {"source": "diffusers folder", "source.folder": folder, "weights": "float16", "fps": 24.0}
    return Loader("SMA_LoadTextToVideoModel", widgets, ("MODEL", "CLIP", "VAE"), models)


PICKLED = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/pytorch_model.bin",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
)
HALF = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
)
NATIVE_TRAINING = {"steps": 300, "learning_rate": 1e-4, "noise_bias": 1.0}
REPACKAGED = f"{HUB}/Comfy-Org"


def native_loaders(network: Model, text_encoder: Loader, vae: Model) -> tuple[Loader, ...]:
    return (
        Loader("UNETLoader", {"unet_name": network.name, "weight_dtype": "default"}, ("MODEL",), (network,)),
        text_encoder,
        Loader("VAELoader", {"vae_name": vae.name}, ("VAE",), (vae,)),
    )


def clip_loader(kind: str, model: Model) -> Loader:
    return Loader("CLIPLoader", {"clip_name": model.name, "type": kind, "device": "default"}, ("CLIP",), (model,))


def split_file(repository_name: str, directory: str, name: str) -> Model:
    """A file of one of the host's own repackaged repositories."""
    return Model(name, f"{REPACKAGED}/{repository_name}/resolve/main/split_files/{directory}/{name}", directory)


WAN_TEXT = clip_loader(
    "wan", split_file("Wan_2.1_ComfyUI_repackaged", "text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
)
WAN_VAE = split_file("Wan_2.1_ComfyUI_repackaged", "vae", "wan_2.1_vae.safetensors")
DDIM = {"sampler_name": "ddim", "scheduler": "ddim_uniform"}

HOW = """
- **Your film**: pick or upload it in *Load Motion Clip*; its line says which frames the model will see. Describe in *Training prompt* what
moves, without style or background: the LoRA learns what the words do not say.
- **Without the LoRA**: set *strength_model* to 0 and press *Run* again; the training is not repeated. **Cancel** keeps the last good
state: choose it in *resume_from*. LoRAs of every 100 steps lie in output/loras, for core's LoRA loaders and *Load Motion LoRA*.
- **Spectral Loss** (SMA): on the pack's tiny model no effect beside *denoising* could be read, and a strong one beside *residual cosine
(VMC)* alone (benchmarks/README.md). On this model it is unmeasured: compare with both weights at 0."""


def note(title: str, files: str, expect: str) -> str:
    paragraphs = f"## {title}\n- **Files**: {files}\n- **What to expect**: {expect}{HOW}"
    # One line a paragraph, as the page's editor has it.
    lines: list[str] = []
    for line in paragraphs.splitlines():
        if lines and not line.startswith(("-", "#")):
            lines[-1] += " " + line
        else:
            lines.append(line)
    return "\n".join(lines)


BACKBONES: tuple[Backbone, ...] = (
    Backbone(
        name="zeroscope",
        loaders=(
            text_to_video_folder(
                "zeroscope_v2_576w", repository("cerspense/zeroscope_v2_576w", PICKLED, "zeroscope_v2_576w")
            ),
        ),
        size=(576, 320),
        frames=24,
        fps=8.0,
        sampling={"steps": 30, "cfg": 9.0} | DDIM,
        training={"steps": 300, "learning_rate": 5e-4},
        note=note(
            "Motion transfer on ZeroScope v2 576w",
            "cerspense/zeroscope_v2_576w as models/diffusers/zeroscope_v2_576w, folder for folder. Its .bin files are read as plain tensors.",
            "24 frames of 576x320 at 8 fps. 300 steps is what MotionDirector's authors use for one clip of 24 frames; they report about 14 GB "
            "of VRAM for 16 frames of 384x384. Run here on tiny random weights only: out of memory, take 16 frames or weights *float8*.",
        ),
    ),
    Backbone(
        name="modelscope",
        loaders=(
            text_to_video_folder(
                "text-to-video-ms-1.7b", repository("ali-vilab/text-to-video-ms-1.7b", HALF, "text-to-video-ms-1.7b")
            ),
        ),
        size=(256, 256),
        frames=16,
        fps=8.0,
        sampling={"steps": 25, "cfg": 9.0} | DDIM,
        training={"steps": 300, "learning_rate": 5e-4},
        note=note(
            "Motion transfer on ModelScope 1.7b",
            "ali-vilab/text-to-video-ms-1.7b as models/diffusers/text-to-video-ms-1.7b, folder for folder; its fp16 files are enough.",
            "16 frames of 256x256 at 8 fps, the size it was trained at: the lightest of this family. Many of its videos carry a watermark it "
            "learned. Run here on tiny random weights only.",
        ),
    ),
    Backbone(
        name="videocrafter2",
        loaders=(
            Loader(
                "SMA_LoadTextToVideoModel",
                {
                    "source": "single files",
                    "source.diffusion_model": "videocrafter2/diffusion_pytorch_model.safetensors",
                    "source.text_encoder": "text-to-video-ms-1.7b/model.fp16.safetensors",
                    "source.vae": "text-to-video-ms-1.7b/diffusion_pytorch_model.fp16.safetensors",
                    "source.prediction": "epsilon",
                    "weights": "float16",
                    "fps": 24.0,
                },
                ("MODEL", "CLIP", "VAE"),
                (
                    Model(
                        "diffusion_pytorch_model.safetensors",
                        f"{HUB}/adamdad/videocrafterv2_diffusers/resolve/main/diffusion_pytorch_model.safetensors",
                        "diffusion_models/videocrafter2",
                    ),
                    Model(
                        "model.fp16.safetensors",
                        f"{HUB}/ali-vilab/text-to-video-ms-1.7b/resolve/main/text_encoder/model.fp16.safetensors",
                        "text_encoders/text-to-video-ms-1.7b",
                    ),
                    Model(
                        "diffusion_pytorch_model.fp16.safetensors",
                        f"{HUB}/ali-vilab/text-to-video-ms-1.7b/resolve/main/vae/diffusion_pytorch_model.fp16.safetensors",
                        "vae/text-to-video-ms-1.7b",
                    ),
                ),
            ),
        ),
        size=(512, 320),
        frames=16,
        fps=8.0,
        sampling={"steps": 50, "cfg": 12.0} | DDIM,
        training={"steps": 300, "learning_rate": 5e-4},
        note=note(
            "Motion transfer on VideoCrafter2",
            "its UNet in diffusers' layout is published alone (adamdad/videocrafterv2_diffusers); text encoder and VAE are those of "
            "ali-vilab/text-to-video-ms-1.7b, each in a folder of its own: models/diffusion_models/videocrafter2, "
            "models/text_encoders/text-to-video-ms-1.7b, models/vae/text-to-video-ms-1.7b.",
            "16 frames of 512x320, 50 steps, cfg 12, as its authors sample it. It is told a frame rate, *fps* in the loader: 24 is that of the "
            "published pipeline. Run here on tiny random weights only.",
        ),
    ),
    Backbone(
        name="animatediff",
        loaders=(
            Loader(
                "SMA_LoadAnimateDiffModel",
                {
                    "base": "checkpoint",
                    "base.checkpoint": "v1-5-pruned-emaonly-fp16.safetensors",
                    "motion_module": "v3_sd15_mm.ckpt",
                    "weights": "float16",
                },
                ("MODEL", "CLIP", "VAE"),
                (
                    Model(
                        "v1-5-pruned-emaonly-fp16.safetensors",
                        f"{HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
                        "checkpoints",
                    ),
                    Model(
                        "v3_sd15_mm.ckpt",
                        f"{HUB}/guoyww/animatediff/resolve/main/v3_sd15_mm.ckpt",
                        "animatediff_models",
                    ),
                ),
            ),
        ),
        size=(512, 512),
        frames=16,
        fps=8.0,
        sampling={"steps": 25, "cfg": 8.0} | DDIM,
        training={"steps": 300, "learning_rate": 5e-4},
        note=note(
            "Motion transfer on AnimateDiff",
            "any SD 1.5 checkpoint in models/checkpoints and a motion module in models/animatediff_models, where AnimateDiff-Evolved has "
            "its own too. For that pack, *Save Motion LoRA* writes the LoRA in its format.",
            "16 frames of 512x512 at 8 fps; modules v2 and v3 take up to 32 frames. MotionDirector's port to AnimateDiff is reported at about "
            "14 GB of VRAM and 300 steps a clip. Run here on small random weights only: out of memory, take 384x384.",
        ),
    ),
    Backbone(
        name="wan2.1",
        loaders=native_loaders(
            split_file("Wan_2.1_ComfyUI_repackaged", "diffusion_models", "wan2.1_t2v_1.3B_fp16.safetensors"),
            WAN_TEXT,
            WAN_VAE,
        ),
        size=(832, 480),
        frames=33,
        fps=16.0,
        sampling={"steps": 30, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple"},
        training=NATIVE_TRAINING,
        snap=True,
        note=note(
            "Motion transfer on Wan 2.1",
            "as in the host's own Wan template; the page offers them. The 14B model takes the 1.3B's place in the same graph.",
            "33 frames of 832x480 at 16 fps: 9 latent frames. The trainer's line names what it found and estimates the memory before it "
            "starts. Its attention runs over space and time at once, so that a LoRA takes some of the look along with the motion: the less, "
            "the better the training prompt names it. Run here on tiny random weights only.",
        ),
    ),
    Backbone(
        name="wan2.2",
        loaders=native_loaders(
            split_file(
                "Wan_2.2_ComfyUI_Repackaged", "diffusion_models", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"
            ),
            WAN_TEXT,
            WAN_VAE,
        ),
        size=(640, 384),
        frames=33,
        fps=16.0,
        sampling={"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"},
        training=NATIVE_TRAINING,
        bypass=True,
        snap=True,
        second=split_file(
            "Wan_2.2_ComfyUI_Repackaged", "diffusion_models", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"
        ),
        switch=11,
        note=note(
            "Motion transfer on Wan 2.2, both experts",
            "as in the host's own Wan 2.2 template; the page offers them.",
            "two trainings, one for each expert over its own range of noise; files are named after them. Motion is decided at high noise: to "
            "save half of the time, remove the low noise trainer and its LoRA loader. 8-bit weights train as they are, and the LoRAs run in "
            "*bypass* beside them. The change-over at step 11 of 20 is sigma 0.875 at the model's shift of 8. Run here on tiny random weights "
            "only.",
        ),
    ),
    Backbone(
        name="ltx-video",
        loaders=(
            Loader(
                "CheckpointLoaderSimple",
                {"ckpt_name": "ltx-video-2b-v0.9.5.safetensors"},
                ("MODEL", "CLIP", "VAE"),
                (
                    Model(
                        "ltx-video-2b-v0.9.5.safetensors",
                        f"{HUB}/Lightricks/LTX-Video/resolve/main/ltx-video-2b-v0.9.5.safetensors",
                        "checkpoints",
                    ),
                ),
            ),
            clip_loader(
                "ltxv",
                Model(
                    "t5xxl_fp16.safetensors",
                    f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp16.safetensors",
                    "text_encoders",
                ),
            ),
        ),
        size=(704, 480),
        frames=41,
        fps=24.0,
        sampling={"steps": 30, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"},
        training=NATIVE_TRAINING,
        snap=True,
        note=note(
            "Motion transfer on LTX-Video",
            "as in the host's own LTX-Video template; the page offers them.",
            "41 frames of 704x480 at 24 fps: 6 latent frames. The model is told 25 fps, the host's default, unless "
            "*LTXVConditioning* says otherwise. "
            "Its attention runs over space and time at once, so that a LoRA takes some of the look along. Run here on tiny random weights only.",
        ),
    ),
    Backbone(
        name="hunyuan-video",
        loaders=native_loaders(
            split_file("HunyuanVideo_repackaged", "diffusion_models", "hunyuan_video_t2v_720p_bf16.safetensors"),
            Loader(
                "DualCLIPLoader",
                {
                    "clip_name1": "clip_l.safetensors",
                    "clip_name2": "llava_llama3_fp8_scaled.safetensors",
                    "type": "hunyuan_video",
                    "device": "default",
                },
                ("CLIP",),
                (
                    Model(
                        "clip_l.safetensors",
                        f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main/clip_l.safetensors",
                        "text_encoders",
                    ),
                    split_file("HunyuanVideo_repackaged", "text_encoders", "llava_llama3_fp8_scaled.safetensors"),
                ),
            ),
            split_file("HunyuanVideo_repackaged", "vae", "hunyuan_video_vae_bf16.safetensors"),
        ),
        size=(512, 320),
        frames=33,
        fps=24.0,
        # Its guidance is an input of the network; cfg 1 leaves the negative prompt out.
        sampling={"steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"},
        training=NATIVE_TRAINING,
        snap=True,
        note=note(
            "Motion transfer on HunyuanVideo",
            "as in the host's own HunyuanVideo template; the page offers them.",
            "33 frames of 512x320 at 24 fps: 9 latent frames. With cfg 1 the negative prompt is not used. Video and text share one "
            "attention, over space and time at once, so that a LoRA takes some of the look along. Run here on tiny random weights only.",
        ),
    ),
)
