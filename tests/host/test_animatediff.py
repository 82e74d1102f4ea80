"""AnimateDiff in the real host, on random weights, against diffusers and against core's own Stable Diffusion 1.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_animatediff as tiny
import torch
from safetensors.torch import load_file, save_file

WIDTHS = tiny.UNET2D["block_out_channels"]
FRAMES = 5


class Case:
    """A model of the tiny folder and a motion module, and diffusers' network of the same weights."""

    def __init__(self, host: Any, motion_module: str, adapter: tuple[dict, dict]) -> None:
        self.host = host
        self.module = host.module("nodes.host.animatediff")
        self.motion_module = motion_module
        self.adapter = adapter
        self.base = self.module.Folder("tiny-sd15")
        with torch.inference_mode():
            self.model = self.module.load_model(self.base, motion_module)

    def stored(self, dtype: torch.dtype) -> Any:
        with torch.inference_mode():
            return self.module.load_model(self.base, self.motion_module, dtype)

    def diffusers(self) -> torch.nn.Module:
        from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

        unet = UNet2DConditionModel.from_config(dict(tiny.UNET2D))
        unet.load_state_dict(tiny.random_weights(unet, 1))
        adapter = MotionAdapter.from_config(dict(self.adapter[0]))
        adapter.load_state_dict(self.adapter[1])
        return UNetMotionModel.from_unet2d(unet, adapter).eval()

    def inside(self, job: Any, *, model: Any = None, checkpoint: bool = True) -> Any:
        run = self.host.module("nodes.host.training").run_in_training
        with torch.inference_mode():
            latent = video(seed=4)
            return run(model or self.model, latent, conditioning(5), job, seed=0, checkpoint=checkpoint)

    def adapter_on(self, denoiser: Any) -> Any:
        attach = self.host.module("sma.lora").attach
        names = self.host.module("sma.roles").layers_of(denoiser.network, "motion")
        return attach(denoiser.network, names, rank=2, alpha=2, generator=torch.Generator().manual_seed(5))


def video(seed: int, frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(1, 4, frames, 8, 8, generator=torch.Generator().manual_seed(seed))


def text(seed: int) -> torch.Tensor:
    return torch.randn(1, 7, 768, generator=torch.Generator().manual_seed(seed))


def conditioning(seed: int) -> list:
    return [[text(seed), {}]]


def x0_hat(denoiser: Any) -> torch.Tensor:
    return denoiser.denoise(video(seed=7), torch.full((1,), denoiser.sigma_at(0.6)))


def loss_of(denoiser: Any) -> torch.Tensor:
    return (x0_hat(denoiser).double() - video(seed=8)).square().mean()


@pytest.fixture(scope="session")
def models(host) -> Path:
    models = Path(host.base) / "models"
    tiny.write_folder(models, "tiny-sd15")
    return models


@pytest.fixture(scope="session")
def case(host, models) -> Case:
    name, *adapter = tiny.write_motion_module(models, "v2", WIDTHS)
    return Case(host, name, adapter)


@pytest.fixture(scope="session")
def checkpoint(host, models) -> dict[str, torch.Tensor]:
    """The UNet of a whole SD 1.5 checkpoint."""
    return tiny.write_checkpoint(models)


@pytest.mark.parametrize("layout", tiny.LAYOUTS)
@pytest.mark.parametrize("kind", ["original", "original pickle", "diffusers"])
def test_one_prediction_is_that_of_diffusers(host, models, layout, kind):
    if kind == "diffusers":
        name, *adapter = tiny.write_adapter(models, layout, WIDTHS)
    else:
        name, *adapter = tiny.write_motion_module(models, layout, WIDTHS, pickled="pickle" in kind)
    case = Case(host, name, adapter)
    assert name in case.module.motion_modules()
    x, t = video(seed=1).repeat(2, 1, 1, 1, 1), torch.tensor([20.0, 700.0])
    context = torch.cat([text(1), text(2)])
    with torch.inference_mode():
        ours = case.model.model.diffusion_model(x, t, context=context)
        theirs = case.diffusers()(x, t, encoder_hidden_states=context.repeat_interleave(FRAMES, 0)).sample
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp(min=1)


def test_the_schedule_is_that_of_the_motion_modules(case):
    from diffusers import DDIMScheduler

    sigmas = case.model.model.model_sampling.sigmas
    alphas = DDIMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
    torch.testing.assert_close(sigmas, ((1 - alphas) / alphas).sqrt(), rtol=1e-4, atol=0)
    assert case.inside(lambda denoiser: denoiser.kind) == "eps"


def test_the_host_can_load_it_again_without_dynamic_placement(case):
    import comfy.model_patcher

    reload, arguments = case.model.cached_patcher_init
    with torch.inference_mode():
        again = reload(*arguments, disable_dynamic=True)
    assert type(again) is comfy.model_patcher.ModelPatcher
    weights, same = (patcher.model.diffusion_model.state_dict() for patcher in (case.model, again))
    assert list(weights) == list(same)
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def ksampler(host: Any, model: Any, latent: torch.Tensor, **changes: Any) -> torch.Tensor:
    inputs = {"seed": 3, "steps": 10, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1.0}
    inputs |= {"positive": conditioning(1), "negative": conditioning(2), "latent_image": {"samples": latent}}
    return host.call("KSampler", model=model, **inputs | changes)[0]["samples"]


def test_ten_ddim_steps_with_guidance_are_those_of_diffusers(host, case):
    from comfy.sample import prepare_noise
    from diffusers import DDIMScheduler

    empty = torch.zeros(1, 4, FRAMES, 8, 8)
    ours = ksampler(host, case.model, empty)
    scheduler = DDIMScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
    )
    scheduler.set_timesteps(10)
    x = prepare_noise(empty, 3) * scheduler.init_noise_sigma
    context = torch.cat([text(2), text(1)]).repeat_interleave(FRAMES, 0)
    network = case.diffusers()
    with torch.no_grad():
        for t in scheduler.timesteps:
            low, high = network(x.repeat(2, 1, 1, 1, 1), t, encoder_hidden_states=context).sample.chunk(2)
            x = scheduler.step(low + 7.5 * (high - low), t, x).prev_sample
    ours = ours * 0.18215
    assert ours.shape == x.shape
    assert (ours - x).abs().max() <= 1e-4 * x.abs().max()


