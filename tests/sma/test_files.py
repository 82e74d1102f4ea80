from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sma import files
from sma.files import MotionLoRA, load_state, save_lora, save_state, state_about
from sma.state import StepRecord, TrainingState

LORA = {
    "diffusion_model.a.lora_A.weight": torch.arange(6.0).view(2, 3),
    "diffusion_model.a.lora_B.weight": torch.arange(8.0).view(2, 4).T,  # not contiguous, as it may come
    "diffusion_model.a.alpha": torch.tensor(2.0),
}


def state(steps: int = 2, value: float = 0.1) -> TrainingState:
    record = {"loss": 1 / 3, "gradient_norm": 1e-7, "learning_rate": 2e-4}
    terms = {"denoising": ((0.1, math.pi), (14.614641, 1e20)), "watched": ((0.1, math.inf),)}
    return TrainingState(
        step=steps,
        adapter={"a.down": torch.full((2, 3), value), "a.up": torch.randn(4, 2)},
        # "a.up" never had a gradient.
        optimizer={
            "a.down.step": torch.tensor(2.0),
            "a.down.exp_avg": torch.full((2, 3), torch.finfo().tiny / 8),
            "a.down.exp_avg_sq": torch.full((2, 3), 1e-30),
        },
        generator=torch.Generator().manual_seed(5).get_state(),
        history=tuple(StepRecord(step=step + 1, terms=terms, **record) for step in range(steps)),
    )


def assert_same(a: TrainingState, b: TrainingState) -> None:
    for ours, reference in ((a.adapter, b.adapter), (a.optimizer, b.optimizer)):
        assert ours.keys() == reference.keys()
        for name, tensor in ours.items():
            assert (tensor.dtype, tensor.shape) == (reference[name].dtype, reference[name].shape)
            assert torch.equal(tensor, reference[name])
    assert a.generator.dtype == torch.uint8
    assert torch.equal(a.generator, b.generator)
    assert (a.step, a.history) == (b.step, b.history)


def test_motion_lora_is_a_dict_that_remembers_its_making():
    metadata = {"rank": 4}
    lora = MotionLoRA(LORA, metadata)
    assert isinstance(lora, dict)
    assert list(lora) == list(LORA) and all(lora[key] is LORA[key] for key in LORA)
    metadata["rank"] = 8
    assert lora.metadata == copy.deepcopy(lora).metadata == {"rank": 4}


def test_saved_lora_is_readable_with_its_metadata(tmp_path):
    path = tmp_path / "loras" / "motion.safetensors"
    losses = [{"name": "denoising", "weight": 1.0, "levels": None}]
    save_lora(LORA, {"method": "motion LoRA", "rank": 4, "prompt": "ein roter Kreis ○", "losses": losses}, path)
    tensors = load_file(path)
    assert tensors.keys() == LORA.keys()
    assert all(torch.equal(tensors[key], value) for key, value in LORA.items())
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["method"] == "motion LoRA"
    assert metadata["prompt"] == "ein roter Kreis ○"
    assert (json.loads(metadata["rank"]), json.loads(metadata["losses"])) == (4, losses)


def test_state_comes_back_exactly(tmp_path):
    for number, original in enumerate((state(), state(steps=0))):
        path = tmp_path / f"{number}.safetensors"
        save_state(original, path)
        loaded = load_state(path)
        assert_same(loaded, original)
        generator = torch.Generator()
        generator.set_state(loaded.generator)
        assert torch.equal(
            torch.rand(3, generator=generator), torch.rand(3, generator=torch.Generator().manual_seed(5))
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "state.safetensors cannot be read: .*; choose a state saved by Train Motion LoRA"),
        (b"no safetensors at all, but text", "state.safetensors cannot be read"),
        ("lora", "state.safetensors is no training state; choose one saved by Train Motion LoRA"),
        ("bare", "state.safetensors is no training state"),
        ("cut", "state.safetensors cannot be read"),
    ],
)
def test_foreign_and_damaged_files_are_refused(tmp_path, content, message):
    path = tmp_path / "state.safetensors"
    if content == "lora":
        save_lora(LORA, {"format": "pt"}, path)
    elif content == "bare":
        save_file({"a": torch.zeros(1)}, path)
    elif content == "cut":
        save_state(state(), path)
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_state(path)


