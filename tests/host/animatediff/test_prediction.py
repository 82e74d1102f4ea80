"""AnimateDiff in the real host predicts and samples what diffusers does on the same random weights."""

from __future__ import annotations

import pytest
import tiny_animatediff as tiny
import torch


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
@pytest.mark.parametrize("kind", ["original", "original pickle", "diffusers"])
def test_one_prediction_is_that_of_diffusers(models, load, layout, kind):
    if kind == "diffusers":
        written = tiny.write_adapter(models, layout, tiny.WIDTHS)
    else:
        written = tiny.write_motion_module(models, layout, tiny.WIDTHS, pickled="pickle" in kind)
    case = load(*written, form="diffusers")
    assert written[0] in case.module.motion_modules()
    x, t = tiny.video(seed=1).repeat(2, 1, 1, 1, 1), torch.tensor([20.0, 700.0])
    context = torch.cat([tiny.text(1), tiny.text(2)])
    with torch.inference_mode():
        ours = case.model.model.diffusion_model(x, t, context=context)
        theirs = case.diffusers()(x, t, encoder_hidden_states=context.repeat_interleave(tiny.FRAMES, 0)).sample
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp(min=1)


def test_the_schedule_is_that_of_the_motion_modules(case):
    from diffusers import DDIMScheduler

    sigmas = case.model.model.model_sampling.sigmas
    alphas = DDIMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
    torch.testing.assert_close(sigmas, ((1 - alphas) / alphas).sqrt(), rtol=1e-4, atol=0)
    assert case.inside(lambda denoiser: denoiser.kind) == "eps"


@pytest.mark.parametrize("form", ["original", "diffusers"])
def test_the_host_can_load_it_again_without_dynamic_placement(case, as_diffusers, form):
    import comfy.model_patcher

    case = as_diffusers if form == "diffusers" else case
    reload, arguments = case.model.cached_patcher_init
    with torch.inference_mode():
        again = reload(*arguments, disable_dynamic=True)
    assert type(again) is comfy.model_patcher.ModelPatcher
    weights, same = (patcher.model.diffusion_model.state_dict() for patcher in (case.model, again))
    assert list(weights) == list(same)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert case.module.group_norm_of(again) == case.module.group_norm_of(case.model) == form


def test_ten_ddim_steps_with_guidance_are_those_of_diffusers(host, as_diffusers):
    from comfy.sample import prepare_noise
    from diffusers import DDIMScheduler

    empty = torch.zeros(1, 4, tiny.FRAMES, 8, 8)
    ours = tiny.ksampler(host, as_diffusers.model, empty)
    scheduler = DDIMScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
    )
    scheduler.set_timesteps(10)
    x = prepare_noise(empty, 3) * scheduler.init_noise_sigma
    context = torch.cat([tiny.text(2), tiny.text(1)]).repeat_interleave(tiny.FRAMES, 0)
    network = as_diffusers.diffusers()
    with torch.no_grad():
        for t in scheduler.timesteps:
            low, high = network(x.repeat(2, 1, 1, 1, 1), t, encoder_hidden_states=context).sample.chunk(2)
            x = scheduler.step(low + 7.5 * (high - low), t, x).prev_sample
    ours = ours * 0.18215
    assert ours.shape == x.shape
    assert (ours - x).abs().max() <= 1e-4 * x.abs().max()


def test_core_nodes_make_a_video_with_it(host, models, case):
    tiny.write_text_encoder_and_vae(models, "tiny-sd15")
    base = {"base": "diffusers folder", "folder": "tiny-sd15"}
    model, clip, vae = host.call(
        "SMA_LoadAnimateDiffModel", base=base, motion_module=case.motion_module, weights="bfloat16"
    )
    line = case.module.describe(model)
    assert line == (
        "AnimateDiff 32-64, 1.5 M parameters, bfloat16 (computed in float32), at most 32 frames, "
        "group norm as original (v2): each frame by itself"
    )
    (prompt,) = host.call("CLIPTextEncode", clip=clip, text="a cat")
    frames = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    (latent,) = host.call("VAEEncode", pixels=frames, vae=vae)
    assert latent["samples"].shape == (1, 4, 3, 8, 8)
    samples = tiny.ksampler(host, model, latent["samples"], positive=prompt, negative=prompt, steps=2)
    (images,) = host.call("VAEDecode", vae=vae, samples={"samples": samples})
    assert images.shape == (3, 64, 64, 3)
    assert torch.isfinite(images).all()
    (empty,) = host.call("SMA_EmptyVideoLatent", vae=vae, width=64, height=64, frame_count=3, batch_size=1)
    assert empty["samples"].shape == (1, 4, 3, 8, 8)
    (image,) = host.call("EmptyLatentImage", width=64, height=64, batch_size=1)
    assert tiny.ksampler(host, model, image["samples"], steps=1).shape == (1, 4, 1, 8, 8)


@pytest.mark.parametrize(
    "dtype, error", [(torch.float16, 2e-2), (torch.bfloat16, 1e-1), (torch.float8_e4m3fn, 2.0)], ids=str
)
def test_weights_may_be_kept_in_fewer_bits(host, case, dtype, error):
    model = case.stored(dtype)
    network = model.model.diffusion_model
    assert network.get_parameter("conv_in.weight").dtype == dtype
    tables = {tuple(buffer.shape): buffer for name, buffer in network.named_buffers() if name.endswith("pe")}
    assert torch.equal(tables[1, 32, 64], host.module("sma.networks.animatediff").frame_positions(32, 64))
    with torch.inference_mode():
        exact = case.model.model.apply_model(tiny.video(1), torch.tensor([3.0]), c_crossattn=tiny.text(1))
        rounded = model.model.apply_model(tiny.video(1), torch.tensor([3.0]), c_crossattn=tiny.text(1))
    assert 0 < (exact - rounded).abs().max() < error * exact.abs().max()
    assert torch.isfinite(tiny.ksampler(host, model, torch.zeros(1, 4, tiny.FRAMES, 8, 8), steps=2)).all()
    assert host.module("sma.roles").family_of(network).name == "AnimateDiff"


def test_more_frames_than_the_motion_module_knows_are_refused_in_a_sentence(host, case):
    with pytest.raises(ValueError, match=r"The video has 33 frames .* at most 32\. Take 32 frames or fewer\."):
        tiny.ksampler(host, case.model, torch.zeros(1, 4, 33, 8, 8), steps=1)
    with pytest.raises(ValueError, match="The clip has 33 frames and this AnimateDiff model places at most 32"):
        host.module("sma.roles").check_frames(case.model.model.diffusion_model, 33)
