"""No LoRA fails in silence: wrong models and shapes are refused by name, keys are counted, quantised weights are bypassed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import write_quantised


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.fixture(scope="module")
def unet(make_case, sprites):
    return make_case(sprites[0])


def test_a_lora_of_another_family_is_refused(unet, wan, lora_folder):
    with pytest.raises(
        ValueError,
        match=r"The trained LoRA was made for Wan \(blocks\.0\.self_attn\.\w, \.\.\.\); this model is UNet3D\. Load the model it was",
    ):
        unet.wear(wan.lora())
    with pytest.raises(ValueError, match=r"was made for UNet3D \(.*temp_\w+.*\); this model is Wan\."):
        wan.wear(unet.lora())
    save_file(wan.lora(), lora_folder / "of_wan.safetensors")
    with pytest.raises(ValueError, match=r"of_wan\.safetensors was made for Wan"):
        unet.wear("of_wan.safetensors")


def test_a_lora_of_an_unknown_family_is_refused_by_what_it_says_of_itself(unet, lora_folder):
    tensors = {"a.b.lora_A.weight": torch.ones(2, 3), "a.b.lora_B.weight": torch.ones(4, 2)}
    with pytest.raises(
        ValueError, match="No key of The trained LoRA names a layer .* UNet3D; the file's layers are like 'a.b'"
    ):
        unet.wear(tensors)
    save_file(tensors, lora_folder / "other.safetensors", {"base_model": "CogVideoX"})
    with pytest.raises(
        ValueError,
        match=r"was made for CogVideoX \(a\.b, \.\.\.\); this model is UNet3D, and no key .* trained on \(CogVideoX\)\.",
    ):
        unet.wear("other.safetensors")


@pytest.mark.parametrize("entry", ["modelspec.architecture", "ss_base_model_version"])
def test_the_model_that_a_file_names_comes_before_a_guess_by_its_layers(wan, lora_folder, entry):
    """Flux has layers of HunyuanVideo's names."""
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{stem}.lora_down.weight": torch.ones(2, 3), f"{stem}.lora_up.weight": torch.ones(4, 2)}
    save_file(tensors, lora_folder / "flux.safetensors", {entry: "flux1"})
    with pytest.raises(ValueError, match=r"was made for flux1 \(.*this model is Wan.* trained on \(flux1\)"):
        wan.wear("flux.safetensors")


@pytest.mark.parametrize("apply", ["patch weights", "bypass"])
def test_a_lora_of_another_size_is_refused_by_layer_and_shapes(wan, apply):
    lora = {key: value[:, :64] if key.endswith("lora_A.weight") else value for key, value in wan.lora().items()}
    with pytest.raises(
        ValueError,
        match=r"diffusion_model\.blocks\.0\.self_attn\.k\.lora_A\.weight is \[4, 64\], which does not fit the layer's weight \[128, 128\]"
        r" and 7 more do not fit\. Load the model it was trained on",
    ):
        wan.wear(lora, apply=apply)


def test_a_lora_of_a_failed_training_is_refused(wan):
    lora = {key: value.clone() for key, value in wan.lora().items()}
    broken = next(key for key in lora if key.endswith("lora_B.weight"))
    lora[broken][0, 0] = float("nan")
    with pytest.raises(
        ValueError, match=r"holds NaN or infinite values in 1 layer, for example blocks\.0\.self_attn\.\w"
    ):
        wan.wear(lora)


def test_files_that_are_no_loras_are_refused(unet, lora_folder):
    with pytest.raises(ValueError, match=r"is not a LoRA: its keys are like 'conv_in\.weight'"):
        unet.wear({"conv_in.weight": torch.ones(3)})
    layer = "diffusion_model.conv_in"
    for halves in ({f"{layer}.lora_A.weight": torch.ones(2, 4, 3, 3)}, {f"{layer}.alpha": torch.tensor(1.0)}):
        with pytest.raises(ValueError, match=r"is incomplete: of conv_in it lacks a factor\. Download"):
            unet.wear(halves)
    no_rank = {f"{layer}.lora_A.weight": torch.ones(0, 4, 3, 3), f"{layer}.lora_B.weight": torch.ones(32, 0, 1, 1)}
    for lora in (no_rank, no_rank | {f"{layer}.alpha": torch.tensor(1.0)}):
        with pytest.raises(ValueError, match=r"conv_in\.lora_A\.weight is \[0, 4, 3, 3\], which does not fit"):
            unet.wear(lora)
    with pytest.raises(
        ValueError, match=r"has keys for a text encoder only \(text_encoder\..*Use core's Load LoRA with the CLIP"
    ):
        unet.wear({"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": torch.ones(2, 2)})
    (lora_folder / "broken.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(ValueError, match="broken.safetensors is damaged or no safetensors file"):
        unet.wear("broken.safetensors")
    with pytest.raises(
        ValueError, match="^There is no file '../../secret.safetensors' among the loras. Choose one from the list"
    ):
        unet.wear("../../secret.safetensors")


def test_pickles_that_want_to_run_code_are_refused(unet, lora_folder):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (lora_folder / "owned",))

    for content in (Evil(), [Evil()], {"a": Evil()}):
        torch.save(content, lora_folder / "evil.pt")
        with pytest.raises(ValueError, match="evil.pt could not be read as plain tensors"):
            unet.wear("evil.pt")
    assert not (lora_folder / "owned").exists()


