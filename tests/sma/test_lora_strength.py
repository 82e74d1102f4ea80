"""How strong a LoRA is: alphas in tensors and in metadata, against what diffusers and PEFT make of the very same files."""

from __future__ import annotations

import json
import math
from collections import defaultdict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sma import patterns
from sma.layer_names import ours_of, parts_of
from sma.lora_reading import Reading, read_lora
from sma.lora_scales import read_scales

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

TARGETS = r".*blocks\.\d+\.(.*\.)?(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out|net\.0\.proj|net\.2|proj_mlp|proj_out)"


def network(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if family == "Wan":
        made = diffusers.WanTransformer3DModel(
            num_attention_heads=1,
            attention_head_dim=24,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            image_dim=8,
            added_kv_proj_dim=24,
        )
    elif family == "LTX":
        made = diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            num_layers=2,
            caption_channels=16,
        )
    else:
        made = diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(4, 4, 4),
        )
    return made.eval()


def answer(made: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    inputs: dict[str, object] = {"encoder_hidden_states": draw(1, 5, 16), "timestep": torch.tensor([500])}
    if isinstance(made, diffusers.WanTransformer3DModel):
        inputs |= {"hidden_states": draw(1, 16, 2, 4, 4), "encoder_hidden_states_image": draw(1, 3, 8)}
    elif isinstance(made, diffusers.LTXVideoTransformer3DModel):
        inputs |= {"hidden_states": draw(1, 8, 8), "encoder_attention_mask": torch.ones(1, 5)}
        inputs |= {"num_frames": 2, "height": 2, "width": 2}
    else:
        inputs |= {"hidden_states": draw(1, 4, 2, 4, 4), "encoder_attention_mask": torch.ones(1, 5)}
        inputs |= {"pooled_projections": draw(1, 8), "guidance": torch.tensor([1000.0])}
    with torch.no_grad():
        return made(**inputs).sample


def shapes_of(made: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Our names and shapes of the targeted layers; those that diffusers splits have the rows of all parts."""
    shapes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, module in made.named_modules():
        same = isinstance(made, diffusers.LTXVideoTransformer3DModel)
        # LTX and HunyuanVideo share the names of their feed-forwards there, and not here.
        ours = [own for own in ours_of(name) if same == (own == name)]
        if ours and isinstance(module, torch.nn.Linear) and "blocks" in name:
            shapes[ours[0]][0] += module.out_features
            shapes[ours[0]][1] = module.in_features
    return {name: tuple(shape) for name, shape in shapes.items()}


def merge(made: torch.nn.Module, reading: Reading, modules: dict[str, tuple[int, ...]]) -> int:
    """Adds the updates that were read to diffusers' own weights; how many of its layers changed."""
    count = 0
    for module, update in reading.updates.items():
        delta = update.scale * update.up @ update.down
        for part in parts_of(module, "diffusers", modules[module]):
            rows = torch.cat([delta[start:end] for start, end in part.rows]) if part.rows else delta
            made.get_submodule(part.name).weight.data += rows
            count += bool(rows.abs().max() > 0)
    return count


def trained(family: str, config: peft.LoraConfig) -> torch.nn.Module:
    made = network(family)
    made.add_adapter(config)
    torch.manual_seed(1)
    for name, value in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.3)
    return made


CONFIGS = {
    "alpha 4 at rank 8": ({"lora_alpha": 4, "r": 8}, (4.0,)),
    "rank-stabilised": ({"lora_alpha": 4, "r": 8, "use_rslora": True}, (4.0,)),
    "patterns": (
        {
            "lora_alpha": 4,
            "r": 8,
            "alpha_pattern": {"to_k": 16, r".*blocks\.0\..*to_q": 2},
            "rank_pattern": {"to_v": 2},
        },
        (2.0, 4.0, 16.0),
    ),
    "alpha as rank": ({"lora_alpha": 8, "r": 8}, (8.0,)),
}


@pytest.mark.parametrize("family", ["Wan", "LTX", "Hunyuan"])
@pytest.mark.parametrize("settings", CONFIGS)
def test_a_file_of_diffusers_is_as_strong_here_as_there(tmp_path, family, settings):
    options, alphas = CONFIGS[settings]
    made = trained(family, peft.LoraConfig(target_modules=TARGETS, **options))
    expected, base, plain = answer(made), answer(network(family)), network(family)
    pipeline = {
        "Wan": diffusers.WanPipeline,
        "LTX": diffusers.LTXPipeline,
        "Hunyuan": diffusers.HunyuanVideoPipeline,
    }[family]
    metadata = made.peft_config["default"].to_dict()
    metadata = {key: list(value) if isinstance(value, set) else value for key, value in metadata.items()}
    pipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=peft.get_peft_model_state_dict(made),
        transformer_lora_adapter_metadata=metadata,
    )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    with safe_open(path, framework="pt") as file:
        written = file.metadata()
    tensors, modules = load_file(path), shapes_of(plain)
    reading = read_lora(tensors, modules, written)
    assert (reading.unmatched, reading.misshaped, reading.alphas) == ((), (), alphas)
    assert reading.scales.source == "the file's metadata"
    assert merge(plain, reading, modules) == len(tensors) / 2
    assert float((answer(plain) - expected).abs().max()) <= 2e-5
    assert float((base - expected).abs().max()) > 1e-2
    # As hosts read it, without the metadata.
    blind = network(family)
    merge(blind, read_lora(tensors, modules), modules)
    assert (float((answer(blind) - expected).abs().max()) > 1e-2) == (settings != "alpha as rank")


