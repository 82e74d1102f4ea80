"""Worn for some noise levels and frames: inside as if worn everywhere, outside the base, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch

PERCENTS = (0.1, 0.3, 0.49, 0.5, 0.51, 0.8, 0.95)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b)


def test_noise_levels_inside_are_worn_and_outside_are_the_base(case):
    lora = case.lora()
    base = case.predict(case.model, PERCENTS)
    everywhere = case.predict(case.wear(lora, apply="bypass"), PERCENTS)
    worn = case.predict(case.wear(lora, start_percent=0.25, end_percent=0.6), PERCENTS)
    inside = [0.25 <= percent <= 0.6 for percent in PERCENTS]
    assert any(inside) and not all(inside)
    for index, on in enumerate(inside):
        assert same(worn[index], (everywhere if on else base)[index]), PERCENTS[index]
        assert not same(worn[index], (base if on else everywhere)[index]), PERCENTS[index]


def test_noise_ranges_that_follow_each_other_are_one(case):
    lora = case.lora()
    everywhere = case.predict(case.wear(lora, apply="bypass"), PERCENTS)
    both = case.wear(lora, case.wear(lora, end_percent=0.5), start_percent=0.5)
    assert same(case.predict(both, PERCENTS), everywhere)


def test_a_model_sampling_set_later_moves_the_range(wan):
    """The range is a share of the sampling, whatever shift the sampling gets."""
    lora = wan.lora()
    worn = wan.wear(lora, start_percent=0.25, end_percent=0.6)

    def shifted(model):
        return wan.host.call("ModelSamplingSD3", model=model, shift=1.7)[0]

    base, everywhere = (
        wan.predict(shifted(wan.model), PERCENTS),
        wan.predict(shifted(wan.wear(lora, apply="bypass")), PERCENTS),
    )
    answer = wan.predict(shifted(worn), PERCENTS)
    for index, percent in enumerate(PERCENTS):
        assert same(answer[index], (everywhere if 0.25 <= percent <= 0.6 else base)[index])


def test_frames_outside_are_the_base(case):
    """4 latent frames: in Wan they stand for frames 0, 1-4, 5-8 and 9-12, and belong where they begin."""
    lora = case.lora()
    base, everywhere = case.predict(case.model), case.predict(case.wear(lora, apply="bypass"))
    ratio = (case.frames - 1) // 3
    worn = case.predict(case.wear(lora, first_frame=1, last_frame=2 * ratio))
    assert same(worn[:, :, 1:3], everywhere[:, :, 1:3])
    assert same(worn[:, :, 0], base[:, :, 0]) and same(worn[:, :, 3], base[:, :, 3])
    assert not same(worn[:, :, 1:3], base[:, :, 1:3])
    assert case.said[-1].endswith("bypassed, on latent frames 1-2)")
    to_the_end = case.predict(case.wear(lora, first_frame=1 + 2 * ratio))
    assert same(to_the_end[:, :, 3], everywhere[:, :, 3]) and same(to_the_end[:, :, :3], base[:, :, :3])


def test_two_scenes_wear_one_lora_each_and_a_third_everywhere(case, monkeypatch):
    first, second, third = (case.lora(seed=seed) for seed in (1, 2, 3))
    ratio = (case.frames - 1) // 3

    def model(*loras):
        worn = case.model
        for lora, limits in loras:
            worn = case.wear(lora, worn, apply="bypass", **limits)
        return worn

    scenes = model((first, {"last_frame": ratio}), (third, {}), (second, {"first_frame": ratio + 1}))
    calls = count_evaluations(case, monkeypatch)
    answer = case.predict(scenes, cfg=3.0, batch=2)
    assert calls == [4, 4]  # once per scene, with both prompts of both samples
    a = case.predict(model((first, {}), (third, {})), cfg=3.0, batch=2)
    b = case.predict(model((third, {}), (second, {})), cfg=3.0, batch=2)
    assert same(answer[:, :, :2], a[:, :, :2])
    assert same(answer[:, :, 2:], b[:, :, 2:])
    assert not same(a[:, :, 2:], b[:, :, 2:])


def count_evaluations(case, monkeypatch) -> list[int]:
    """Batch sizes of the network's evaluations from now on."""
    network, sizes = case.model.model.diffusion_model, []
    forward = network.forward
    monkeypatch.setattr(
        network, "forward", lambda x, *args, **kwargs: sizes.append(len(x)) or forward(x, *args, **kwargs)
    )
    return sizes


def test_a_deep_copy_of_a_models_options_keeps_the_range(case):
    """As nodes of other packs make one, while the MODEL is loaded and before it is loaded again."""
    import comfy.model_management as management

    worn = case.wear(case.lora(), start_percent=0.3, end_percent=0.6)
    expected = case.predict(worn, (0.2, 0.4))
    worn.model_options = copy.deepcopy(worn.model_options)
    management.unload_all_models()
    assert torch.equal(case.predict(worn, (0.2, 0.4)), expected)


def test_no_evaluation_is_spent_where_all_is_inside_or_all_outside(case, monkeypatch):
    lora = case.lora()
    worn = case.wear(lora, case.wear(lora, start_percent=0.5, first_frame=1), end_percent=0.5)
    calls = count_evaluations(case, monkeypatch)
    case.predict(worn, (0.2,))
    assert calls == [1]
    calls.clear()
    case.predict(worn, (0.7,))
    assert calls == [1, 1]


