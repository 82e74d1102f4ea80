"""Templates of the models that this pack brings loaders for."""

from __future__ import annotations

from template_parts import HUB, Backbone, Loader, Model, note

DDIM = {"sampler_name": "ddim", "scheduler": "ddim_uniform"}
FAMILY = "ali-vilab/text-to-video-ms-1.7b"
# Of a loader's files the page offers those whose names are widget values, and those of one name only once. Names without a folder mean
# the same on Windows.
TEXT_ENCODER = Model(
    "modelscope_t2v_clip_fp16.safetensors",
    f"{HUB}/{FAMILY}/resolve/main/text_encoder/model.fp16.safetensors",
    "text_encoders",
)
VAE = Model(
    "modelscope_t2v_vae_fp16.safetensors",
    f"{HUB}/{FAMILY}/resolve/main/vae/diffusion_pytorch_model.fp16.safetensors",
    "vae",
)


def text_to_video(name: str, url: str) -> Loader:
    """Loads a UNet of the family, of this name, with the text encoder and the VAE that all of them share."""
    unet = Model(name, f"{HUB}/{url}", "diffusion_models")
    widgets = {
        "source": "single files",
        "source.diffusion_model": unet.name,
        "source.text_encoder": TEXT_ENCODER.name,
        "source.vae": VAE.name,
        "source.prediction": "epsilon",
        "weights": "float16",
        "fps": 24.0,
    }
    return Loader("SMA_LoadTextToVideoModel", widgets, ("MODEL", "CLIP", "VAE"), (unet, TEXT_ENCODER, VAE))


def family_files(unet: str, folder: str = "") -> str:
    """What the note says about the three files, and about the folder in models/diffusers that takes the whole model."""
    both = f"text encoder and VAE of {FAMILY}, which all of this family share"
    three = f"UNet, {both}" if unet == FAMILY else f"the UNet of {unet}, {both}"
    whole = (
        f" Or copy the whole of {unet} to models/diffusers/{folder} and choose *diffusers folder*." if folder else ""
    )
    return (
        f"the page offers all three: {three}. Rename what you download to the name that the loader shows, and press R once it lies in the "
        f"folder that the page names.{whole}"
    )


UNETS: tuple[Backbone, ...] = (
    Backbone(
        name="zeroscope",
        loaders=(
            # Published as .bin only, for which the page has no download button; .pth is the same format.
            text_to_video(
                "zeroscope_v2_576w_unet.pth",
                "cerspense/zeroscope_v2_576w/resolve/main/unet/diffusion_pytorch_model.bin",
            ),
        ),
        size=(576, 320),
        frames=24,
        fps=8.0,
        sampling={"steps": 30, "cfg": 9.0} | DDIM,
        training={"steps": 300, "learning_rate": 5e-4},
        note=note(
            "Motion transfer on ZeroScope v2 576w",
            family_files("cerspense/zeroscope_v2_576w", "zeroscope_v2_576w"),
            "24 frames of 576x320 at 8 fps. 300 steps is what MotionDirector's authors use for one clip of 24 frames; they report about 14 GB "
            "of VRAM for 16 frames of 384x384. Run here on tiny random weights only: out of memory, take 16 frames or weights *float8*.",
        ),
    ),
    Backbone(
        name="modelscope",
        loaders=(
            text_to_video(
                "modelscope_t2v_unet_fp16.safetensors",
                f"{FAMILY}/resolve/main/unet/diffusion_pytorch_model.fp16.safetensors",
            ),
        ),
        size=(256, 256),
        frames=16,
        fps=8.0,
        sampling={"steps": 25, "cfg": 9.0} | DDIM,
        training={"steps": 300, "learning_rate": 5e-4},
        note=note(
            "Motion transfer on ModelScope 1.7b",
            family_files(FAMILY, "text-to-video-ms-1.7b"),
            "16 frames of 256x256 at 8 fps, the size it was trained at: the lightest of this family. Many of its videos carry a watermark it "
            "learned. Run here on tiny random weights only.",
        ),
    ),
    Backbone(
        name="videocrafter2",
        loaders=(
            text_to_video(
                "videocrafter2_unet.safetensors",
                "adamdad/videocrafterv2_diffusers/resolve/main/diffusion_pytorch_model.safetensors",
            ),
        ),
        size=(512, 320),
        frames=16,
        fps=8.0,
        sampling={"steps": 50, "cfg": 12.0} | DDIM,
        training={"steps": 300, "learning_rate": 5e-4},
        note=note(
            "Motion transfer on VideoCrafter2",
            family_files("adamdad/videocrafterv2_diffusers"),
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
                    "group_norm": "as original",
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
