"""Templates of the models that this pack brings loaders for."""

from __future__ import annotations

from template_parts import HUB, Backbone, Loader, Model, note

DDIM = {"sampler_name": "ddim", "scheduler": "ddim_uniform"}


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


UNETS: tuple[Backbone, ...] = (
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
)