def test_samples_of_one_batch_at_different_noise_levels(case):
    """Some samplers ask so; each sample gets what it would get alone."""
    import comfy.samplers

    lora = case.lora()
    worn = case.wear(lora, start_percent=0.5)
    shape, answers = case.latent.shape[1:], []
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(7))

    class Probe(comfy.samplers.Sampler):
        def sample(
            self, wrap, sigmas, extra, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
        ):
            levels = [float(wrap.inner_model.model_sampling.percent_to_sigma(percent)) for percent in (0.2, 0.8)]
            answers.append(wrap(x, torch.tensor(levels), **extra))
            answers.extend(wrap(x, torch.full((2,), level), **extra) for level in levels)
            return latent_image

    with torch.inference_mode():
        guider = comfy.samplers.CFGGuider(worn)
        guider.set_conds(case.positive, case.negative)
        guider.set_cfg(1.0)
        latent = case.latent.expand(2, *shape)
        guider.sample(latent, latent, Probe(), torch.tensor([1.0, 0.0]), seed=0)
    mixed, high, low = answers
    assert same(mixed[0], high[0]) and same(mixed[1], low[1])


def test_a_controlnets_lists_are_whole_in_every_evaluation(case, monkeypatch):
    """Networks take controls out of the lists they are given."""
    seen = []
    network = case.model.model.diffusion_model
    forward = network.forward

    def taking(x, *args, control=None, **kwargs):
        seen.append(control["output"].pop())
        return forward(x, *args, control=None, **kwargs)

    worn = case.wear(case.lora(), first_frame=1)
    apply = type(case.model.model).apply_model

    def with_control(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        return apply(self, x, t, c_concat, c_crossattn, {"output": ["hint"]}, transformer_options, **kwargs)

    monkeypatch.setattr(network, "forward", taking)
    monkeypatch.setattr(type(case.model.model), "apply_model", with_control)
    case.predict(worn)
    assert seen == ["hint", "hint"]


def test_context_windows_wear_it_on_the_frames_of_the_whole_video(case):
    """The host shows the network windows of 2 latent frames; the ranges are those of all 4."""

    def windowed(model):
        (model,) = case.host.call(
            "ContextWindowsManual",
            model=model,
            context_length=2,
            context_overlap=0,
            context_schedule="standard_static",
            context_stride=1,
            closed_loop=False,
            fuse_method="pyramid",
            dim=2,
            freenoise=False,
        )
        return model

    lora, ratio = case.lora(), (case.frames - 1) // 3
    base, everywhere = case.predict(windowed(case.model)), case.predict(windowed(case.wear(lora, apply="bypass")))
    worn = case.predict(windowed(case.wear(lora, first_frame=1, last_frame=2 * ratio)))
    assert same(worn[:, :, 1:3], everywhere[:, :, 1:3])
    assert same(worn[:, :, 0], base[:, :, 0]) and same(worn[:, :, 3], base[:, :, 3])
    assert not same(worn[:, :, 1:3], base[:, :, 1:3])


def test_a_failing_evaluation_leaves_the_lora_switched_on(case, monkeypatch):
    worn = case.wear(case.lora(), first_frame=1)
    expected = case.predict(worn)
    network = case.model.model.diffusion_model
    with monkeypatch.context() as patch:

        def failing(*args, **kwargs):
            raise ArithmeticError("inside the network")

        patch.setattr(network, "forward", failing)
        with pytest.raises(ArithmeticError):
            case.predict(worn)
    assert same(case.predict(worn), expected)
    assert same(case.predict(case.wear(case.lora(), apply="bypass"))[:, :, 1:], expected[:, :, 1:])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"start_percent": 0.5, "end_percent": 0.5},
            "start_percent is 0.5 and end_percent 0.5; no noise level lies between",
        ),
        ({"first_frame": 5, "last_frame": 4}, "first_frame is 5 and last_frame 4. Raise last_frame"),
        (
            {"first_frame": 1, "apply": "patch weights"},
            "is to be worn on latent frames 1-end, and patched weights hold always",
        ),
        ({"end_percent": 0.4, "apply": "patch weights"}, "is to be worn at 0-0.4 of the sampling"),
    ],
)
def test_ranges_without_meaning_are_refused(case, limits, message):
    with pytest.raises(ValueError, match=message):
        case.wear(case.lora(), **limits)


def test_frames_that_no_latent_frame_begins_in_are_refused(wan):
    with pytest.raises(
        ValueError, match="No latent frame begins in frames 2 to 4; in this model one stands for 4 frames"
    ):
        wan.wear(wan.lora(), first_frame=2, last_frame=4)


def test_a_range_beyond_the_video_is_refused_when_it_is_sampled(case):
    worn = case.wear(case.lora(), first_frame=400)
    with pytest.raises(ValueError, match="worn from latent frame .* on and the video has 4. Lower first_frame"):
        case.predict(worn)


def test_training_through_a_range_is_refused(case):
    with pytest.raises(ValueError, match="wears a LoRA only at 0-0.5 of the sampling; training draws all noise levels"):
        case.trained(model=case.wear(case.lora(), end_percent=0.5))


def test_video_frames_to_latent_frames(host):
    latent_range = host.module("nodes.host.worn").latent_range
    for ratio in (1, 4, 8):
        begin = [0, *range(1, 60, ratio)]  # the first video frame of every latent frame
        for first in range(30):
            for last in range(first, 40):
                expected = [index for index, frame in enumerate(begin) if first <= frame <= last]
                if expected:
                    assert latent_range(first, last, ratio) == (expected[0], expected[-1])
                else:
                    with pytest.raises(ValueError, match="No latent frame begins"):
                        latent_range(first, last, ratio)
            assert latent_range(first, -1, ratio) == (min(i for i, f in enumerate(begin) if f >= first), None)
