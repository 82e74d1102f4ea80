"""What a graph hands to a training, named as what it is where it cannot be trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch


def _conditioning(case, **changes):
    """The case's prompt with other values: text, or what stands beside it."""
    (text, extra), *_ = case.learning["positive"]
    return [[changes.pop("text", text).clone(), extra | changes]]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x.index_fill(2, torch.tensor(1), float("nan")), r"^The latent holds \d+ NaN or infinite values of \d+; finite"),
        (lambda x: x * float("inf"), r"^The latent holds \d+ NaN or infinite values of \d+; finite ones are needed. Encode"),
        (lambda x: x * 1e30, r"^The latent holds values up to \de\+30; 1e\+06 is the most that makes sense. Encode the clip again.$|"
         r"^The latent holds values up to [\d.]+e\+\d+; 1e\+06 is the most that makes sense. Encode the clip again.$"),
    ],
)  # fmt: skip
def test_latents_of_no_numbers_are_refused(case, spoil, said):
    with pytest.raises(ValueError, match=said):
        case.train(latent={"samples": spoil(case.learning["latent"]["samples"])})


def test_conditioning_of_no_numbers_is_refused(case):
    text, _ = case.learning["positive"][0]
    for wrong, said in [
        (float("nan"), "NaN or infinite values"),
        (1e30, r"values up to [\d.]+e\+\d+; 1e\+06 is the most"),
    ]:
        with pytest.raises(ValueError, match=f"^The conditioning holds .*{said}.* Encode the prompt again.$"):
            case.train(positive=_conditioning(case, text=text * wrong + wrong))
        with pytest.raises(ValueError, match=f"^The conditioning's embedding holds .*{said}"):
            case.train(positive=_conditioning(case, embedding=torch.full((1, 8), wrong)))


def test_a_pooled_output_that_the_model_never_sees_may_hold_anything(case):
    """Text encoders without a projection leave it as the memory happens to be."""
    lora, _ = case.train(positive=_conditioning(case, pooled_output=torch.full((1, 8), float("nan"))), steps=1)
    assert len(lora)


def test_conditioning_of_another_width_is_refused(case):
    text, _ = case.learning["positive"][0]
    width = text.shape[-1]
    with pytest.raises(
        ValueError,
        match=f"^The conditioning is {width + 4} wide and the model takes {width}. Encode the prompt with the text encoder that bel",
    ):
        case.train(positive=_conditioning(case, text=torch.zeros(1, 6, width + 4)))


def test_a_start_image_that_is_no_video_latent_is_refused(case):
    samples = case.learning["latent"]["samples"]
    with pytest.raises(
        ValueError, match=r"^The start image is conditioned as \[1, \d+, \d+, \d+\]; a video latent .* is needed"
    ):
        case.train(positive=_conditioning(case, concat_latent_image=samples[:, :, 0]))


@pytest.mark.parametrize("shape", [(5,), (1, 1, 1, 2, 4, 4)])
def test_masks_without_a_height_and_a_width_are_refused(case, shape):
    with pytest.raises(
        ValueError, match="^The latent's noise mask is .*; it needs a height and a width. Draw one, or remove it.$"
    ):
        case.train(latent=case.learning["latent"] | {"noise_mask": torch.ones(shape)})


@pytest.mark.parametrize(
    "shape", [(3, 5), (1, 9, 9), (7, 4, 4), (1, 1, 9, 9), (1, 1, 3, 9, 9), (1, 5, 2, 3, 3), (2, 1, 1, 8, 8)]
)
def test_masks_of_another_size_are_fitted_to_the_clip(sprites_case, shape):
    lora, _ = sprites_case.train(steps=1, latent=sprites_case.learning["latent"] | {"noise_mask": torch.ones(shape)})
    assert lora


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        (
            "adapter",
            float("nan"),
            "^{name} is damaged: .* or its moments hold NaN or infinite values. Choose another state.$",
        ),
        (
            "adapter",
            1e30,
            r"^The state {name} holds values up to 1e\+30; 1e\+06 is the most .* Resume from another state",
        ),
        (
            "optimizer",
            float("inf"),
            "^{name} is damaged: .* or its moments hold NaN or infinite values. Choose another state.$",
        ),
        (
            "optimizer",
            1e30,
            r"^The state {name} holds values up to 1e\+30; 1e\+20 is the most .* Resume from another state",
        ),
    ],
)
def test_a_state_of_no_numbers_is_refused(host, sprites_case, part, value, said):
    paths, files = host.module("nodes.host.paths"), host.module("sma.files")
    sprites_case.train(steps=1, save_every=1, save_prefix="spoilt")
    name = paths.saved_states()[0]
    path = Path(paths.state_path(name))
    state = files.load_state(path)
    spoilt = {key: torch.full_like(tensor, value) for key, tensor in getattr(state, part).items()}
    files.save_state(replace(state, **{part: spoilt}), path, files.state_about(path))
    with pytest.raises(ValueError, match=said.replace("{name}", name)):
        sprites_case.train(steps=2, resume_from=name)