def test_unknown_and_text_encoder_keys_are_counted_apart(case):
    lora = case.lora()
    count = len(lora)
    case.wear(
        lora
        | {
            f"diffusion_model.nowhere.{index}.lora_{side}.weight": torch.ones(2, 2)
            for index in range(3)
            for side in "AB"
        }
        | {f"lora_te_text_model_encoder_layers_{index}_mlp_fc1.alpha": torch.tensor(1.0) for index in range(5)}
    )
    assert case.said[-1] == (
        f"{count} of {count + 6} keys applied (ComfyUI format, rank 4, patched), 6 unknown, for example "
        "diffusion_model.nowhere.0.lora_A.weight; 5 keys are for the text encoder: core's Load LoRA applies those"
    )


def test_updates_that_only_the_host_knows_are_patched_and_counted(wan):
    """Full differences, biases, LoKr and DoRA, beside plain products that are bypassed."""
    layer = "diffusion_model.blocks.1.ffn"
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(shape, generator=generator) * 0.05

    foreign = {
        f"{layer}.0.diff": draw(64, 128),
        f"{layer}.0.diff_b": draw(64),
        "lora_unet_blocks_1_ffn_2.lokr_w1": draw(2, 2),
        "lora_unet_blocks_1_ffn_2.lokr_w2": draw(64, 32),
        "lora_unet_blocks_1_ffn_2.alpha": torch.tensor(1.0),
        "diffusion_model.blocks.0.cross_attn.q.lora_A.weight": draw(2, 128),
        "diffusion_model.blocks.0.cross_attn.q.lora_B.weight": draw(128, 2),
        "diffusion_model.blocks.0.cross_attn.q.dora_scale": draw(128, 1).abs() + 1,
    }
    lora = wan.lora() | foreign
    expected = wan.predict(wan.core(lora))
    patched = wan.wear(lora, apply="patch weights")
    assert wan.said[-1] == f"{len(lora)} of {len(lora)} keys applied (ComfyUI format, rank 4, patched)"
    assert distance(wan.predict(patched), expected) <= 1e-5
    bypassed = wan.wear(lora, apply="bypass")
    assert wan.said[-1].endswith("(ComfyUI format, rank 4, bypassed, 4 of its weights patched)")
    assert distance(wan.predict(bypassed), expected) <= 1e-4
    assert distance(expected, wan.predict(wan.core(wan.lora()))) > 1e-3
    only = wan.wear(foreign)
    assert wan.said[-1] == "8 of 8 keys applied (by core's own rules, patched)"
    assert distance(wan.predict(only), wan.predict(wan.core(foreign))) <= 1e-5
    with pytest.raises(ValueError, match="holds 4 updates that can only be patched, .* no range can limit those"):
        wan.wear(lora, end_percent=0.5)
    wrong = {f"{layer}.0.diff": draw(3, 3)}
    with pytest.raises(
        ValueError,
        match=r"the update of diffusion_model\.blocks\.1\.ffn\.0\.weight is \[3, 3\] and the weight \[64, 128\]",
    ):
        wan.wear(wrong)
    with pytest.raises(
        ValueError, match=r"is incomplete: of blocks\.0\.self_attn\.q it lacks a factor\. Download or export it again"
    ):
        wan.wear({"diffusion_model.blocks.0.self_attn.q.lora_B.weight": draw(128, 2)})


@pytest.mark.parametrize("apply", ["patch weights", "bypass"])
def test_a_product_and_a_difference_on_one_layer_add_up(wan, apply):
    lora, layer = wan.lora(), "diffusion_model.blocks.0.self_attn.q"
    difference = {f"{layer}.diff": torch.randn(128, 128, generator=torch.Generator().manual_seed(1)) * 0.05}
    both = wan.predict(wan.wear(lora | difference, apply=apply))
    assert wan.said[-1].startswith(f"{len(lora) + 1} of {len(lora) + 1} keys applied")
    assert distance(both, wan.predict(wan.wear(difference, wan.wear(lora)))) <= 1e-4
    assert distance(both, wan.predict(wan.wear(lora))) > 1e-3