def spoilt(**changes):
    """A state file whose metadata or tensors are changed; None leaves one out."""

    def spoil(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}
        for name, value in changes.items():
            place = tensors if name == "generator" or "/" in name else metadata
            place.pop(name) if value is None else place.update({name: value})
        save_file(tensors, path, metadata)

    return spoil


RECORD = {"step": 1, "loss": 0.1, "gradient_norm": 0.1, "learning_rate": 0.1, "terms": {}}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"step": None}, "its step, history or generator"),
        ({"step": "two"}, "its step, history or generator"),
        ({"step": "-1"}, "it is after step -1"),
        ({"step": "3"}, "it is after step 3 and its history does not list steps 1 to 3"),
        ({"history": None}, "its step, history or generator"),
        ({"history": "[" * 100_000}, "its step, history or generator"),
        ({"history": "[]"}, "it is after step 2"),
        ({"history": "{}"}, "it is after step 2"),
        ({"history": "[1, 2]"}, "its step, history or generator"),
        ({"history": json.dumps([RECORD, RECORD])}, "it is after step 2"),
        (
            {"history": json.dumps([RECORD, RECORD | {"step": 2, "terms": {"a": [1]}}])},
            "its step, history or generator",
        ),
        ({"history": json.dumps([RECORD, RECORD | {"step": 2, "loss": "low"}])}, "its step, history or generator"),
        ({"generator": None}, "its step, history or generator"),
        ({"generator": torch.zeros(7, dtype=torch.uint8)}, "its random generator"),
        ({"generator": torch.zeros(5056)}, "its random generator"),
        ({"adapter/a.down": None, "adapter/a.up": None}, "it holds no trained values"),
        ({"adapter/a.up": torch.full((4, 2), math.nan)}, "a.up or its moments hold NaN"),
        ({"adapter/a.up": torch.ones(4, 2, dtype=torch.int32)}, "a.up or its moments hold NaN"),
        ({"optimizer/a.down.exp_avg_sq": torch.full((2, 3), math.inf)}, "a.down or its moments hold NaN"),
        ({"optimizer/a.down.exp_avg_sq": None}, "of a.down it holds 2 of 3 moments"),
        ({"optimizer/a.down.exp_avg": torch.zeros(3, 2)}, "the moments of a.down do not have its shape"),
    ],
)
def test_damaged_states_are_refused_by_what_is_damaged(tmp_path, changes, fault):
    path = tmp_path / "state.safetensors"
    save_state(state(), path)
    spoilt(**changes)(path)
    with pytest.raises(ValueError, match=f"state.safetensors is damaged: {fault}.*Choose another state"):
        load_state(path)


@pytest.mark.parametrize("about", ["", "[", "[1]", "[" * 100_000])
def test_what_a_state_says_of_its_run_may_be_damaged(tmp_path, about):
    path = tmp_path / "state.safetensors"
    save_state(state(), path, {"seed": 3})
    assert state_about(path) == {"seed": 3}
    spoilt(about=about)(path)
    assert state_about(path) == {}


def test_crash_while_writing_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path, old = tmp_path / "state.safetensors", state(value=0.1)
    save_state(old, path)

    def half_written(tensors: dict, target: Path, metadata: dict) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", half_written)
    with pytest.raises(OSError, match="the disk is full"):
        save_state(state(value=0.2), path)
    with pytest.raises(OSError, match="the disk is full"):
        save_lora(LORA, {}, path)
    monkeypatch.undo()
    assert_same(load_state(path), old)
    assert list(tmp_path.iterdir()) == [path]


def test_new_state_replaces_the_old_one(tmp_path):
    path, new = tmp_path / "state.safetensors", state(steps=3, value=0.3)
    save_state(state(), path)
    save_state(new, path)
    assert_same(load_state(path), new)
    assert list(tmp_path.iterdir()) == [path]
