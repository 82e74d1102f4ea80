"""Whose statistics the group norms take, against a network in plain torch that knows nothing of diffusers' modules."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sma.networks.animatediff import build_unet_motion, unet_motion_config
from sma.networks.animatediff_norms import FORMS, describe_norms, module_version, norms_over_frames
from tests.sma.animatediff_reference import Part, Reference

UNET2D = {
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
# Position tables and mid block of mm_sd_v15, mm_sd_v15_v2 and v3_sd15_mm.
LAYOUTS = {"v1": (24, False), "v2": (32, True), "v3": (32, False)}
NOTHING, RESNETS, MOTION = (), ("resnets",), ("motion_modules",)
# What each program does, as its own code has it.
TOGETHER = {
    ("original", "v1"): RESNETS,
    ("original", "v2"): NOTHING,
    ("original", "v3"): NOTHING,
    ("AnimateDiff-Evolved", "v1"): ("resnets", "attentions", "motion_modules"),
    ("AnimateDiff-Evolved", "v2"): NOTHING,
    ("AnimateDiff-Evolved", "v3"): NOTHING,
    ("diffusers", "v1"): MOTION,
    ("diffusers", "v2"): MOTION,
    ("diffusers", "v3"): MOTION,
}
FRAMES = 5


def config(layout: str, **changes: Any) -> dict[str, Any]:
    frames, mid = LAYOUTS[layout]
    adapter = {"block_out_channels": [16, 32], "motion_layers_per_block": 1, "motion_norm_num_groups": 8}
    return unet_motion_config(
        UNET2D, adapter | {"motion_max_seq_length": frames, "use_motion_mid_block": mid}, **changes
    )


def network(layout: str, form: str | None = None, operations: Any = None) -> nn.Module:
    built = build_unet_motion(config(layout, **({"group_norm": form} if form else {})), operations=operations)
    generator = torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return built.eval()


def reference(weights: nn.Module, together: tuple[str, ...]) -> Reference:
    return Reference(weights.state_dict(), groups=8, heads=4, motion_heads=8, together=together)


def inputs(frames: int = FRAMES, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(batch * frames, 2, 12, generator=generator)
    return torch.randn(batch, 4, frames, 8, 6, generator=generator), torch.tensor([5, 700])[:batch], text


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= 2e-5 * theirs.std()


@torch.no_grad()
@pytest.mark.parametrize("operations", [None, nn])
@pytest.mark.parametrize("form, layout", TOGETHER)
def test_every_form_of_every_version_is_that_of_the_reference(form, layout, operations):
    ours = network(layout, form, operations)
    for frames in (1, FRAMES):
        theirs = reference(ours, TOGETHER[form, layout])(*inputs(frames))
        assert_same(ours(*inputs(frames)).sample, theirs)


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_original_s_is_the_default_and_is_not_that_of_diffusers(layout):
    ours, diffusers = network(layout), network(layout, "diffusers")
    answer = ours(*inputs()).sample
    assert_same(answer, reference(ours, TOGETHER["original", layout])(*inputs()))
    assert (answer - diffusers(*inputs()).sample).abs().max() > 0.05 * answer.std()
    # One frame is its own statistics.
    assert_same(ours(*inputs(1)).sample, diffusers(*inputs(1)).sample)


@torch.no_grad()
def test_a_motion_module_alone_is_the_original_s_temporal_transformer():
    ours = network("v3")
    x = torch.randn(2 * FRAMES, 16, 6, 4, generator=torch.Generator().manual_seed(2))
    plain = reference(ours, ())
    plain.frames = FRAMES
    expected = plain.motion_module(Part(ours.state_dict(), "down_blocks.0.motion_modules.0."), x)
    assert_same(ours.down_blocks[0].motion_modules[0](x, num_frames=FRAMES), expected)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_videos_of_a_batch_do_not_meet(form):
    ours, (video, t, text) = network("v1", form), inputs()
    both = ours(video, t, text).sample
    alone = ours(video[:1], t[:1], text[:FRAMES]).sample
    torch.testing.assert_close(both[:1], alone, rtol=0, atol=1e-5)


def test_gradients_are_those_of_the_reference_though_another_length_ran_in_between():
    """What runs again in backward is given the frames of its own run; dual paths run one frame and a clip side by side."""
    ours = network("v1")
    resnet, (video, t, text) = ours.down_blocks[1].resnets[0], inputs()
    forward, runs = resnet.forward, []

    def again(*args: Any, **kwargs: Any) -> Tensor:
        runs.append(kwargs["frames"])
        return torch.utils.checkpoint.checkpoint(forward, *args, use_reentrant=False, **kwargs)

    def slope(answer: Tensor, weight: Tensor) -> Tensor:
        return torch.autograd.grad(answer.square().sum(), weight)[0]

    resnet.forward = again
    answer = ours(video, t, text).sample
    ours(*inputs(1))
    assert runs == [FRAMES, 1]
    weights = {name: value.detach().requires_grad_() for name, value in ours.named_parameters()}
    plain = Reference(weights, groups=8, heads=4, motion_heads=8, together=RESNETS)(video, t, text)
    found = slope(answer, resnet.conv1.weight)
    expected = slope(plain, weights["down_blocks.1.resnets.0.conv1.weight"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def test_a_copy_counts_its_own_frames():
    ours = network("v1")
    twin = copy.deepcopy(ours)
    expected = ours(*inputs()).sample
    ours(*inputs(2))
    assert torch.equal(twin(*inputs()).sample, expected)
    assert torch.equal(ours(*inputs()).sample, expected)


@pytest.mark.parametrize("form", FORMS)
def test_no_weight_gets_another_name_and_no_norm_other_operations(form):
    class Operations:
        class GroupNorm(nn.GroupNorm):
            pass

    ours, plain = network("v1", form, Operations), network("v1", "diffusers")
    assert list(ours.state_dict()) == list(plain.state_dict())
    norms = [module for module in ours.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) > 20 and all(isinstance(norm, Operations.GroupNorm) for norm in norms)
    assert [type(module).__name__ for module in ours.modules()] == [type(module).__name__ for module in plain.modules()]


def test_versions_are_told_apart_as_animatediff_evolved_does():
    for (form, layout), together in TOGETHER.items():
        assert module_version(config(layout)) == layout
        assert norms_over_frames(config(layout), form) == together
    assert module_version({"use_motion_mid_block": False, "motion_max_seq_length": 64}) == "v1"
    with pytest.raises(ValueError, match=r"^There is no group norm as 'SD'\. Choose one of original, AnimateDiff-Ev"):
        norms_over_frames(config("v1"), "SD")


def test_the_form_is_said_in_a_line():
    assert describe_norms(config("v3"), "original") == "group norm as original (v3): each frame by itself"
    assert describe_norms(config("v1"), "original").endswith(
        "ResNets over all frames, motion modules each frame by itself"
    )
    assert describe_norms(config("v1"), "AnimateDiff-Evolved").endswith("(v1): all frames together")
    assert describe_norms(config("v2"), "diffusers").endswith(
        "motion modules over all frames, the rest each frame by itself"
    )
