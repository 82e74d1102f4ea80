"""Stable Diffusion's image VAE as a video VAE: core's nodes, every frame, the same numbers as diffusers."""

from __future__ import annotations

import pytest
import torch
from tiny_diffusers import VAE, random_weights


@pytest.fixture(scope="module")
def reference():
    from diffusers import AutoencoderKL

    network = AutoencoderKL.from_config(VAE).eval()
    network.load_state_dict(random_weights(network, seed=2))
    return network


@pytest.fixture(scope="module")
def vae(host, reference):
    return host.module("nodes.host.video_vae").load_video_vae(reference.state_dict(), VAE)


@pytest.fixture(scope="module")
def frames():
    return torch.rand(5, 24, 40, 3, generator=torch.Generator().manual_seed(1))


def test_encode_and_decode_are_those_of_diffusers(host, vae, reference, frames):
    (latent,) = host.call("VAEEncode", pixels=frames, vae=vae)
    (images,) = host.call("VAEDecode", samples=latent, vae=vae)
    with torch.no_grad():
        encoded = reference.encode(frames.movedim(-1, 1) * 2 - 1).latent_dist.mean
        decoded = (reference.decode(encoded).sample / 2 + 0.5).clamp(0, 1)
    assert latent["samples"].shape == (1, 4, 5, 3, 5) and images.shape == (5, 24, 40, 3)
    assert encoded.std() > 0.1 and decoded.std() > 0.05
    torch.testing.assert_close(latent["samples"], encoded.movedim(0, 1)[None], atol=5e-5, rtol=0)
    torch.testing.assert_close(images, decoded.movedim(1, -1), atol=5e-5, rtol=0)


def test_a_batch_of_videos_keeps_its_videos_apart(vae, frames):
    with torch.inference_mode():
        both = vae.encode(torch.stack([frames, frames.flip(0)]))
        assert both.shape == (2, 4, 5, 3, 5)
        torch.testing.assert_close(both[1], both[0].flip(1), atol=1e-5, rtol=0)
        videos = vae.decode(both)
    assert videos.shape == (2, 5, 24, 40, 3)
    torch.testing.assert_close(videos[1], videos[0].flip(0), atol=1e-5, rtol=0)


def test_tiles_give_the_same_videos_where_one_tile_covers_all(host, vae, frames):
    (latent,) = host.call("VAEEncode", pixels=frames, vae=vae)
    (tiled,) = host.call("VAEEncodeTiled", pixels=frames, vae=vae, tile_size=128, overlap=32)
    torch.testing.assert_close(tiled["samples"], latent["samples"], atol=1e-5, rtol=0)
    (images,) = host.call("VAEDecode", samples=latent, vae=vae)
    (tiled_images,) = host.call("VAEDecodeTiled", samples=latent, vae=vae, tile_size=128, overlap=32)
    torch.testing.assert_close(tiled_images, images, atol=1e-5, rtol=0)


def test_frames_go_through_in_portions_when_memory_is_short(host, vae, frames, monkeypatch):
    (whole,) = host.call("VAEEncode", pixels=frames, vae=vae)
    network, portions = vae.first_stage_model, []
    encode, decode = network.encode, network.decode
    monkeypatch.setattr(network, "encode", lambda x: portions.append(len(x)) or encode(x))
    monkeypatch.setattr(network, "decode", lambda x: portions.append(len(x)) or decode(x))
    two_frames = 2.5 * vae.memory_used_encode((1, 3, 24, 40), vae.vae_dtype)
    monkeypatch.setattr(vae.patcher, "get_free_memory", lambda device: two_frames)
    (latent,) = host.call("VAEEncode", pixels=frames, vae=vae)
    assert portions == [2, 2, 1]
    torch.testing.assert_close(latent["samples"], whole["samples"], atol=1e-5, rtol=0)
    portions.clear()
    monkeypatch.setattr(vae.patcher, "get_free_memory", lambda device: 0.0)
    host.call("VAEDecode", samples=latent, vae=vae)
    assert portions == [1] * 5


def test_our_nodes_understand_it(host, vae):
    (latent,) = host.call("SMA_EmptyVideoLatent", vae=vae, width=40, height=24, frame_count=6, batch_size=2)
    assert latent["samples"].shape == (2, 4, 6, 3, 5)
    leaves_out = host.module("nodes.host.vae").what_it_leaves_out
    assert leaves_out(vae, 7, 24, 40) == ""
    assert "multiples of 8" in leaves_out(vae, 7, 24, 41)


def test_images_stay_images(vae):
    with torch.inference_mode():
        assert vae.decode(torch.zeros(3, 4, 2, 2)).shape == (3, 16, 16, 3)


def test_it_is_read_in_the_other_naming_and_without_a_config(host, vae, frames):
    module = host.module("nodes.host.video_vae")
    other = module.load_video_vae({**vae.first_stage_model.state_dict(), "loss.logvar": torch.zeros(())})
    with torch.inference_mode():
        assert torch.equal(other.encode(frames), vae.encode(frames))


def test_what_does_not_fit_is_refused(host, reference):
    load = host.module("nodes.host.video_vae").load_video_vae
    weights = reference.state_dict()
    with pytest.raises(ValueError, match="scaling_factor is 0.13025; 0.18215 is needed"):
        load(weights, VAE | {"scaling_factor": 0.13025})
    with pytest.raises(ValueError, match="no VAE of images"):
        load({"decoder.weight": torch.ones(1)})
    del weights["decoder.conv_out.bias"]
    with pytest.raises(ValueError, match=r"VAE weights lack 1 tensor \(for example 'decoder.conv_out.bias'\)"):
        load(weights)
    shallow = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder.up_blocks.3")}
    with pytest.raises(ValueError, match="has 3 levels; 4 are needed"):
        load(shallow)
