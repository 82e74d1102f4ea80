"""AnimateDiff as the original and AnimateDiff-Evolved compute it: core's own Stable Diffusion, frames as its batch, with temporal
transformers put between its layers."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_animatediff as tiny
import torch
from descent import slopes
from listening import listen
from torch import Tensor, nn
from torch.nn import functional as F

CHECKPOINT = {"base": "checkpoint", "checkpoint": "tiny_sd15.safetensors"}
HEADS = 8


class TemporalTransformer(nn.Module):
    """The original's, of the weights below a prefix in its own file; one block, as published."""

    def __init__(self, weights: dict[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.weights = {
            name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)
        }
        channels = len(self.weights["norm.weight"])
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.norm.load_state_dict({name: self.weights[f"norm.{name}"] for name in ("weight", "bias")})

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def forward(self, x: Tensor) -> Tensor:
        """[F, C, H, W], frames of one video."""
        block = "transformer_blocks.0"
        y = self.linear("proj_in", self.norm(x).permute(2, 3, 0, 1).flatten(0, 1))  # [H*W, F, C]
        for layer in range(2):
            attention = f"{block}.attention_blocks.{layer}"
            tokens = self.layer_norm(f"{block}.norms.{layer}", y)
            tokens = tokens + self.weights[f"{attention}.pos_encoder.pe"][:, : len(x)]
            heads = [
                self.linear(f"{attention}.to_{name}", tokens).unflatten(-1, (HEADS, -1)).transpose(1, 2)
                for name in "qkv"
            ]
            attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
            y = y + self.linear(f"{attention}.to_out.0", attended)
        value, gate = self.linear(f"{block}.ff.net.0.proj", self.layer_norm(f"{block}.ff_norm", y)).chunk(2, -1)
        y = y + self.linear(f"{block}.ff.net.2", value * F.gelu(gate))
        return x + self.linear("proj_out", y).unflatten(0, x.shape[2:]).permute(2, 3, 0, 1)


def put_between(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """A temporal transformer behind every image transformer, and where there is none behind the ResNet."""
    kinds = ("SpatialTransformer", "ResBlock")

    def behind(blocks: list[nn.Module], prefixes: list[str]) -> None:
        places = [block for block in blocks if any(type(layer).__name__ in kinds for layer in block)]
        for block, prefix in zip(places, prefixes, strict=True):
            names = [type(layer).__name__ for layer in block]
            place = names.index(kinds[0] if kinds[0] in names else kinds[1])
            block.insert(place + 1, TemporalTransformer(weights, f"{prefix}.temporal_transformer."))

    behind(network.input_blocks, [f"down_blocks.{level}.motion_modules.0" for level in range(2)])
    behind(network.output_blocks, [f"up_blocks.{n // 2}.motion_modules.{n % 2}" for n in range(4)])
    if any(name.startswith("mid_block") for name in weights):
        behind([network.middle_block], ["mid_block.motion_modules.0"])


def all_frames(norm: nn.Module) -> None:
    """A group norm is given [1, C, F, H, W] of [F, C, H, W]."""
    norm.register_forward_pre_hook(lambda norm, args: (args[0].movedim(0, 1)[None],))
    norm.register_forward_hook(lambda norm, args, output: output[0].movedim(1, 0))


def of_resnets(name: str) -> bool:
    return "in_layers" in name or "out_layers" in name or name.startswith("out.")


@pytest.fixture
def core(host, models, checkpoint) -> Any:
    return host.call("CheckpointLoaderSimple", ckpt_name=CHECKPOINT["checkpoint"])[0].model.diffusion_model


@pytest.mark.parametrize(
    ("layout", "form", "together"),
    [
        ("v1", "as original", of_resnets),
        ("v1", "as AnimateDiff-Evolved", lambda name: True),
        ("v2", "as original", None),
        ("v2", "as AnimateDiff-Evolved", None),
        ("v3", None, None),
    ],
)
def test_it_is_core_s_stable_diffusion_with_the_original_s_temporal_transformers(
    host, models, core, layout, form, together
):
    from safetensors.torch import load_file

    name, *_ = tiny.write_motion_module(models, layout, [320, 320])
    put_between(core, load_file(models / "animatediff_models" / name))
    for path, module in core.named_modules():
        if together is not None and isinstance(module, nn.GroupNorm) and together(path):
            all_frames(module)
    options = {} if form is None else {"group_norm": form}  # prompts saved before there was a choice have none
    model, *_ = host.call("SMA_LoadAnimateDiffModel", base=CHECKPOINT, motion_module=name, weights="float32", **options)
    x, t, context = tiny.video(seed=1), torch.tensor([300.0]), tiny.text(1)
    with torch.inference_mode():
        frames = x[0].movedim(1, 0)
        theirs = core(
            frames, t.expand(len(frames)), context=context.expand(len(frames), -1, -1), transformer_options={}
        )
        ours = model.model.diffusion_model(x, t, context=context)[0].movedim(1, 0)
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()


def test_the_choice_is_last_and_may_be_missing_as_in_what_was_saved_before_it(host, case):
    *before, choice = host.module("nodes.animatediff").LoadAnimateDiffModel.define_schema().inputs
    assert [item.id for item in before] == ["base", "motion_module", "weights"]
    assert (choice.id, choice.optional, choice.default) == ("group_norm", True, "as original")
    assert choice.options == ["as original", "as AnimateDiff-Evolved", "as diffusers"]


@pytest.mark.parametrize("form", ["as diffusers", "as AnimateDiff-Evolved"])
def test_the_node_says_which_form_it_loaded(host, models, case, monkeypatch, form):
    name, *_ = tiny.write_motion_module(models, "v1", tiny.WIDTHS)
    tiny.write_text_encoder_and_vae(models, "tiny-sd15")
    said = listen(monkeypatch)
    base = {"base": "diffusers folder", "folder": "tiny-sd15"}
    host.call("SMA_LoadAnimateDiffModel", base=base, motion_module=name, weights="as stored", group_norm=form)
    words = {"as diffusers": "motion modules over all frames, the rest each frame by itself"}
    assert said[-1].endswith(f", at most 24 frames, group norm {form} (v1): {words.get(form, 'all frames together')}")


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("form", ["original", "AnimateDiff-Evolved"])
def test_gradients_over_all_frames_are_those_of_finite_differences(models, load, form, checkpoint):
    case = load(*tiny.write_motion_module(models, "v1", tiny.WIDTHS), form=form)

    def job(denoiser: Any) -> Any:
        adapter = case.adapter_on(denoiser)
        with torch.no_grad():
            for name, value in adapter.named_parameters():
                if name.endswith(".up"):
                    value.normal_(std=0.1, generator=torch.Generator().manual_seed(6))
        loss = case.loss(denoiser)
        with torch.no_grad():  # a frame alone, as a dual path runs between the forward and the backward of the clip
            denoiser.denoise(tiny.video(seed=7)[:, :, :1], torch.full((1,), denoiser.sigma_at(0.6)))
        loss.backward()
        found = slopes(adapter.parameters(), lambda: case.loss(denoiser))
        adapter.detach()
        return found

    slope, measured = case.inside(job, checkpoint=checkpoint)
    assert slope > 1e-3
    assert measured == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize(
    ("trained", "warned"), [("diffusers", True), ("original", False), ("AnimateDiff-Evolved", False), (None, False)]
)
def test_a_lora_that_learned_beside_other_norms_is_warned_of(host, case, monkeypatch, trained, warned):
    """Of a v2 module the original and AnimateDiff-Evolved compute the same."""
    said = listen(monkeypatch)
    names = host.module("sma.roles").layers_of(case.model.model.diffusion_model, "motion")
    layer = case.model.model.diffusion_model.get_submodule(names[0])
    tensors = {
        f"diffusion_model.{names[0]}.lora_A.weight": torch.ones(1, layer.in_features),
        f"diffusion_model.{names[0]}.lora_B.weight": torch.ones(layer.out_features, 1),
    }
    lora = host.module("sma.files").MotionLoRA(tensors, {} if trained is None else {"group_norm": trained})
    host.call(
        "SMA_LoadMotionLoRA",
        model=case.model,
        source={"source": "trained", "lora": lora},
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
        first_frame=0,
        last_frame=-1,
        apply="auto",
    )
    text = "The LoRA was trained with group norms as diffusers and this model computes them as original: it will move differently. "
    assert any(line.startswith(text) for line in said) == warned
