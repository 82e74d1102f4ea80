"""Which layers, which noise and which clips: what Train Motion LoRA does with the choices of its later inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import write_ltx


@pytest.fixture
def sigmas(host, monkeypatch):
    """Every sigma that a training draws."""
    module, drawn = host.module("nodes.host.training"), []
    denoiser = module.HostDenoiser

    def recording(denoisers, *rest):
        def recorded(x_t, sigma):
            drawn.extend(sigma.tolist() if torch.is_grad_enabled() else ())
            return denoisers[0](x_t, sigma)

        return denoiser((recorded,), *rest)

    monkeypatch.setattr(module, "HostDenoiser", recording)
    return drawn


@pytest.mark.parametrize("expert, low, high", [("high noise", 0.875, 1.0), ("low noise", 0.0, 0.875)])
def test_an_expert_learns_at_the_noise_it_serves_and_its_files_are_named_after_it(
    host, wan_case, sigmas, said, expert, low, high
):
    name = expert.replace(" ", "_")
    lora, _ = wan_case.train(expert=expert, steps=20, save_every=20, save_prefix=f"two_{low}", noise_bias=1.0)
    assert low <= min(sigmas) < max(sigmas) <= high
    assert max(sigmas) - min(sigmas) > 0.6 * (high - low)
    assert lora.metadata["expert"] == expert
    assert any(f"{expert} expert, sigma " in line for line in said)
    saved = (Path(host.base) / "output" / "loras").glob(f"two_{low}_{name}_step00020*")
    assert len(list(saved)) == 1
    host.call("SMA_SaveMotionLoRA", lora=lora, filename_prefix=f"kept_{low}")
    assert list((Path(host.base) / "output" / "loras").glob(f"kept_{low}_{name}_*"))
    states = host.module("nodes.host.paths").saved_states()
    assert any(state.startswith(f"two_{low}_{name}") for state in states)


def test_the_boundary_of_the_experts_follows_the_shift_of_the_model(host, wan_case, sigmas):
    (shifted,) = host.call("ModelSamplingSD3", model=wan_case.model, shift=3.0)
    wan_case.train(model=shifted, expert="high noise", expert_boundary=0.6, steps=20, noise_bias=1.0)
    assert 0.6 <= min(sigmas) < 0.66


def test_the_plain_model_knows_no_expert(wan_case, sigmas, said):
    lora, _ = wan_case.train(steps=20, noise_bias=1.0)
    assert min(sigmas) < 0.875 < max(sigmas)
    assert "expert" not in lora.metadata and not any("expert" in line for line in said)


def shifted(level):
    """A flow model's sigma at shift 8."""
    return 8 * level / (1 + 7 * level)


@pytest.mark.parametrize(
    ("bias", "median", "words"),
    [
        (0.0, shifted(0.5), "noise bias 1 (automatic), median sigma 0.889"),
        (0.4, shifted(0.01 + 0.98 * 0.5**0.4), "noise bias 0.4, median sigma 0.961"),
    ],
)
def test_flow_models_train_at_the_median_sigma_that_the_node_says(host, wan_case, sigmas, said, bias, median, words):
    (model,) = host.call("ModelSamplingSD3", model=wan_case.model, shift=8.0)
    lora, _ = wan_case.train(model=model, steps=2, batch_size=32, noise_bias=bias)
    assert len(sigmas) == 64
    below = sum(sigma < median for sigma in sigmas)
    assert 30 <= below <= 34  # drawn in 32 equal strata
    assert any(words in line for line in said)
    assert lora.metadata["noise"] == [0.01, 0.99, bias or 1.0]


def test_an_expert_says_the_median_of_its_own_range(host, wan_case, sigmas, said):
    (model,) = host.call("ModelSamplingSD3", model=wan_case.model, shift=8.0)
    wan_case.train(model=model, steps=1, batch_size=32, noise_bias=0.0, expert="low noise")
    boundary = 0.875 / (8 - 7 * 0.875)  # the level at which sigma is 0.875
    median = shifted((0.01 + boundary) / 2)
    assert 15 <= sum(sigma < median for sigma in sigmas) <= 17
    assert any(f"noise bias 1 (automatic), median sigma {median:.3g}" in line for line in said)


