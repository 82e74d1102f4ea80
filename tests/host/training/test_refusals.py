"""What Train Motion LoRA refuses before it starts, and what survives when saving fails."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "video latent"),
        ({"latent": {"samples": torch.zeros(1, 5, 8, 8, 8)}}, "5 channels"),
        ({"layers": {"layers": "regular expression", "pattern": "nothing.like.it"}}, "0 of"),
        ({"layers": {"layers": "regular expression", "pattern": "("}}, "regular expression"),
        ({"resume_from": "../../secret"}, "no training state"),
        ({"noise_low": 0.9, "noise_high": 0.1}, "noise_low is 0.9 and noise_high 0.1; no noise level lies between"),
        ({"layers": {"layers": "regular expression", "pattern": "([a-z0-9_.]+)+!"}}, "0 of"),
        (
            {"layers": {"layers": "regular expression", "pattern": "a{99999999999}"}},
            "is not a regular expression that can be read",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(host, case, change, message):
    with pytest.raises(ValueError, match=message):
        case.train(**change)


def test_bad_latents_are_refused(host, case):
    samples = case.learning["latent"]["samples"]
    with pytest.raises(
        ValueError,
        match="1 frame; motion|1 latent frame of this Wan model; motion needs at least 2, which stand for 5 frames",
    ):
        case.train(latent={"samples": samples[:, :, :1]})
    with pytest.raises(ValueError, match="NaN"):
        case.train(latent={"samples": samples * float("nan")})
    with pytest.raises(ValueError, match="The latent is empty"):
        case.train(latent={"samples": 0 * samples})


def test_sound_beside_the_video_is_refused(case):
    from comfy.nested_tensor import NestedTensor

    samples = case.learning["latent"]["samples"]
    with pytest.raises(ValueError, match="holds sound beside the video; training needs the video latent alone"):
        case.train(latent={"samples": NestedTensor([samples, torch.zeros(1, 8, 4, 4)])})


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_models_that_answer_from_earlier_steps_are_refused(host, wan_case, node):
    options = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    (cached,) = host.call(node, model=wan_case.model, **options)
    with pytest.raises(ValueError, match="answers some steps from earlier ones .* Connect the MODEL from before that"):
        wan_case.train(model=cached)


def test_block_sparse_attention_is_refused_by_name(wan_case):
    """Newer hosts' node puts its attention back before every step, by a callback under this key."""
    sparse = wan_case.model.clone()
    sparse.add_callback_with_key("on_prepare_state", "block_sparse_attention", lambda *_: None)
    with pytest.raises(ValueError, match="Block Sparse Attention.*, which has no gradient. Connect the MODEL from bef"):
        wan_case.train(model=sparse)


@pytest.mark.parametrize(
    ("node", "choice", "found"),
    [
        ("ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": False}, "LCM"),
        ("ModelSamplingContinuousEDM", {"sampling": "edm", "sigma_max": 120.0, "sigma_min": 0.002}, "EDM"),
        ("ModelSamplingDiscrete", {"sampling": "img_to_img", "zsnr": False}, "IMG_TO_IMG"),
    ],
)
def test_other_ways_to_predict_are_refused(host, sprites_case, node, choice, found):
    (model,) = host.call(node, model=sprites_case.model, **choice)
    with pytest.raises(ValueError, match=f"predicts by {found}, which cannot be trained here"):
        sprites_case.train(model=model)


@pytest.mark.parametrize("prediction", ["eps", "v_prediction", "x0"])
def test_ways_to_predict_that_nodes_choose_are_known(host, sprites_case, prediction):
    (model,) = host.call("ModelSamplingDiscrete", model=sprites_case.model, sampling=prediction, zsnr=False)
    kind = host.module("nodes.host.inputs").kind_of(model.get_model_object("model_sampling"))
    assert kind == prediction.removesuffix("_prediction")


def test_conditioning_of_several_prompts_is_refused(case):
    with pytest.raises(ValueError, match="There are 2 prompts and 1 clips; one prompt for all clips or one for each"):
        case.train(positive=case.learning["positive"] * 2)
    text, extra = case.learning["positive"][0]
    with pytest.raises(ValueError, match="stacks 2 prompts, of which the host would use the first"):
        case.train(positive=[[torch.cat([text, text]), extra]])


def test_movements_of_one_clip_are_refused_for_several(case):
    """As the nodes for VACE and Animate hand them over."""
    samples = case.learning["latent"]["samples"]
    text, extra = case.learning["positive"][0]
    for name in ("vace_frames", "pose_video_latent"):
        with pytest.raises(ValueError, match=f"holds pictures of one clip .{name}. and the latent 2 clips"):
            case.train(latent={"samples": torch.cat([samples, samples])}, positive=[[text, extra | {name: [samples]}]])