@pytest.fixture(scope="module")
def still(host, models, checkpoint) -> tuple[tuple, tuple]:
    """(MODEL, CLIP, VAE) of a checkpoint with a motion module that adds nothing, and those of core's own loader."""
    name, *_ = tiny.write_motion_module(models, "v2", [320, 320], still=True)
    base = {"base": "checkpoint", "checkpoint": "tiny_sd15.safetensors"}
    ours = host.call("SMA_LoadAnimateDiffModel", base=base, motion_module=name, weights="as stored")
    return ours, host.call("CheckpointLoaderSimple", ckpt_name="tiny_sd15.safetensors")


def frame_by_frame(model: Any) -> torch.Tensor:
    """What a video model, or core's image model, predicts for the frames of one noised video: [F, 4, h, w]."""
    network, x, t, context = model.model.diffusion_model, video(seed=1), torch.tensor([300.0]), text(1)
    with torch.inference_mode():
        if model.get_model_object("latent_format").latent_dimensions == 3:
            return network(x, t, context=context)[0].movedim(1, 0)
        context = context.expand(FRAMES, -1, -1)
        return network(x[0].movedim(1, 0), t.expand(FRAMES), context=context, transformer_options={})


def test_a_motion_module_that_adds_nothing_leaves_core_s_own_stable_diffusion(host, still):
    """The one-file route against core's network: names, heads and layout are right in every layer."""
    (model, clip, vae), (their_model, their_clip, their_vae) = still
    ours, theirs = frame_by_frame(model), frame_by_frame(their_model)
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()

    (prompt,) = host.call("CLIPTextEncode", clip=clip, text="a cat is roaring")
    (their_prompt,) = host.call("CLIPTextEncode", clip=their_clip, text="a cat is roaring")
    assert prompt[0][0].shape == (1, 77, 768)
    assert torch.equal(prompt[0][0], their_prompt[0][0])

    latent = video(seed=2, frames=2)[..., :4, :4]
    (images,) = host.call("VAEDecode", vae=vae, samples={"samples": latent})
    (their_images,) = host.call("VAEDecode", vae=their_vae, samples={"samples": latent[0].movedim(1, 0)})
    assert images.shape == (2, 32, 32, 3)
    torch.testing.assert_close(images, their_images, rtol=0, atol=1e-5)