def test_models_of_another_prediction_favour_high_noise_by_themselves(sprites_case, sigmas, said):
    lora, _ = sprites_case.train(steps=1, noise_bias=0.0)
    automatic = sigmas.copy()
    sigmas.clear()
    sprites_case.train(steps=1, noise_bias=0.4)
    assert automatic == sigmas
    assert any("noise bias 0.4 (automatic), median sigma " in line for line in said)
    assert lora.metadata["noise"] == [0.01, 0.99, 0.4]


def test_an_expert_without_noise_to_learn_at_is_refused(wan_case):
    with pytest.raises(ValueError, match=r"high noise expert serves noise levels 0.467 to 1 and 0.01 to 0.3 are asked"):
        wan_case.train(expert="high noise", noise_high=0.3)


def test_experts_of_models_that_have_none_are_refused(sprites_case):
    with pytest.raises(ValueError, match="one of two flow models and this model predicts v. Set expert to 'one model"):
        sprites_case.train(expert="low noise")


def test_experts_of_flow_models_that_have_none_are_refused(host, wan_case):
    unet = write_ltx(Path(host.base) / "models")
    (model,) = host.call("UNETLoader", unet_name=unet, weight_dtype="default")
    with pytest.raises(
        ValueError, match="LTX-Video is one model for all noise. Set expert to 'one model for all noise'"
    ):
        wan_case.train(model=model, latent={"samples": torch.randn(1, 128, 3, 2, 2)}, expert="high noise")


def test_blocks_and_role_choose_together(wan_case, said):
    lora, _ = wan_case.train(steps=1, blocks="1", layers={"layers": "cross-attention"})
    layers = {key.rsplit(".lora", 1)[0] for key in lora if ".lora_" in key}
    assert layers == {f"diffusion_model.blocks.1.cross_attn.{x}" for x in "qkvo"}
    assert lora.metadata["blocks"] == "1"
    assert any(" 4 of " in line for line in said)
    with pytest.raises(ValueError, match="go up to 7 and the network has 0 to 1"):
        wan_case.train(blocks="0-7")


def test_a_regular_expression_is_kept_in_the_metadata(wan_case):
    pattern = r"blocks\.0\.self_attn\.q"
    lora, _ = wan_case.train(steps=1, layers={"layers": "regular expression", "pattern": pattern})
    assert lora.metadata["pattern"] == pattern
    assert json.dumps(lora.metadata)


def test_the_memory_is_told_before_the_first_step(case, said):
    case.train(steps=2)
    first = next(index for index, line in enumerate(said) if line.startswith("step 1/2"))
    assert any("modules adapted" in line and "; about " in line and "B of memory, " in line for line in said[:first])


def test_several_clips_share_the_prompt(case):
    """The host prepares conditioning for all clips at once, and each forward sees one of them."""
    samples = case.learning["latent"]["samples"]
    expected = case.forward(case.model)
    case.learning["latent"] = {"samples": torch.cat([samples, samples.flip(2)])}
    try:
        answer = case.inside(case.model, lambda denoiser: _first(denoiser))
        lora, _ = case.train(steps=4)
    finally:
        case.learning["latent"] = {"samples": samples}
    assert torch.equal(answer, expected)
    assert lora


def test_each_clip_may_have_a_prompt_of_its_own(host, case):
    """The host averages over several prompts of one sampling; here each clip's forward sees its own, as if it were trained alone."""
    samples, prompt = case.learning["latent"]["samples"], case.learning["positive"]
    (other,) = host.call("CLIPTextEncode", clip=case.clip, text="green triangle")
    alone = case.forward(case.model)
    case.learning["positive"] = other
    try:
        alone_with_other = case.forward(case.model)
        case.learning["latent"] = {"samples": torch.cat([samples, samples.flip(2)])}
        (case.learning["positive"],) = host.call("ConditioningCombine", conditioning_1=prompt, conditioning_2=other)
        first, second = case.inside(case.model, lambda denoiser: [_answer(d, denoiser) for d in denoiser.denoisers])
        lora, _ = case.train(steps=4)
    finally:
        case.learning |= {"latent": {"samples": samples}, "positive": prompt}
    assert torch.equal(first, alone)
    assert torch.equal(second, alone_with_other)
    assert (first - second).abs().max() > 1e-3
    assert lora


def _first(denoiser):
    return _answer(denoiser.denoise, denoiser)


def _answer(denoise, denoiser):
    x = torch.randn(denoiser.clip[:1].shape, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return denoise(x, torch.full((1,), denoiser.sigma_at(0.6))).clone()