def test_a_model_of_no_known_family_is_refused_with_the_remedy(host, case, monkeypatch):
    roles = host.module("sma.roles")
    own = roles.family_of(case.model.model.diffusion_model)
    monkeypatch.setattr(roles, "FAMILIES", tuple(family for family in roles.FAMILIES if family is not own))
    with pytest.raises(ValueError, match="no video network of a known family .* Choose its layers by a regular expres"):
        case.train()
    lora, _ = case.train(layers={"layers": "regular expression", "pattern": r".*attn.*(to_)?[qv]"}, steps=1)
    assert lora


def test_conditioning_of_a_part_is_refused(host, case):
    (partial,) = host.call("ConditioningSetTimestepRange", conditioning=case.learning["positive"], start=0.0, end=0.3)
    with pytest.raises(ValueError, match="limited by start_percent, end_percent"):
        case.train(positive=partial)


def test_a_prefix_that_leads_outside_is_refused_before_training(host, case, monkeypatch):
    monkeypatch.setattr(host.module("nodes.train"), "train", lambda *_, **__: pytest.fail("trained"))
    for prefix in ("../outside", "../../outside"):
        with pytest.raises(ValueError, match="leads out of its folder"):
            case.train(save_prefix=prefix)


def test_the_name_told_on_cancel_is_the_name_in_the_list(host, case, cancel_at_2, said):
    import comfy.model_management as management

    paths = host.module("nodes.host.paths")
    before = set(paths.saved_states())
    with pytest.raises(management.InterruptProcessingException):
        case.train(save_prefix="deep/run")
    (line,) = [line for line in said if line.startswith("Stopped at step 2 of 5")]
    (name,) = set(paths.saved_states()) - before
    assert name.startswith("deep/run")
    assert f"Choose {name} in resume_from" in line


def test_a_resume_with_other_settings_is_told(host, case, caplog):
    paths = host.module("nodes.host.paths")
    before = set(paths.saved_states())
    case.train(steps=2, save_every=2)
    (name,) = set(paths.saved_states()) - before
    caplog.clear()
    case.train(steps=3, resume_from=name)
    assert "other settings" not in caplog.text
    case.train(steps=3, resume_from=name, seed=5, learning_rate=1e-3)
    assert f"{name} was trained with other settings (learning_rate, seed) than this run." in caplog.text
    caplog.clear()
    case.train(steps=3, resume_from=name, batch_size=1, accumulation=2)
    assert "(batch_size, accumulation)" in caplog.text


def test_cancel_is_heard_inside_backward(host, case, monkeypatch):
    """UNets are not checkpointed, so nothing of the host runs in their backward."""
    import comfy.model_management as management

    losses = host.module("sma.losses")
    reached = []

    class CancelInBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            management.interrupt_current_processing(True)
            return gradient

    class Cancelled(losses.Denoising):
        def __call__(self, p, generator):
            return CancelInBackward.apply(super().__call__(p, generator))

    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args, **kwargs: reached.append(1) or step(*args, **kwargs))
    loss = losses.MotionLoss((losses.WeightedTerm("cancelled", 1.0, Cancelled()),))
    with pytest.raises(management.InterruptProcessingException):
        case.train(motion_loss=loss, checkpointing=False)
    assert not reached


def test_denoising_looks_inside_the_noise_mask_only(host, case):
    (loss,) = host.call("SMA_AlignmentLoss", method={"method": "denoising"})
    samples = case.learning["latent"]["samples"]
    everywhere = torch.ones(1, 1, 16, 16)
    left = everywhere.clone()
    left[..., 8:] = 0
    losses = {}
    masks = {"everywhere": everywhere, "left": left, "bool": left.bool(), "whole": left.long()}
    for name, mask in {"none": {}, **{name: {"noise_mask": mask} for name, mask in masks.items()}}.items():
        losses[name] = case.train(latent={"samples": samples} | mask, motion_loss=loss, steps=2)[1]["loss"]
    assert losses["everywhere"] == pytest.approx(losses["none"])
    assert losses["left"] != pytest.approx(losses["none"])
    assert losses["left"] == losses["bool"] == losses["whole"]
    with pytest.raises(ValueError, match="nothing but 0"):
        case.train(latent={"samples": samples, "noise_mask": 0 * everywhere}, motion_loss=loss)
    with pytest.raises(ValueError, match=r"noise mask is \[0, 16, 16\], without any value"):
        case.train(latent={"samples": samples, "noise_mask": torch.ones(0, 16, 16)}, motion_loss=loss)