def test_lora_files_of_stable_diffusion_do_here_what_they_do_in_core(host, still):
    """sd-scripts names SD 1.5's layers as diffusers does, with underscores; core matches them in both networks."""
    (model, *_), (their_model, *_) = still
    generator, lora = torch.Generator().manual_seed(9), {}
    transformer = "lora_unet_up_blocks_1_attentions_1"
    for layer, conv in (
        ("proj_in", True),
        ("transformer_blocks_0_attn2_to_q", False),
        ("transformer_blocks_0_attn1_to_out_0", False),
    ):
        tail = (1, 1) if conv else ()
        lora[f"{transformer}_{layer}.lora_down.weight"] = torch.randn(4, 320, *tail, generator=generator) / 18
        lora[f"{transformer}_{layer}.lora_up.weight"] = torch.randn(320, 4, *tail, generator=generator)
        lora[f"{transformer}_{layer}.alpha"] = torch.tensor(4.0)
    before, outputs = frame_by_frame(model), []
    for loaded in (model, their_model):
        (worn,) = host.call("LoraModelLoader", model=loaded, lora=lora, strength_model=1.0)
        with torch.inference_mode():
            worn.patch_model(torch.device("cpu"))
            outputs.append(frame_by_frame(worn))
            worn.unpatch_model(torch.device("cpu"))
    ours, theirs = outputs
    effect = (theirs - before).abs().max()
    assert effect > 0.1
    # The weights are kept in half precision, into which the host rounds at random.
    assert (ours - theirs).abs().max() <= 1e-2 * effect


def test_one_file_and_a_folder_of_the_same_weights_are_one_network(host, models, checkpoint):
    import comfy.utils
    from diffusers import UNet2DConditionModel

    config = tiny.UNET2D | {"block_out_channels": [320, 320]}
    names = comfy.utils.unet_to_diffusers(tiny.LDM)
    with torch.device("meta"):
        expected = UNet2DConditionModel.from_config(dict(config)).state_dict()
    tiny.write_folder(models, "tiny-sd15-wide", config, {name: checkpoint[names[name]] for name in expected})
    name, *_ = tiny.write_motion_module(models, "v3", [320, 320])
    module = host.module("nodes.host.animatediff")
    networks = []
    for base in (module.Checkpoint("tiny_sd15.safetensors"), module.Folder("tiny-sd15-wide")):
        with torch.inference_mode():
            networks.append(module.load_model(base, name).model.diffusion_model)
    one, other = (network.state_dict() for network in networks)
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    # The folder's config also tells a size for pipelines.
    configs = [dict(network._network.config) | {"sample_size": None} for network in networks]
    assert configs[0] == configs[1]


def test_core_nodes_make_a_video_with_it(host, models, case):
    tiny.write_text_encoder_and_vae(models, "tiny-sd15")
    base = {"base": "diffusers folder", "folder": "tiny-sd15"}
    model, clip, vae = host.call(
        "SMA_LoadAnimateDiffModel", base=base, motion_module=case.motion_module, weights="bfloat16"
    )
    line = case.module.describe(model)
    assert line == "AnimateDiff 32-64, 1.5 M parameters, bfloat16, at most 32 frames"
    (prompt,) = host.call("CLIPTextEncode", clip=clip, text="a cat")
    frames = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    (latent,) = host.call("VAEEncode", pixels=frames, vae=vae)
    assert latent["samples"].shape == (1, 4, 3, 8, 8)
    samples = ksampler(host, model, latent["samples"], positive=prompt, negative=prompt, steps=2)
    (images,) = host.call("VAEDecode", vae=vae, samples={"samples": samples})
    assert images.shape == (3, 64, 64, 3)
    assert torch.isfinite(images).all()
    (empty,) = host.call("SMA_EmptyVideoLatent", vae=vae, width=64, height=64, frame_count=3, batch_size=1)
    assert empty["samples"].shape == (1, 4, 3, 8, 8)
    (image,) = host.call("EmptyLatentImage", width=64, height=64, batch_size=1)
    assert ksampler(host, model, image["samples"], steps=1).shape == (1, 4, 1, 8, 8)


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
        exact = case.model.model.apply_model(video(1), torch.tensor([3.0]), c_crossattn=text(1))
        rounded = model.model.apply_model(video(1), torch.tensor([3.0]), c_crossattn=text(1))
    assert 0 < (exact - rounded).abs().max() < error * exact.abs().max()
    assert torch.isfinite(ksampler(host, model, torch.zeros(1, 4, FRAMES, 8, 8), steps=2)).all()
    assert host.module("sma.roles").family_of(network).name == "AnimateDiff"


