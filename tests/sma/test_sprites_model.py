from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from sma.sprites.data import random_batch
from sma.sprites.model import (
    UNET_CONFIG,
    SpritesModel,
    generate,
    load_sprites,
    sample,
    sampling_sigmas,
    save,
    sigmas,
    to_latent,
    to_video,
)


@pytest.fixture(scope="module")
def model() -> SpritesModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SpritesModel().eval()


def test_latents_hold_every_pixel_and_return_it() -> None:
    video = random_batch(2, torch.Generator().manual_seed(0)).video
    latent = to_latent(video)
    assert latent.shape == (2, 12, 8, 8, 8)
    # Channel order: colour, then row, then column inside the 2x2 patch.
    assert latent[1, 1 * 4 + 1 * 2 + 0, 3, 2, 5] == video[1, 1, 3, 2 * 2 + 1, 2 * 5 + 0] * 2 - 1
    torch.testing.assert_close(to_video(latent), video, rtol=0, atol=1e-6)
    assert to_video(torch.full((1, 12, 1, 2, 2), 3.0)).max() == 1.0
    with pytest.raises(ValueError, match="16x15"):
        to_latent(video[..., :15, :])


def test_schedule_is_scaled_linear_with_zero_terminal_snr() -> None:
    table = sigmas()
    # Written out in plain floats: betas linear in the square root, then arXiv 2305.08891 algorithm 1.
    roots, product = [], 1.0
    for step in range(1000):
        root = 0.00085**0.5 + (0.02**0.5 - 0.00085**0.5) * step / 999
        product *= 1 - root**2
        roots.append(math.sqrt(product))
    shifted = [(root - roots[-1]) * roots[0] / (roots[0] - roots[-1]) for root in roots]
    expected = [math.sqrt(1 / root**2 - 1) for root in shifted[:-1]]
    torch.testing.assert_close(table[:-1], torch.tensor(expected), rtol=1e-5, atol=0)
    assert table[-1] == pytest.approx(4518.76, rel=1e-4)
    # ComfyUI's stand-in for the last level lies below the exact value of the one before it.
    assert (table[1:-1] > table[:-2]).all()


def test_sampling_levels_start_at_the_terminal_one_and_end_clean() -> None:
    levels = sampling_sigmas(20)
    assert levels.shape == (21,)
    assert levels[0] == sigmas()[-1]
    assert levels[-1] == 0
    assert (levels[1:] < levels[:-1]).all()


def test_denoise_inverts_a_network_that_knows_the_velocity(
    model: SpritesModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(3, 12, 2, 4, 4, generator=generator) for _ in range(2))
    timestep = torch.tensor([10, 500, 990])
    sigma = sigmas()[timestep]
    s = sigma.view(3, 1, 1, 1, 1)
    alpha, spread = 1 / (1 + s**2).sqrt(), s / (1 + s**2).sqrt()

    def answer(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        torch.testing.assert_close(x, alpha * x0 + spread * noise)
        assert torch.equal(t, timestep)
        return alpha * noise - spread * x0

    monkeypatch.setattr(model, "velocity", answer)
    torch.testing.assert_close(model.denoise(x0 + s * noise, sigma, torch.zeros(3, 5, 32)), x0, rtol=1e-4, atol=1e-5)


def test_frames_have_positions_where_temporal_attention_begins(model: SpritesModel) -> None:
    attention = model.unet.down_blocks[0].temp_attentions[0]
    frames = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(5)).expand(4, -1, -1, -1)
    with torch.no_grad():
        out = attention(frames, 4)
    # Equal frames come out different, which attention without positions could not do.
    assert (out[0] - out[1]).abs().max() > 1e-3
    seen = []
    hook = attention.transformer_blocks[0].norm1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        attention(frames, 4)
    hook.remove()
    added = (seen[0] - seen[0][:, :1])[0, 2]
    angles = [2 * 10000.0 ** (-2 * (k // 2) / len(added)) for k in range(len(added))]
    expected = [math.sin(angle) if k % 2 == 0 else math.cos(angle) - 1 for k, angle in enumerate(angles)]
    torch.testing.assert_close(added, torch.tensor(expected), rtol=0, atol=1e-5)


def test_timestep_is_the_nearest_in_log_sigma(model: SpritesModel, monkeypatch: pytest.MonkeyPatch) -> None:
    table, seen = sigmas(), []
    monkeypatch.setattr(model, "velocity", lambda x, t, context: seen.append(t) or x)
    between = torch.stack([(table[k].log() * 0.6 + table[k + 1].log() * 0.4).exp() for k in (3, 400, 998)])
    model.denoise(torch.zeros(3, 12, 1, 2, 2), between, torch.zeros(3, 5, 32))
    assert seen[0].tolist() == [3, 400, 998]


def test_sampling_recovers_a_known_gaussian() -> None:
    # Data of standard deviation d have the closed-form denoiser x d^2 / (d^2 + s^2), and the flow scales noise by d.
    d = 0.3
    noise = torch.randn(1, 12, 2, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def denoise(x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        return x * d**2 / (d**2 + sigma.view(-1, 1, 1, 1, 1) ** 2)

    result = sample(denoise, noise, sampling_sigmas(1000).double(), torch.zeros(1, 2, 32))
    torch.testing.assert_close(result, d * noise, rtol=0.02, atol=0)


def test_guidance_extrapolates_from_null_to_prompt() -> None:
    def denoise(x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        return context.mean((1, 2)).view(-1, 1, 1, 1, 1).expand_as(x)

    noise, context, null = torch.zeros(1, 1, 1, 1, 1), torch.full((1, 2, 4), 0.5), torch.full((1, 2, 4), 0.2)
    result = sample(denoise, noise, sampling_sigmas(2), context, null=null, guidance=3.0)
    assert result.item() == pytest.approx(0.2 + 3 * 0.3)
    assert sample(denoise, noise, sampling_sigmas(2), context).item() == pytest.approx(0.5)


def test_generation_is_deterministic_and_follows_the_prompt_embedding(model: SpritesModel) -> None:
    noise = torch.randn(2, 12, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    videos = [generate(model, prompts, noise, steps=2) for prompts in (["red circle"] * 2,) * 2]
    assert videos[0].shape == (2, 3, 8, 16, 16)
    assert torch.equal(videos[0], videos[1])
    assert not torch.equal(generate(model, ["blue square"] * 2, noise, steps=2), videos[0])


def test_saved_weights_come_back_with_config_and_record(model: SpritesModel, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save(model, file, {"steps": 7})
    back = load_sprites(file)
    assert not back.training
    assert all(torch.equal(back.state_dict()[key], value) for key, value in model.state_dict().items())
    with safe_open(str(file), framework="pt") as opened:
        keys = set(opened.keys())
        assert json.loads(opened.metadata()["config"])["unet"] == UNET_CONFIG
        assert json.loads(opened.metadata()["training"]) == {"steps": 7}
    assert {"prompt.colour.weight", "prompt.shape.weight", "unet.conv_in.weight"} <= keys
    assert all(key.startswith(("unet.", "prompt.")) for key in keys)
    assert file.stat().st_size < 8e6


def test_missing_weights_are_named_with_the_way_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="sma.sprites.train"):
        load_sprites(tmp_path / "none.safetensors")
