"""Load Text-to-Video Model gives, through core's nodes, the numbers of diffusers and transformers on the same weights."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_diffusers import SCHEDULER, TEXT_ENCODER, UNET, VAE, text_encoder_weights, unet_of


@pytest.fixture(scope="module", params=["zero", "zero-v"])
def pair(request, host, folders, loaded) -> tuple:
    """(MODEL, the same network of diffusers' own, scheduler config)."""
    folder = folders / request.param
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    if request.param == "zero":
        return loaded[0], unet_of(folder), config
    load_model = host.module("nodes.host.text_to_video").load_model
    with torch.inference_mode():
        model = load_model(folder / "unet" / "diffusion_pytorch_model.bin", UNET, config)
    return model, unet_of(folder), config


def test_one_prediction_is_that_of_diffusers(pair, forward, reference_forward):
    from diffusers import DDIMScheduler

    model, unet, config = pair
    alpha = DDIMScheduler.from_config(config).alphas_cumprod[401].double()
    sigma = float(((1 - alpha) / alpha).sqrt())
    assert int(model.get_model_object("model_sampling").timestep(torch.tensor(sigma))) == 401
    expected = reference_forward(unet, config["prediction_type"], 401, sigma)
    torch.testing.assert_close(forward(model, sigma), expected, atol=1e-5, rtol=0)


def ddim(unet, config: dict, contexts: tuple, noise: torch.Tensor) -> torch.Tensor:
    """Ten steps of diffusers' scheduler with guidance 7.5, from x_T = noise."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == list(range(901, 0, -100))
    x = noise * scheduler.init_noise_sigma
    both = torch.cat([contexts[1], contexts[0]])
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            unconditional, conditional = unet(torch.cat([x, x]), timestep, encoder_hidden_states=both).sample.chunk(2)
        x = scheduler.step(unconditional + 7.5 * (conditional - unconditional), timestep, x).prev_sample
    return x


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_ten_ddim_steps_in_core_are_those_of_diffusers(host, pair, contexts):
    import comfy.sample

    model, unet, config = pair
    empty = {"samples": torch.zeros(1, 4, 3, 8, 8)}
    sampling = {"model": model, "cfg": 7.5, "positive": [[contexts[0], {}]], "negative": [[contexts[1], {}]]}
    noise = comfy.sample.prepare_noise(empty["samples"], 5)
    ends_clean = {"steps": 10, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1.0}
    (latent,) = host.call("KSampler", seed=5, latent_image=empty, **ends_clean, **sampling)
    expected = ddim(unet, config | {"set_alpha_to_one": True}, contexts, noise)
    assert relative(latent["samples"] * VAE["scaling_factor"], expected) <= 1e-4

    # As published the scheduler stops one step short of clean, at its alpha_0; core can be told to.
    schedule = model.get_model_object("model_sampling")
    (sigmas,) = host.call("BasicScheduler", model=model, scheduler="ddim_uniform", steps=10, denoise=1.0)
    sigmas = torch.cat([sigmas[:-1], schedule.sigma_min[None]])
    (sampler,) = host.call("KSamplerSelect", sampler_name="ddim")
    custom = {"add_noise": True, "noise_seed": 5, "sampler": sampler, "sigmas": sigmas, "latent_image": empty}
    latent, _ = host.call("SamplerCustom", **custom, **sampling)
    alpha_0 = 1 / (1 + schedule.sigma_min**2)
    unfinished = ddim(unet, config, contexts, noise)
    assert relative(latent["samples"] * VAE["scaling_factor"] * alpha_0.sqrt(), unfinished) <= 1e-4
    assert relative(unfinished, expected) > 1e-3


def test_only_a_new_video_starts_from_diffusers_noise(host, loaded, contexts):
    """A given video, and one whose noise was added before, keep the host's rule; what a mask keeps does so even where it is zero."""
    model = loaded[0].model
    schedule, sigma = model.model_sampling, torch.tensor(3.0)
    zero = torch.zeros(1, 4, 3, 8, 8)
    noise, video = torch.randn(zero.shape), torch.randn(zero.shape)
    torch.testing.assert_close(schedule.noise_scaling(sigma, noise, zero), noise * 10**0.5)
    torch.testing.assert_close(schedule.noise_scaling(sigma, noise, video), noise * 3 + video)
    assert torch.equal(schedule.noise_scaling(sigma, zero.clone(), video), video)
    torch.testing.assert_close(model.scale_latent_inpaint(sigma[None], noise, zero), noise * 3)

    steps = {"noise_seed": 5, "steps": 4, "cfg": 1.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"}
    steps |= {"model": loaded[0], "positive": [[contexts[0], {}]], "negative": [[contexts[1], {}]]}
    first = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 2, "return_with_leftover_noise": "enable"}
    rest = {"add_noise": "disable", "start_at_step": 2, "end_at_step": 99, "return_with_leftover_noise": "disable"}
    (half,) = host.call("KSamplerAdvanced", latent_image={"samples": zero}, **steps, **first)
    (two_parts,) = host.call("KSamplerAdvanced", latent_image=half, **steps, **rest)
    whole_run = {"latent_image": {"samples": zero}, "end_at_step": 99, "return_with_leftover_noise": "disable"}
    (whole,) = host.call("KSamplerAdvanced", **steps, **(first | whole_run))
    torch.testing.assert_close(two_parts["samples"], whole["samples"], atol=1e-4, rtol=1e-5)


def test_the_text_encoder_is_that_of_transformers(host, loaded):
    from transformers import CLIPTextConfig, CLIPTextModel

    clip = loaded[1]
    (conditioning,) = host.call("CLIPTextEncode", clip=clip, text="a red circle")
    with torch.device("meta"):
        network = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)).eval()
    half = {name.removeprefix("text_model."): tensor for name, tensor in text_encoder_weights().items()}
    weights, same = {}, {}  # layers share their numbers, so that 0.3 billion floats need not be
    for name in network.state_dict():
        tensor = half[name.removeprefix("text_model.")]
        key = (tensor.data_ptr(), tensor.shape) if tensor.ndim == 2 else name
        weights[name] = same.setdefault(key, tensor.float())
    network.load_state_dict(weights, assign=True)
    tokens = torch.tensor([[token for token, _ in clip.tokenize("a red circle")["h"][0]]])
    with torch.no_grad():
        expected = network(tokens, position_ids=torch.arange(77)[None]).last_hidden_state
    assert expected.shape == (1, 77, 1024) and expected.std(1).mean() > 0.2
    torch.testing.assert_close(conditioning[0][0].float(), expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float8_e4m3fn"])
def test_other_storage_is_diffusers_with_rounded_weights(host, folders, forward, reference_forward, storage):
    """Norms and biases stay whole in 8 bits. What is computed in is the host's choice: float32 on a CPU."""
    dtype = getattr(torch, storage)
    unet = unet_of(folders / "zero")
    with torch.no_grad():
        for parameter in unet.parameters():
            if parameter.ndim >= 2 or dtype.itemsize > 1:
                parameter.copy_(parameter.to(dtype).float())
    path = folders / "zero" / "unet" / "diffusion_pytorch_model.safetensors"
    with torch.inference_mode():
        model = host.module("nodes.host.text_to_video").load_model(path, UNET, SCHEDULER, dtype)
    assert {p.dtype for p in model.model.diffusion_model.parameters() if p.ndim >= 2} == {dtype}
    sigma = float(model.get_model_object("model_sampling").sigma(torch.tensor(401.0)))
    expected = reference_forward(unet, "epsilon", 401, sigma)
    torch.testing.assert_close(forward(model, sigma), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 500},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ],
)
def test_noise_schedules_are_those_of_diffusers(host, changes):
    import comfy.model_sampling
    from diffusers import DDIMScheduler

    config = SCHEDULER | changes
    settings, model_type = host.module("nodes.host.diffusers_folder").sampling_of(config)
    assert model_type.name == ("V_PREDICTION" if "prediction_type" in changes else "EPS")
    schedule = comfy.model_sampling.ModelSamplingDiscrete(type("Config", (), {"sampling_settings": settings}))
    found = 1 / (1 + schedule.sigmas.double() ** 2)
    expected = DDIMScheduler.from_config(config).alphas_cumprod.double()
    # A terminal SNR of zero is 5e-8 at the host, which divides by it; products in float32 differ in their last digits.
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)