@pytest.mark.parametrize("checkpoint", [True, False])
def test_the_gradient_is_that_of_finite_differences(case, checkpoint):
    def job(denoiser):
        adapter = case.adapter_on(denoiser)
        values = adapter.parameters()
        with torch.no_grad():
            for name, value in adapter.named_parameters():
                if name.endswith(".up"):
                    value.normal_(std=0.1, generator=torch.Generator().manual_seed(6))
        loss_of(denoiser).backward()
        size = sum(value.grad.square().sum() for value in values).sqrt()
        losses = []
        for step in (1e-2, -2e-2):
            with torch.no_grad():
                for value in values:
                    value.add_(value.grad / size, alpha=step)
                losses.append(loss_of(denoiser).item())
        adapter.detach()
        return float(size), (losses[0] - losses[1]) / 2e-2

    slope, measured = case.inside(job, checkpoint=checkpoint)
    assert slope > 1e-3
    assert measured == pytest.approx(slope, rel=1e-3)


def test_checkpoints_keep_little_of_the_graph_and_change_no_gradient(case):
    def job(denoiser):
        adapter = case.adapter_on(denoiser)
        loss = loss_of(denoiser)
        seen, queue = set(), [loss.grad_fn]
        while queue:
            node = queue.pop()
            if node is not None and node not in seen:
                seen.add(node)
                queue += [behind for behind, _ in node.next_functions]
        loss.backward()
        adapter.detach()
        return len(seen), loss.item(), torch.cat([value.grad.flatten() for value in adapter.parameters()])

    kept, loss, gradient = case.inside(job)
    whole, plain_loss, plain_gradient = case.inside(job, checkpoint=False)
    assert kept < whole / 4
    assert loss == plain_loss
    torch.testing.assert_close(gradient, plain_gradient, rtol=1e-5, atol=1e-6 * float(plain_gradient.abs().max()))


def test_a_trained_lora_is_loaded_by_core_whole_and_samples_as_it_trained(host, case):
    import comfy.lora

    def train(denoiser):
        adapter = case.adapter_on(denoiser)
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=5e-2)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            losses.append(loss_of(denoiser))
            losses[-1].backward()
            optimizer.step()
        with torch.no_grad():
            worn = x0_hat(denoiser).clone()
        adapter.detach()
        return losses, worn, adapter.export("diffusion_model.")

    def forward(model):
        return case.inside(lambda denoiser: x0_hat(denoiser).detach().clone(), model=model)

    base = forward(case.model)
    losses, worn, lora = case.inside(train)
    assert losses[2] < losses[1] < losses[0]
    patches = comfy.lora.load_lora(dict(lora), comfy.lora.model_lora_keys_unet(case.model.model, {}))
    # 2 + 1 + 4 motion modules of one block each, 10 layers in a block; down, up and alpha of each.
    assert len(lora) == 3 * len(patches) == 3 * 10 * 7
    assert set(case.model.clone().add_patches(patches)) == set(patches)
    (patched,) = host.call("LoraModelLoader", model=case.model, lora=lora, strength_model=1.0)
    (bypassed,) = host.call("LoraModelLoader", model=case.model, lora=lora, strength_model=1.0, bypass=True)
    assert (worn - base).abs().max() > 1e-2
    assert (forward(patched) - worn).abs().max() <= 1e-4 * worn.abs().max()
    assert torch.equal(forward(bypassed), worn)
    assert torch.equal(forward(case.model), base)


