"""Where the host places weights dynamically, its default on CUDA, training gives what it gives on weights that stay loaded."""

from __future__ import annotations

import comfy_server
import harness
import pytest
import torch
from native_graph import FAMILIES, through
from safetensors.torch import load_file
from template import by_type, short_template

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@pytest.fixture
def trained(native_base, monkeypatch):
    """trained(family, *flags) -> the LoRA that a server with these flags trains on the GPU."""
    monkeypatch.setattr(comfy_server, "FLAGS", [flag for flag in comfy_server.FLAGS if flag != "--cpu"])

    def train(family, *flags):
        graph, prefix = through(short_template(), family), f"cuda_{family}_{len(flags)}"
        by_type(graph)["SMA_TrainMotionLoRA"].update(save_prefix=prefix)
        python, host = harness.ensure_environment()
        with harness.serve(python, host, base=native_base, flags=flags) as server:
            result = server.run(graph)
        assert result.status == "success", result.messages
        (lora,) = (native_base / "output" / "loras").glob(f"{prefix}_step*")
        return load_file(lora)

    return train


@pytest.mark.parametrize("family", FAMILIES)
def test_dynamically_placed_weights_train_as_loaded_ones(trained, family):
    dynamic, loaded = trained(family), trained(family, "--disable-dynamic-vram")
    assert dynamic.keys() == loaded.keys()
    assert any(value.any() for name, value in loaded.items() if name.endswith("lora_B.weight"))
    for name, value in loaded.items():
        torch.testing.assert_close(dynamic[name], value, rtol=1e-2, atol=1e-4)
