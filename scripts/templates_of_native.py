"""Templates of the models that the host loads itself."""

from __future__ import annotations

from template_parts import HUB, Backbone, Loader, Model, note

NATIVE_TRAINING = {"steps": 300, "learning_rate": 1e-4}
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


NATIVE: tuple[Backbone, ...] = (
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
            "save half of the time, select the low noise trainer and its LoRA loader and press Ctrl+B. 8-bit weights train as they are, and the "
            "LoRAs run in *bypass* beside them. The samplers change over where the trainings do: of 20 steps at the model's shift of 8, step 11 "
            "is the first below sigma 0.875. Another shift or number of steps needs another step there. Run here on tiny random weights only.",
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