def test_more_frames_than_the_motion_module_knows_are_refused_in_a_sentence(host, case):
    with pytest.raises(ValueError, match=r"The video has 33 frames .* at most 32\. Take 32 frames or fewer\."):
        ksampler(host, case.model, torch.zeros(1, 4, 33, 8, 8), steps=1)
    with pytest.raises(ValueError, match="The clip has 33 frames and this AnimateDiff model places at most 32"):
        host.module("sma.roles").check_frames(case.model.model.diffusion_model, 33)


def test_other_bases_are_refused(host, models, case):
    module = case.module
    tiny.write_checkpoint(models, "inpainting.safetensors", whole=False, in_channels=9)
    tiny.write_checkpoint(models, "sd2.safetensors", whole=False, context_dim=1024, use_linear_in_transformer=True)
    save_file(
        {"model.diffusion_model.x_embedder.weight": torch.zeros(2, 2)}, models / "checkpoints" / "other.safetensors"
    )
    tiny.write_folder(models, "sd2", tiny.UNET2D | {"cross_attention_dim": 1024})
    tiny.write_folder(models, "inpainting", tiny.UNET2D | {"in_channels": 9})
    for base, message in (
        (
            module.Checkpoint("inpainting.safetensors"),
            "takes text of 768 channels and 9 input channels; AnimateDiff needs 768 and 4",
        ),
        (module.Checkpoint("sd2.safetensors"), r"sd2\.safetensors is of the kind SD2\w*; AnimateDiff needs"),
        (module.Checkpoint("other.safetensors"), r"other\.safetensors is not recognised; AnimateDiff needs"),
        (module.Folder("sd2"), "sd2 takes text of 1024 channels and 4 input channels"),
        (module.Folder("inpainting"), "takes text of 768 channels and 9 input channels"),
        (module.Folder("absent"), "no model folder 'absent'"),
    ):
        with pytest.raises(ValueError, match=message):
            module.load_model(base, case.motion_module)


def test_motion_modules_that_do_not_fit_are_refused(host, models, case):
    name, *_ = tiny.write_motion_module(models, "v3", [32, 96])
    with pytest.raises(ValueError, match="motion module has widths 32-96 and the base model 32-64"):
        case.module.load_model(case.base, name)
    path = models / "animatediff_models" / case.motion_module
    weights = load_file(path)
    to_q = next(name for name in weights if name.endswith("to_q.weight"))
    proj = next(name for name in weights if name.endswith("proj_in.weight"))
    weights["mid_block.motion_modules.0.surplus"] = weights.pop(to_q)
    weights[proj] = weights[proj][:1].clone()
    save_file(weights, path.with_name("broken.safetensors"))
    with pytest.raises(
        ValueError,
        match=r"lack 1 tensor \(.*to_q.*have 1 tensor too many \(.*surplus'\) and have 1 tensor of another shape",
    ):
        case.module.load_model(case.base, "broken.safetensors")
    save_file(load_file(path) | {"conv_in.weight": torch.zeros(32, 9, 3, 3)}, path.with_name("pia.safetensors"))
    with pytest.raises(
        ValueError, match=r"pia\.safetensors holds 1 tensors that are not of a motion module \(.*'conv_in"
    ):
        case.module.load_model(case.base, "pia.safetensors")
    save_file({"conv_in.weight": torch.zeros(1)}, path.with_name("none.safetensors"))
    with pytest.raises(ValueError, match="None of the file's 1 tensors is of an AnimateDiff motion module"):
        case.module.load_model(case.base, "none.safetensors")


def test_the_folder_of_motion_modules_is_shared_with_animatediff_evolved(host, case, monkeypatch):
    import folder_paths

    names = case.module.motion_modules()
    paths, _ = folder_paths.folder_names_and_paths["animatediff_models"]
    assert paths == [str(Path(folder_paths.models_dir) / "animatediff_models")]
    # That pack adds its own folder, then this one, then the suffixes it wants.
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "animatediff_models", (["elsewhere", *paths], {".ckpt"}))
    folder_paths.filename_list_cache.pop("animatediff_models", None)
    seen = case.module.motion_modules()
    assert folder_paths.folder_names_and_paths["animatediff_models"] == (["elsewhere", *paths], {".ckpt"})
    assert {name for name in names if name.endswith(".ckpt") or "/" in name} == set(seen)
    folder_paths.filename_list_cache.pop("animatediff_models", None)
