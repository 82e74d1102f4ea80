"""LoRA files of public bug reports: none is counted as applied where it changes nothing, none breaks the picture in silence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

CASES = Path(__file__).parents[2] / "cases"


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.fixture
def file(lora_folder):
    """Copies a case's file among the LoRAs; gives its name and its tensors."""

    def copy(case: str, name: str) -> tuple[str, dict[str, torch.Tensor]]:
        path = CASES / case / f"{name}.safetensors"
        shutil.copy(path, lora_folder / path.name)
        return path.name, load_file(path)

    return copy


@pytest.fixture(scope="module")
def warned(host, monkeymodule) -> list[str]:
    """Warnings of the nodes, newest last."""
    warnings: list[str] = []
    report = host.module("nodes.host.report").Report
    plain = report.warn

    def warn(self, text):
        warnings.append(text)
        plain(self, text)

    monkeymodule.setattr(report, "warn", warn)
    return warnings


@pytest.mark.parametrize("apply", ["patch weights", "bypass"])
def test_a_lora_of_zeros_is_told(wan, file, warned, apply):
    name, tensors = file("all_zero_lora", "b_zero")
    warned.clear()
    assert wan.wear(name, apply=apply) is wan.model
    assert warned == [
        f"{name} changes nothing: all the updates in its {len(tensors)} keys are 0. Train it longer, or use another file."
    ]
    assert wan.said[-1].startswith(
        f"0 of {len(tensors)} keys applied (ComfyUI format, rank 4, not worn), 16 change noth"
    )


@pytest.mark.parametrize("zero", ["lora_A.weight", "lora_B.weight", "alpha", "apart"])
def test_so_are_zeros_of_some_layers_in_any_factor(wan, warned, zero):
    """ "apart": no factor is 0, but where one has values the other has none."""
    lora, plain = wan.lora(), wan.lora()
    stems = sorted({key.rsplit(".lora_A", 1)[0] for key in lora if "lora_A" in key})[:3]
    for stem in stems:
        if zero == "apart":
            lora[f"{stem}.lora_A.weight"] = lora[f"{stem}.lora_A.weight"].clone()
            lora[f"{stem}.lora_B.weight"] = lora[f"{stem}.lora_B.weight"].clone()
            lora[f"{stem}.lora_A.weight"][:2], lora[f"{stem}.lora_B.weight"][:, 2:] = 0, 0
        else:
            lora[f"{stem}.{zero}"] = torch.zeros_like(lora[f"{stem}.{zero}"])
        plain = {key: value for key, value in plain.items() if not key.startswith(f"{stem}.")}
    warned.clear()
    for apply in ("patch weights", "bypass"):
        worn = wan.wear(lora, apply=apply)
        assert wan.said[-1].startswith(f"{len(lora) - 9} of {len(lora)} keys applied (ComfyUI format, rank 4, ")
        assert wan.said[-1].endswith(
            f"), 9 change nothing because their update is 0, for example {stems[-1]}.lora_A.weight"
        )
        assert torch.equal(wan.predict(worn), wan.predict(wan.wear(plain, apply=apply)))
    assert warned == []


def test_differences_that_are_zero_are_told_apart(wan):
    """As distilled LoRAs of Wan have them for norms, beside others with values; the last one only core's names know."""
    layer, norm = "diffusion_model.blocks.0.self_attn.q", "diffusion_model.blocks.0.norm3"
    lora = wan.lora() | {f"{layer}.diff_b": torch.zeros(128), f"{norm}.diff": torch.zeros(128)}
    lora[f"{norm}.diff_b"] = torch.ones(128)
    wan.wear(lora)
    assert wan.said[-1].startswith(f"{len(lora) - 2} of {len(lora)} keys applied")
    assert ", 2 change nothing because their update is 0, for example " in wan.said[-1]


@pytest.mark.parametrize("apply", ["patch weights", "bypass"])
@pytest.mark.parametrize("name", ["alpha_nan", "loha_nan"])
def test_nan_anywhere_is_refused(wan, file, name, apply):
    name, _ = file("alpha_nan_loha_nan", name)
    with pytest.raises(
        ValueError, match=rf"{name} holds NaN or infinite values in .* Its training failed; use another"
    ):
        wan.wear(name, apply=apply)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "key", ["q.alpha", "q.lora_A.weight", "o.diff", "o.diff_b", "o.lokr_w2", "o.alpha", "k.dora_scale", "v.magnitude"]
)
def test_so_is_it_in_every_part_of_every_kind(wan, key, value):
    stem = "diffusion_model.blocks.0.self_attn"
    ones = torch.ones(128, 128)
    tensors = {}
    for layer in ("q", "k", "v"):
        tensors |= {f"{stem}.{layer}.lora_A.weight": ones[:2], f"{stem}.{layer}.lora_B.weight": ones[:, :2]}
    tensors |= {f"{stem}.q.alpha": torch.tensor(1.0), f"{stem}.k.dora_scale": ones[:, :1]}
    tensors |= {f"{stem}.v.lora_magnitude_vector": ones[0], f"{stem}.o.diff": ones, f"{stem}.o.diff_b": ones[0]}
    tensors |= {f"{stem}.o.lokr_w1": ones[:2, :2], f"{stem}.o.lokr_w2": ones[:64, :64], f"{stem}.o.alpha": ones[0, 0]}
    key = f"{stem}.{key.replace('magnitude', 'lora_magnitude_vector')}"
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    wan.wear(tensors)
    tensors[key].view(-1)[-1] = value
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        wan.wear(tensors)


@pytest.mark.parametrize("apply", ["patch weights", "bypass"])
def test_an_fp8_file_is_worn_as_core_wears_it(wan, file, apply):
    name, tensors = file("fp8_lora", "fp8")
    worn = wan.predict(wan.wear(name, apply=apply))
    assert wan.said[-1].startswith(f"{len(tensors)} of {len(tensors)} keys applied (ComfyUI format, rank 4, ")
    (core,) = wan.host.call("LoraLoaderModelOnly", model=wan.model, lora_name=name, strength_model=1.0)
    assert distance(worn, wan.predict(core)) <= 1e-4
    assert distance(worn, wan.predict(wan.model)) > 1e-3


def test_pefts_magnitudes_are_applied(wan, file):
    answers = {}
    for name in ("dora_peft", "dora_peft3"):
        name, tensors = file("peft_dora_magnitude", name)
        answers[name] = wan.predict(wan.wear(name))
        assert wan.said[-1] == f"{len(tensors)} of {len(tensors)} keys applied (ComfyUI format, rank 4, patched)"
    first, thrice = answers.values()
    assert distance(first, thrice) > 1e-2
    # The thrice longer magnitudes are a weight three times as long: W' = m V / |V|.
    wan.predict(wan.model)  # takes the patches off
    by_hand = {}
    for key, magnitude in tensors.items():
        if not key.endswith("magnitude_vector"):
            continue
        stem = key.removesuffix(".lora_magnitude_vector")
        weight = wan.model.model.state_dict()[f"{stem}.weight"]
        direction = weight + tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
        changed = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
        by_hand[f"{stem}.diff"] = changed - weight
    assert distance(thrice, wan.predict(wan.core(by_hand))) <= 1e-4
    with pytest.raises(ValueError, match="updates that can only be patched"):
        wan.wear(name, end_percent=0.5)