def test_a_file_of_peft_is_as_strong_here_as_there(tmp_path):
    """PEFT keeps its settings in a file beside the tensors."""
    made = network("Wan")
    config = peft.LoraConfig(lora_alpha=4, r=8, target_modules=TARGETS, init_lora_weights=False)
    wrapped = peft.get_peft_model(made, config)
    expected = answer(wrapped.base_model.model)
    wrapped.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    plain = network("Wan")
    modules = shapes_of(plain)
    settings = (tmp_path / "adapter_config.json").read_text()
    reading = read_lora(tensors, modules, {"format": "pt", "adapter_config.json": settings})
    assert (reading.unmatched, reading.alphas, reading.scales.source) == ((), (4.0,), "adapter_config.json")
    merge(plain, reading, modules)
    assert float((answer(plain) - expected).abs().max()) <= 2e-5


def tensors(stem: str, down: str = "lora_A", up: str = "lora_B") -> dict[str, torch.Tensor]:
    return {f"{stem}.{down}.weight": torch.ones(8, 6), f"{stem}.{up}.weight": torch.ones(4, 8)}


PEFT = {"lora_adapter_metadata": json.dumps({"transformer.r": 8, "transformer.lora_alpha": 4})}
KOHYA = {"ss_network_alpha": "2", "ss_network_dim": "8"}


