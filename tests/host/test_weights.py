"""Weights files of every kind a model folder may hold, and what is said about those that cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(4, dtype=torch.float16)}


@pytest.fixture(scope="module")
def weights(host):
    return host.module("nodes.host.weights")


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


class Malicious:
    """A pickle that runs a command when it is read."""

    def __reduce__(self):
        return os.system, ("touch stolen",)


def test_every_format_gives_the_same_tensors(weights, tmp_path):
    save_file(TENSORS, tmp_path / "plain.safetensors")
    torch.save(TENSORS, tmp_path / "zip.bin")
    torch.save(TENSORS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": TENSORS, "epoch": 3}, tmp_path / "wrapped.ckpt")
    for path in tmp_path.iterdir():
        assert same(weights.read_weights(path)), path.name


def test_a_file_in_parts_is_read_whole(weights, tmp_path):
    places = {}
    for number, (name, tensor) in enumerate(TENSORS.items(), start=1):
        part = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensor}, tmp_path / part)
        places[name] = part
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(weights.read_weights(weights.find_weights(tmp_path)))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run_it(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Malicious()}, tmp_path / "evil.bin")
    with pytest.raises(ValueError, match=r"evil\.bin .* run code .* Use a \.safetensors"):
        weights.read_weights(tmp_path / "evil.bin")
    assert not Path("stolen").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_damaged_file_is_named(weights, tmp_path, suffix):
    path = tmp_path / f"half.{suffix}"
    save_file(TENSORS, path) if suffix == "safetensors" else torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"half\.{suffix} "):
        weights.read_weights(path)


def test_what_was_downloaded_in_place_of_weights_is_named(weights, tmp_path):
    """A web page, a Git LFS pointer, noise: nothing but a sentence with the file's name, whatever the unpickler stumbles over."""
    contents = [
        b"",
        b"<!DOCTYPE html>",
        "<html>\u00e9</html>".encode("utf-16"),
        b"version https://git-lfs.github.com/spec/v1",
    ]
    noise = torch.randint(256, (40, 200), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for content in contents + [bytes(row.tolist()) for row in noise]:
        for name in ("page.bin", "page.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=f"^{name} (could not be read|is damaged)"):
                weights.read_weights(tmp_path / name)
    with pytest.raises(ValueError, match=r"^page\.safetensors is damaged"):
        weights.read_metadata(tmp_path / "page.safetensors")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is no JSON"),
        ("{}", "model.safetensors.index.json names no weights files"),
        (
            '{"weight_map": {"a": "x-1.safetensors"}}',
            "names 1 files and 1 of them are missing, for example x-1.safetensors",
        ),
    ],
)
def test_a_file_in_parts_that_is_not_whole_is_refused(weights, tmp_path, index, message):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(ValueError, match=message):
        weights.read_weights(path)


def test_a_file_that_wraps_itself_comes_to_an_end(weights, tmp_path):
    content = {"tensor": torch.ones(1)}
    content["state_dict"] = content
    torch.save(content, tmp_path / "circle.pt")
    with pytest.raises(ValueError, match="^circle.pt wraps its tensors more than 8 times. Choose a weights file.$"):
        weights.read_weights(tmp_path / "circle.pt")
    torch.save({"state_dict": {"state_dict": {"a": torch.ones(1), 3: torch.ones(1)}}}, tmp_path / "twice.pt")
    assert list(weights.read_weights(tmp_path / "twice.pt")) == ["a"]


@pytest.mark.parametrize("name", ["pipe.pt", "pipe.safetensors", "pipe.safetensors.index.json"])
def test_a_pipe_is_not_waited_for(weights, tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"^{name} is a pipe or a device; a plain file is needed. Choose another.$"):
        weights.read_weights(tmp_path / name)


def test_tensors_without_a_name_are_left_out(weights, tmp_path):
    torch.save({**TENSORS, 0: torch.ones(2), ("a", 1): torch.ones(2)}, tmp_path / "numbered.pt")
    assert same(weights.read_weights(tmp_path / "numbered.pt"))


def test_files_without_named_tensors_are_refused(weights, tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    torch.save({"steps": 3}, tmp_path / "numbers.pt")
    for name in ("list.pt", "numbers.pt"):
        with pytest.raises(ValueError, match=f"{name} holds .*Choose a weights file"):
            weights.read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("present", "found"),
    [
        (("diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"), "diffusion_pytorch_model.safetensors"),
        (("model.safetensors", "model.fp16.safetensors"), "model.fp16.safetensors"),
        (("pytorch_model.bin", "pytorch_model.fp16.bin", "training_args.bin"), "pytorch_model.fp16.bin"),
        (("diffusion_pytorch_model.non_ema.safetensors",), "diffusion_pytorch_model.non_ema.safetensors"),
        (
            ("model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json"),
            "model.safetensors.index.fp16.json",
        ),
    ],
)
def test_the_file_of_a_component_is_found(weights, tmp_path, present, found):
    for name in present:
        (tmp_path / name).touch()
    assert weights.find_weights(tmp_path).name == found


def test_a_component_without_weights_says_what_to_copy(weights, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").touch()
    with pytest.raises(ValueError, match=r"/unet holds no weights. Put the model's diffusion_pytorch_model, model or"):
        weights.find_weights(tmp_path / "unet")


def test_weights_that_fit_are_copied_and_old_counters_ignored(weights):
    module = nn.Linear(3, 2)
    tensors = {"weight": torch.full((2, 3), 2.0), "bias": torch.ones(2), "embeddings.position_ids": torch.arange(3)}
    weights.load_exactly(module, tensors, "test")
    assert torch.equal(module.weight, tensors["weight"]) and torch.equal(module.bias, tensors["bias"])


def test_everything_that_does_not_fit_is_counted_and_named(weights):
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    before = module[0].weight.detach().clone()
    tensors = {
        "0.weight": torch.ones(2, 3),
        "0.bias": torch.ones(2),
        "1.weight": torch.ones(2, 5),
        "up.weight": torch.ones(1),
    }
    with pytest.raises(ValueError) as error:
        weights.load_exactly(module, tensors, "UNet3D")
    assert str(error.value) == (
        "The UNet3D weights lack 3 tensors (for example '1.bias'), have 1 tensor too many (for example 'up.weight') and have "
        "1 tensor of another shape (for example '1.weight': [2, 5] in the file, [2, 2] in the network). "
        "Use the file that belongs to this network."
    )
    assert torch.equal(module[0].weight, before)
