"""Stable Diffusion 1.5 from one file, under a motion module, against core's own loader of the same file."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_animatediff as tiny
import torch


@pytest.fixture(scope="module")
def still(host, models, checkpoint) -> tuple[tuple, tuple]:
    """(MODEL, CLIP, VAE) of a checkpoint with a motion module that adds nothing, and those of core's own loader."""
    name, *_ = tiny.write_motion_module(models, "v2", [320, 320], still=True)
    base = {"base": "checkpoint", "checkpoint": "tiny_sd15.safetensors"}
    ours = host.call("SMA_LoadAnimateDiffModel", base=base, motion_module=name, weights="as stored")
    return ours, host.call("CheckpointLoaderSimple", ckpt_name="tiny_sd15.safetensors")


def frame_by_frame(model: Any) -> torch.Tensor:
    """What a video model, or core's image model, predicts for the frames of one noised video: [F, 4, h, w]."""
    network, x, t, context = model.model.diffusion_model, tiny.video(seed=1), torch.tensor([300.0]), tiny.text(1)
    with torch.inference_mode():
        if model.get_model_object("latent_format").latent_dimensions == 3:
            return network(x, t, context=context)[0].movedim(1, 0)
        context = context.expand(tiny.FRAMES, -1, -1)
        return network(x[0].movedim(1, 0), t.expand(tiny.FRAMES), context=context, transformer_options={})


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

    latent = tiny.video(seed=2, frames=2)[..., :4, :4]
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


def test_the_host_can_load_text_encoder_and_vae_again(still):
    """As a second device, or weights that shall stay in place, need it."""
    (_, clip, vae), _ = still
    for patcher in (clip.patcher, vae.patcher):
        function, arguments, *_ = patcher.cached_patcher_init
        with torch.inference_mode():
            again = function(*arguments, disable_dynamic=True)
        before, after = patcher.model.state_dict(), again.model.state_dict()
        assert before.keys() == after.keys() and len(before) > 100
        read = [name for name in before if "projection" not in name]  # which the file lacks and nothing reads
        assert all(torch.equal(before[name], after[name]) for name in read)


def test_a_checkpoint_of_a_network_alone_is_refused_by_the_part_that_is_missing(host, models):
    tiny.write_checkpoint(models, "alone.safetensors", whole=False)
    alone = host.module("nodes.host.animatediff").Checkpoint("alone.safetensors")
    with torch.inference_mode(), pytest.raises(ValueError, match=r"alone\.safetensors holds no VAE\. Choose a whole"):
        alone.vae()
    with torch.inference_mode(), pytest.raises(ValueError, match=r"alone\.safetensors holds no text encoder\. Choose"):
        alone.clip()
