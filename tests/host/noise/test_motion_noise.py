"""Motion Noise: a NOISE of the host that begins with a clip."""

from __future__ import annotations

import pytest
import torch

METHODS = {
    "blend (MotionDirector)": {"p": 0.5},
    "low frequencies (DMT)": {"factor": 2},
    "low frequencies, blended detail": {"p": 0.3, "factor": 2},
    "Fourier mask": {"kind": "butterworth", "ds": 0.25, "dt": 0.5},
    "temporal bands": {"levels": 1},
    "inverted alone (VMC)": {},
}


@pytest.fixture
def sprites(load):
    return load("sprites")


@pytest.fixture
def inverted() -> torch.Tensor:
    return torch.randn(1, 12, 8, 8, 8, generator=torch.Generator().manual_seed(11))


def test_every_method_is_offered_and_tested(host):
    (method,) = [item for item in host.node("SMA_MotionNoise").GET_SCHEMA().inputs if item.id == "method"]
    assert {option.key: {item.id for item in option.inputs} for option in method.options} == {
        name: set(widgets) for name, widgets in METHODS.items()
    }


def test_each_method_is_the_function_of_its_name(host, sprites, inverted):
    starts = host.module("sma.noise")
    empty = torch.zeros(2, 12, 8, 6, 8)
    (random,) = host.call("RandomNoise", noise_seed=5)
    fresh = random.generate_noise({"samples": empty})
    mask = starts.frequency_mask(fresh.shape, "butterworth", 0.25, 0.5)
    expected = {
        "blend (MotionDirector)": starts.blend(inverted, fresh, 0.5),
        "low frequencies (DMT)": starts.swap_low_frequencies(inverted, fresh, factor=2),
        "low frequencies, blended detail": starts.blend_frequencies(inverted, fresh, 0.3, factor=2),
        "Fourier mask": starts.mix_fft(inverted, fresh, mask),
        "temporal bands": starts.mix_temporal_bands(inverted, fresh, levels=1),
        "inverted alone (VMC)": starts.resize_frames(inverted, 6, 8).expand(2, -1, -1, -1, -1),
    }
    for name, widgets in METHODS.items():
        noise = sprites.noise(inverted, seed=5, method=name, **widgets)
        assert noise.seed == 5
        found = noise.generate_noise({"samples": empty})
        torch.testing.assert_close(found, expected[name])
        assert torch.equal(noise.generate_noise({"samples": empty}), found)
        again = sprites.noise(inverted, seed=5, renormalise=True, method=name, **widgets)
        deviations = again.generate_noise({"samples": empty}).std(dim=(1, 2, 3, 4), correction=0)
        torch.testing.assert_close(deviations, torch.ones(2))


def test_ends_are_the_clip_and_randomnoise(host, sprites, inverted):
    empty = {"samples": torch.zeros_like(inverted)}
    (random,) = host.call("RandomNoise", noise_seed=1)
    nothing = sprites.noise(inverted, method="blend (MotionDirector)", p=0.0)
    assert torch.equal(nothing.generate_noise(empty), random.generate_noise(empty))
    masked_out = sprites.noise(inverted, method="Fourier mask", kind="gaussian", ds=0.0, dt=0.25)
    torch.testing.assert_close(masked_out.generate_noise(empty), random.generate_noise(empty))
    everything = sprites.noise(inverted, method="blend (MotionDirector)", p=1.0)
    assert torch.equal(everything.generate_noise(empty), inverted)


def test_single_videos_of_a_batch_keep_their_noise(sprites, inverted):
    noise = sprites.noise(inverted, **{"method": "temporal bands", "levels": 2})
    both = noise.generate_noise({"samples": torch.zeros(2, 12, 8, 8, 8), "batch_index": [0, 3]})
    last = noise.generate_noise({"samples": torch.zeros(1, 12, 8, 8, 8), "batch_index": [3]})
    # To rounding: a matrix product of two samples need not add up in the order of one.
    torch.testing.assert_close(both[1:], last, rtol=0, atol=1e-5)
    assert (both[:1] - last).abs().max() > 0.1