@pytest.mark.parametrize("layout", ["float8_e4m3fn", "int8_tensorwise", "raw float8"])
def test_quantised_weights_are_bypassed_and_sampled_as_trained(host, wan_file, make_case, layout):
    if layout == "raw float8":
        (model,) = host.call("UNETLoader", unet_name=wan_file.name, weight_dtype="fp8_e4m3fn")
    else:
        (model,) = host.call("UNETLoader", unet_name=write_quantised(wan_file, layout), weight_dtype="default")
    case = make_case(model)
    trained, lora = case.trained()
    assert distance(trained, case.predict(model)) > 1e-2
    worn = case.wear(lora)
    assert case.said[-1] == f"{len(lora)} of {len(lora)} keys applied (ComfyUI format, rank 4, bypassed)"
    assert torch.equal(case.in_training(worn), trained)
    # Without any LoRA the host's scaled fp8 differs by 1.4e-6 between sampling and training.
    assert distance(case.predict(worn), trained) <= 1e-5
    # What auto spares: W + update is rounded to the quantised grid again.
    assert distance(case.predict(case.wear(lora, apply="patch weights")), trained) > 1e-3


@pytest.fixture(scope="module")
def folded(host, wan_file, make_case):
    """Wan with int8 weights as newer hosts compute it: the feed-forward's last layer is folded into its activation, and not called."""
    import comfy.ops

    class FoldedFeedForward(torch.nn.Sequential):
        def forward(self, x):
            return comfy.ops.linear_input_act(self[2], self[0](x), "gelu_tanh")

    if not hasattr(comfy.ops, "linear_input_act"):
        pytest.skip("this host folds nothing")
    unet = write_quantised(wan_file, "int8_tensorwise")
    (model,) = host.call("UNETLoader", unet_name=unet, weight_dtype="default")
    for block in model.model.diffusion_model.blocks:
        block.ffn.__class__ = FoldedFeedForward
    return make_case(model)


@pytest.mark.parametrize("apply", ["auto", "bypass"])
def test_layers_that_the_host_computes_without_calling_them_are_patched(folded, apply):
    down = folded.lora(role="feed-forward", strength=0.3)
    down = {key: value for key, value in down.items() if ".ffn.2." in key}
    base, worn = folded.predict(folded.model), folded.wear(down, apply=apply)
    assert folded.said[-1] == f"{len(down)} of {len(down)} keys applied (ComfyUI format, rank 4, patched)"
    changed = folded.predict(worn)
    assert distance(changed, base) > 1e-2
    assert distance(changed, folded.predict(folded.wear(down, apply="patch weights"))) <= 1e-2


def test_the_layers_beside_them_are_bypassed(folded):
    """As trained, but for what patching rounds of the folded layers."""
    trained, lora = folded.trained(role="feed-forward", strength=0.3)
    worn = folded.wear(lora)
    assert folded.said[-1] == (
        f"{len(lora)} of {len(lora)} keys applied (ComfyUI format, rank 4, bypassed, 2 of its weights patched)"
    )
    assert distance(folded.predict(worn), trained) < 0.2 * distance(folded.predict(folded.model), trained)


def test_a_range_on_such_a_layer_is_refused_by_name(folded):
    lora = folded.lora(role="feed-forward")
    with pytest.raises(
        ValueError, match=r"2 updates that can only be patched, .*blocks\.0\.ffn\.2.*Wear it everywhere"
    ):
        folded.wear(lora, end_percent=0.5)
    kept = {key: value for key, value in lora.items() if ".ffn.2." not in key}
    assert distance(folded.predict(folded.wear(kept, end_percent=0.9)), folded.predict(folded.model)) > 1e-3


def test_training_such_a_network_reaches_the_folded_layers(folded):
    """The host calls them while it trains; the LoRA's effect at sampling is then that of its training."""
    lora, roles = folded.host.module("sma.lora"), folded.host.module("sma.roles")

    def job(denoiser):
        names = roles.matching(denoiser.network, r"blocks\.\d+\.ffn\.2")
        adapter = lora.attach(denoiser.network, names, rank=2, alpha=2, generator=torch.Generator().manual_seed(1))
        denoiser.denoise(denoiser.clip, torch.full((1,), denoiser.sigma_at(0.6))).square().mean().backward()
        adapter.detach()
        return [float(value.grad.abs().max()) for name, value in adapter.named_parameters() if name.endswith(".up")]

    with torch.inference_mode():
        run = folded.host.module("nodes.host.training").run_in_training
        assert min(run(folded.model, folded.latent, folded.positive, job, seed=0)) > 0


def test_every_layer_of_a_network_can_be_worn(case):
    """Convolutions too: the sprites UNet has 2-D and 3-D ones."""
    trained, lora = case.trained(role="everything", strength=0.02)
    assert torch.equal(case.predict(case.wear(lora, apply="bypass")), trained)
    assert distance(case.predict(case.wear(lora, apply="patch weights")), trained) <= 1e-4
