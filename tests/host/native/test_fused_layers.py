"""A LoRA in a real server, behind it a node that computes the layers in its own way: the LoRA's node says so, now and later."""

from __future__ import annotations

import uuid

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def graph(native_base) -> dict:
    folder = native_base / "output" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    key, generator = "diffusion_model.blocks.{}.self_attn.v", torch.Generator().manual_seed(1)
    save_file(
        {
            f"{key.format(block)}.lora_{factor}.weight": torch.randn(*shape, generator=generator)
            for block in range(2)
            for factor, shape in (("A", (4, 128)), ("B", (128, 4)))
        },
        folder / "fused.safetensors",
    )
    wearing = {"source": "file", "source.file": "fused.safetensors", "strength": 1.0, "apply": "bypass"}
    range_ = {"start_percent": 0.0, "end_percent": 1.0, "first_frame": 0, "last_frame": -1}
    text = {"text": "a square", "family": "wan"}
    sampling = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["fused", 0], "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["latent", 0]}
    size = {"width": 32, "height": 32, "length": 5, "batch_size": 1}
    nodes = {
        "unet": ("UNETLoader", {"unet_name": "tiny_wan.safetensors", "weight_dtype": "default"}),
        "lora": ("SMA_LoadMotionLoRA", {"model": ["unet", 0], **wearing, **range_}),
        "fused": ("StandInFused", {"model": ["lora", 0]}),
        "text": ("StandInTextEncode", text),
        "latent": ("EmptyHunyuanLatentVideo", size),
        "sampler": ("KSampler", sampling | links),
        "save": ("SaveLatent", {"samples": ["sampler", 0], "filename_prefix": "fused"}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def test_the_loras_node_warns_of_the_sampling_behind_it(native_server, graph):
    workflow = str(uuid.uuid4())

    def run() -> tuple[str, list[str]]:
        extra = {"extra_pnginfo": {"workflow": {"id": workflow}}}
        queued = {"prompt": graph, "client_id": uuid.uuid4().hex, "extra_data": extra}
        result = native_server.wait(native_server.post("/prompt", queued)["prompt_id"])
        assert result.status == "success", result.messages
        entry = native_server.get(f"/spectral_motion/reports/{workflow}")["lora"]
        (line,) = entry["report"]
        return line, entry["warnings"]

    text = (
        "The LoRA changed nothing in the last sampling: 2 of the 2 layers it is computed beside were not called, for example "
        "blocks.0.self_attn.v. Another node may compute them in its own way: set apply to patch weights. Or an input that they are for is "
        "not connected."
    )
    bypassed, patched = (f"4 of 4 keys applied (ComfyUI format, rank 4, {how})" for how in ("bypassed", "patched"))
    assert run() == (bypassed, [text])
    graph["sampler"]["inputs"]["seed"] = 2
    assert run() == (bypassed, [text]), "its result comes from the cache"
    assert run() == (bypassed, [text]), "all of it comes from the cache"
    graph["sampler"]["inputs"]["model"] = ["lora", 0]
    assert run() == (bypassed, [])
    graph["sampler"]["inputs"]["model"] = ["fused", 0]
    graph["lora"]["inputs"]["apply"] = "patch weights"
    assert run() == (patched, [])