def test_a_blend_starts_a_video_nearer_to_the_clip_than_fresh_noise(sprites):
    """The motion of the clip: correlation of the frame residuals over 4 seeds. Fresh noise knows nothing of it."""
    inverted = sprites.invert(steps=25, refinements=1)

    def likeness(**method) -> float:
        found = []
        for seed in range(4):
            video = sprites.sample(sprites.noise(inverted, seed=seed, **method), 20)
            pair = torch.stack([x.diff(dim=2).flatten() for x in (video, sprites.clip)])
            found.append(torch.corrcoef(pair)[0, 1])
        return float(torch.stack(found).mean())

    fresh = likeness(method="blend (MotionDirector)", p=0.0)
    shared = [
        likeness(method=name, **METHODS[name]) for name in ("blend (MotionDirector)", "low frequencies, blended detail")
    ]
    assert min(shared) > fresh + 0.1, (fresh, shared)


def test_other_lengths_channels_and_pictures_are_refused(sprites, inverted):
    from comfy.nested_tensor import NestedTensor

    noise = sprites.noise(inverted, **{"method": "temporal bands", "levels": 1})
    with pytest.raises(ValueError, match="8 latent frames and the new video 9"):
        sprites.sample(noise, 2, like=torch.zeros(1, 12, 9, 8, 8))
    with pytest.raises(ValueError, match="12 channels and the new video 16"):
        noise.generate_noise({"samples": torch.zeros(1, 16, 8, 8, 8)})
    with pytest.raises(ValueError, match=r"\[8, 12, 8, 8\]; a video latent"):
        noise.generate_noise({"samples": torch.zeros(8, 12, 8, 8)})
    with pytest.raises(ValueError, match="sound beside the video"):
        noise.generate_noise({"samples": NestedTensor([inverted, inverted])})


def test_the_graph_runs_in_the_real_server(server):
    """Clip to inverted noise to video. Queued with another mixture nothing is inverted again; settings seen before come from temp/."""
    graph = {
        "sprites": ("SMA_LoadSpritesModel", {}),
        "frames": ("EmptyImage", {"width": 16, "height": 16, "batch_size": 8, "color": 0x802010}),
        "clip": ("VAEEncode", {"pixels": ["frames", 0], "vae": ["sprites", 2]}),
        "nothing": ("CLIPTextEncode", {"clip": ["sprites", 1], "text": ""}),
        "prompt": ("CLIPTextEncode", {"clip": ["sprites", 1], "text": "blue circle"}),
        "inverted": (
            "SMA_InvertClip",
            {"model": ["sprites", 0], "latent": ["clip", 0], "positive": ["nothing", 0], "steps": 4, "refinements": 1},
        ),
        "noise": (
            "SMA_MotionNoise",
            {"inverted": ["inverted", 0], "seed": 2, "method": "blend (MotionDirector)", "method.p": 0.5, "renormalise": True},
        ),
        "guider": ("BasicGuider", {"model": ["sprites", 0], "conditioning": ["prompt", 0]}),
        "sampler": ("KSamplerSelect", {"sampler_name": "euler"}),
        "sigmas": ("BasicScheduler", {"model": ["sprites", 0], "scheduler": "simple", "steps": 3, "denoise": 1.0}),
        "empty": ("SMA_EmptyVideoLatent", {"vae": ["sprites", 2], "frame_count": 8, "width": 16, "height": 16, "batch_size": 1}),
        "video": (
            "SamplerCustomAdvanced",
            {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["sampler", 0], "sigmas": ["sigmas", 0]}
            | {"latent_image": ["empty", 0]},
        ),
        "saved": ("SaveLatent", {"samples": ["video", 0], "filename_prefix": "from_a_clip"}),
    }  # fmt: skip
    prompt = {key: {"class_type": name, "inputs": inputs} for key, (name, inputs) in graph.items()}
    temp = server.base / "temp" / "spectral_motion"

    def run(**changes) -> list[str]:
        for key, inputs in changes.items():
            prompt[key]["inputs"].update(inputs)
        result = server.run(prompt)
        assert result.status == "success", result.messages
        return result.event("execution_cached")["nodes"]

    run()
    assert len(list(temp.iterdir())) == 1
    assert "inverted" in run(noise={"method": "temporal bands", "method.levels": 2})
    assert "inverted" not in run(inverted={"steps": 5})
    assert len(list(temp.iterdir())) == 2
    assert "inverted" not in run(inverted={"steps": 4})
    assert len(list(temp.iterdir())) == 2
