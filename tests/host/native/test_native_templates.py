"""Every template of a native model, end to end: the graph as it ships, the files its own names ask for tiny and random.

Stand-ins encode the text, since the host builds those encoders at their full size. Smaller and shorter: two steps, 9 frames of 64x64.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from template import TWINS, video_of
from tiny_models import write_quantised

TEXT_LOADERS = ("CLIPLoader", "DualCLIPLoader")


def checkpoint_of(models: Path, parts: Iterable[tuple[str, str]]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of several files under a prefix each, and their configs in one."""
    tensors, config = {}, {}
    for name, prefix in parts:
        with safe_open(models / name, framework="pt") as file:
            tensors |= {prefix + key: file.get_tensor(key) for key in file.keys()}
            config |= json.loads((file.metadata() or {}).get("config", "{}"))
    return tensors, {"config": json.dumps(config)}


@pytest.fixture(scope="module")
def named_files(native_base) -> None:
    """The tiny models under the names that the templates ask for."""
    models = native_base / "models"
    eight_bit = write_quantised(models / "diffusion_models" / "tiny_wan.safetensors", "float8_e4m3fn")
    copies = {
        "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors": "diffusion_models/tiny_wan.safetensors",
        "diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": f"diffusion_models/{eight_bit}",
        "diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": f"diffusion_models/{eight_bit}",
        "diffusion_models/hunyuan_video_t2v_720p_bf16.safetensors": "diffusion_models/tiny_hunyuan.safetensors",
        "vae/wan_2.1_vae.safetensors": "vae/tiny_wan_vae.safetensors",
        "vae/hunyuan_video_vae_bf16.safetensors": "vae/tiny_hunyuan_vae.safetensors",
    }
    for name, source in copies.items():
        shutil.copy2(models / source, models / name)
    parts = (
        ("diffusion_models/tiny_ltx.safetensors", "model.diffusion_model."),
        ("vae/tiny_ltx_vae.safetensors", "vae."),
    )
    tensors, metadata = checkpoint_of(models, parts)
    (models / "checkpoints").mkdir()
    save_file(tensors, models / "checkpoints" / "ltx-video-2b-v0.9.5.safetensors", metadata)


def short(graph: dict, family: str) -> dict:
    """The template with stand-ins for its text encoders, a small clip and two steps of everything."""
    graph = {key: node for key, node in graph.items() if node["class_type"] not in TEXT_LOADERS}
    for node in graph.values():
        inputs = node["inputs"]
        match node["class_type"]:
            case "CLIPTextEncode":
                node.update(class_type="StandInTextEncode", inputs={"text": inputs["text"], "family": family})
            case "SMA_LoadMotionClip":
                inputs.update({"frame_count": 9, "width": 64, "height": 64})
            case "SMA_TrainMotionLoRA":
                inputs.update(steps=2, save_every=2, rank=4)
            case "KSampler":
                inputs.update(steps=2)
            case "KSamplerAdvanced":
                inputs.update(steps=2, start_at_step=min(inputs["start_at_step"], 1))
                inputs["end_at_step"] = 1 if inputs["end_at_step"] < 10000 else 10000
    return graph


@pytest.mark.parametrize(
    "name, family, files",
    [
        ("wan2.1", "wan", 1),
        ("wan2.2", "wan", 2),
        ("ltx-video", "ltx", 1),
        ("hunyuan-video", "hunyuan", 1),
    ],
)
def test_a_template_trains_and_makes_a_video(native_server, named_files, name, family, files):
    graph = short(json.loads((TWINS / f"{name}-motion-transfer.api.json").read_text()), family)
    result = native_server.run(graph, timeout=300)
    assert result.status == "success", result.messages
    assert video_of(result, graph, native_server).stat().st_size > 1000
    loras = sorted((native_server.base / "output" / "loras").glob(f"{name}*"))
    assert len(loras) == files
    if files == 2:
        assert ["high" in lora.name for lora in loras] == [True, False]
        assert "low" in loras[1].name
    for lora in loras:
        with safe_open(lora, framework="pt") as file:
            ups = [file.get_tensor(key) for key in file.keys() if key.endswith("lora_B.weight")]
        assert ups and all(up.any() for up in ups)


def test_the_samplers_change_over_where_the_trainings_do(host):
    """As core samples Wan 2.2: the first step that the low noise sampler takes is the first below the boundary."""
    import comfy.model_sampling
    import comfy.samplers
    import comfy.supported_models

    experts = host.module("sma.experts")
    graph = json.loads((TWINS / "wan2.2-motion-transfer.api.json").read_text())
    high, low = (node["inputs"] for node in graph.values() if node["class_type"] == "KSamplerAdvanced")
    schedule = comfy.model_sampling.ModelSamplingDiscreteFlow()
    schedule.set_parameters(**comfy.supported_models.WAN21_T2V.sampling_settings)
    sigmas = comfy.samplers.calculate_sigmas(schedule, high["scheduler"], high["steps"])
    switch = high["end_at_step"]
    assert switch == low["start_at_step"]
    assert (high["scheduler"], high["steps"]) == (low["scheduler"], low["steps"])
    assert sigmas[switch - 1] >= experts.T2V_BOUNDARY > sigmas[switch]