@pytest.mark.parametrize(
    ("lora", "metadata", "scale", "alphas"),
    [
        (tensors("transformer.a.b"), {}, 1.0, ()),
        (tensors("transformer.a.b"), PEFT, 0.5, (4.0,)),
        # An alpha of the tensors comes first.
        (tensors("transformer.a.b") | {"transformer.a.b.alpha": torch.tensor(16.0)}, PEFT, 2.0, ()),
        (tensors("lora_unet_a_b", "lora_down", "lora_up"), KOHYA, 0.25, (2.0,)),
        (tensors("lora_unet_a_b", "lora_down", "lora_up"), {"ss_network_alpha": "None"}, 1.0, ()),
        (
            tensors("lora_unet_a_b", "lora_down", "lora_up") | {"lora_unet_a_b.alpha": torch.tensor(2.0)},
            {"ss_network_alpha": "Dynamic", "ss_network_dim": "Dynamic"},
            0.25,
            (),
        ),
        # Damaged, and not needed.
        (tensors("a.b") | {"a.b.alpha": torch.tensor(4.0)}, {"lora_adapter_metadata": "{"}, 0.5, ()),
        # musubi's converter folds the alpha into the factors, and keeps the metadata.
        (tensors("diffusion_model.a.b"), KOHYA, 1.0, ()),
        (tensors("lora_unet_a_b", "lora_down", "lora_up"), PEFT, 1.0, ()),
        # Of one network, without a component's name; and of another component.
        (tensors("a.b"), {"lora_adapter_metadata": '{"r": 8, "lora_alpha": 4}'}, 0.5, (4.0,)),
        (tensors("a.b"), {"lora_adapter_metadata": '{"text_encoder.lora_alpha": 4}'}, 1.0, ()),
        (
            tensors("unet.a.b"),
            {"lora_adapter_metadata": '{"unet.lora_alpha": 4, "unet.use_rslora": true}'},
            2**0.5,
            (4.0,),
        ),
    ],
)
def test_where_a_scale_comes_from(lora, metadata, scale, alphas):
    reading = read_lora(lora, {"a.b": (4, 6)}, metadata)
    assert reading.updates["a.b"].scale == pytest.approx(scale)
    assert reading.alphas == alphas


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"lora_adapter_metadata": "{"}, "lora_adapter_metadata is damaged: it is not JSON"),
        ({"lora_adapter_metadata": "[1]"}, "it holds no table of settings"),
        ({"lora_adapter_metadata": '{"lora_alpha": "much"}'}, "'much' is not a number"),
        ({"lora_adapter_metadata": '{"lora_alpha": NaN}'}, "it holds nan"),
        ({"adapter_config.json": '{"lora_alpha": 4, "alpha_pattern": {"(": 2}}'}, r"'\(' is not a regular expression"),
        ({"adapter_config.json": '{"lora_alpha": 4, "alpha_pattern": [2]}'}, r"its alpha_pattern is \[2\]"),
        ({"ss_network_alpha": "big"}, "ss_network_alpha is damaged: 'big' is not a number"),
        ({"adapter_config.json": "[" * 100_000}, "adapter_config.json is damaged: it is not JSON"),
        ({"adapter_config.json": '{"lora_alpha": ' + "9" * 5000 + "}"}, "adapter_config.json is damaged"),
        ({"adapter_config.json": {"lora_alpha": 4, "alpha_pattern": {"(" * 2000 + ")" * 2000: 2}}}, "is damaged"),
    ],
)
def test_damaged_metadata_is_refused(metadata, message):
    with pytest.raises(ValueError, match=message):
        read_scales(metadata)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(?:[a-z.]*)*x",
        ".*.*.*.*x",
        "(a|a|ab)" * 9,
        r"(\w)\1",
        "(?x:(a+) +)",
        r"(a\\?b)*",
        "((a{9}){9}){9}",
    ],
)
def test_patterns_that_could_take_for_ever_come_to_an_end(pattern, monkeypatch):
    monkeypatch.setattr(patterns, "MOST_SECONDS", 0.2)
    scales = read_scales({"adapter_config.json": {"lora_alpha": 4, "alpha_pattern": {"to_q": 2, pattern: 3}}})
    try:
        for i in range(30):
            scales.alpha_of(f"{'a' * 60}.blocks.{i}.self_attn.a_long_name_of_a_layer.that_goes_on.k")
    except ValueError as error:
        assert "takes too long to compare with all names" in str(error)


@pytest.mark.parametrize(
    "pattern",
    [r".*\.attn[12]\.to_q", "^blocks.0.attn1.to_q$", r"blocks\.\d+\.(attn1|attn2)\.(to_q|to_k|to_v)", ".*to_q"],
)
def test_patterns_as_people_write_them_are_matched(pattern):
    settings = {"lora_alpha": 4, "alpha_pattern": {f"blocks.{i}.ffn": 3 for i in range(500)} | {pattern: 2}}
    scales = read_scales({"adapter_config.json": settings})
    assert [scales.alpha_of(name) for name in ("blocks.0.attn1.to_q", "blocks.0.ffn", "proj")] == [2.0, 3.0, 4.0]


def test_rank_stabilised_scale():
    scales = read_scales({"adapter_config.json": {"lora_alpha": 6, "use_rslora": True}})
    assert scales.scale_of("a", 9, kohya=False) == pytest.approx(6 / math.sqrt(9))


def test_a_loha_of_peft_gets_its_alpha_too():
    stem = "base_model.model.a.b"
    parts = {"hada_w1_a": (4, 8), "hada_w1_b": (8, 6), "hada_w2_a": (4, 8), "hada_w2_b": (8, 6)}
    lora = {f"{stem}.{part}": torch.ones(shape) for part, shape in parts.items()}
    reading = read_lora(lora, {"a.b": (4, 6)}, {"adapter_config.json": {"peft_type": "LOHA", "r": 8, "alpha": 4}})
    (other,) = reading.others
    assert (other.module, other.scale, reading.alphas) == ("a.b", 0.5, (4.0,))
    assert sorted(reading.unmatched) == sorted(lora)