def test_inversion_and_noise_refuse_them_too(host, sprites_case):
    latent, positive = sprites_case.learning["latent"], sprites_case.learning["positive"]
    widgets = {"model": sprites_case.model, "latent": latent, "steps": 2, "refinements": 0}
    text, _ = positive[0]
    with pytest.raises(ValueError, match="^The conditioning is .* wide and the model takes"):
        host.call("SMA_InvertClip", **widgets, positive=_conditioning(sprites_case, text=torch.zeros(1, 6, 3)))
    with pytest.raises(ValueError, match="^The conditioning holds .* NaN"):
        host.call("SMA_InvertClip", **widgets, positive=_conditioning(sprites_case, text=text * float("nan")))
    with pytest.raises(ValueError, match="^The latent holds .* NaN"):
        host.call(
            "SMA_InvertClip", **widgets | {"latent": {"samples": latent["samples"] * float("nan")}}, positive=positive
        )
    for wrong, said in [
        (float("nan"), "NaN or infinite"),
        (1e30, "up to 1e.30; 1e.06 is the most that makes sense. Invert the"),
    ]:
        with pytest.raises(ValueError, match=f"^The inverted latent holds .*{said}"):
            host.call(
                "SMA_MotionNoise",
                inverted={"samples": torch.full((1, 4, 4, 4, 4), wrong)},
                seed=0,
                method={"method": "inverted alone (VMC)"},
                renormalise=False,
            )


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0, 255.0])
def test_masks_of_other_values_than_0_to_1_are_refused(sprites_case, wrong):
    mask = torch.ones(8, 8)
    mask[0, 0] = wrong
    with pytest.raises(
        ValueError, match="^The latent's noise mask holds values that are not from 0 to 1. Draw it again.$"
    ):
        sprites_case.train(latent=sprites_case.learning["latent"] | {"noise_mask": mask})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda x: x.to(torch.int64),
            "latent holds int64 values; float32, float16 or bfloat16 ones are needed. Make it",
        ),
        (lambda x: x > 0, "latent holds bool values; float32, float16 or bfloat16 ones are needed. Make it again."),
        (
            lambda x: x.to(torch.complex64),
            "latent holds complex64 values; float32, float16 or bfloat16 ones are needed.",
        ),
        (
            lambda x: x.to(torch.float8_e4m3fn),
            "latent holds float8_e4m3fn values; float32, float16 or bfloat16 ones are",
        ),
        (
            lambda x: x.to("meta"),
            "latent is sparse, quantised or without values; a plain tensor is needed. Make it again.",
        ),
        (
            lambda x: x.to_sparse(),
            "latent is sparse, quantised or without values; a plain tensor is needed. Make it again.",
        ),
        (lambda x: x.numpy(), "latent is no LATENT. Link a node that gives one."),
    ],
)
def test_latents_of_other_kinds_are_refused_by_what_they_hold(sprites_case, change, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        sprites_case.train(latent={"samples": change(sprites_case.learning["latent"]["samples"].clone())})


def test_a_lora_of_no_numbers_is_not_saved(host, sprites_case):
    lora, _ = sprites_case.train(steps=1)
    key = next(iter(lora))
    lora[key] = lora[key] * float("nan")
    with pytest.raises(
        ValueError, match="of the LoRA holds .* NaN or infinite values of .*Its training failed; train again"
    ):
        host.call("SMA_SaveMotionLoRA", lora=lora, filename_prefix="no_numbers")
