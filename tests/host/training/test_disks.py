"""A training on a disk that fails: what memory holds is not lost, and the disk is named in plain words."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

pytestmark = pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")

FULL = "the file is larger than this disk takes"


@contextmanager
def files_of_at_most(size: int):
    """What a full disk does, for this process alone and for real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture
def folders(host):
    """A moment in which output/loras and output/spectral_motion are put aside: a file stands in place of each."""
    import folder_paths

    @contextmanager
    def gone():
        output = Path(folder_paths.get_output_directory())
        put_aside = []
        for name in ("loras", "spectral_motion"):
            folder, aside = output / name, output / f"{name}_aside"
            folder.mkdir(exist_ok=True)
            folder.rename(aside)
            folder.touch()
            put_aside.append((folder, aside))
        try:
            yield
        finally:
            for folder, aside in put_aside:
                folder.unlink()
                aside.rename(folder)

    return gone


def saved(prefix: str) -> list[str]:
    import folder_paths

    return sorted(path.name for path in Path(folder_paths.get_output_directory()).rglob(f"{prefix}*"))


def test_a_disk_that_is_full_at_a_checkpoint_costs_the_files_and_not_the_lora(sprites_case, said):
    reference, _ = sprites_case.train(steps=4, save_prefix="roomy")
    with files_of_at_most(4096):
        lora, loss_map = sprites_case.train(steps=4, save_every=2, save_prefix="full")
    assert all(lora[key].equal(reference[key]) for key in reference) and len(loss_map["loss"]) == 4
    for step in (2, 4):
        text = f"Step {step} could not be saved whole under output/: {FULL}. Mend that, and save the LoRA by Save Motion LoRA."
        assert text in said
    assert not any("full_step" in line for line in said) and saved("full") == []


def test_a_disk_with_room_again_has_the_end_of_the_run(sprites_case, said, host, monkeypatch):
    run = host.module("nodes.training_run").TrainingRun
    on_step = run.on_step

    def step(self, info):
        with files_of_at_most(4096 if info.record.step == 2 else resource.RLIM_INFINITY):
            on_step(self, info)

    monkeypatch.setattr(run, "on_step", step)
    sprites_case.train(steps=4, save_every=2, save_prefix="again")
    assert any(line.startswith("Step 2 could not be saved whole") for line in said)
    assert [name for name in saved("again")] == ["again_00001_.safetensors", "again_step00004_00001_.safetensors"]


def test_folders_that_take_nothing_are_said_before_the_first_step(sprites_case, said, folders):
    with folders():
        lora, _ = sprites_case.train(steps=1, save_prefix="no_folder")
    assert len(lora)
    first = next(index for index, line in enumerate(said) if line.startswith("Nothing can be saved under output/"))
    assert "a file stands where the folder should be" in said[first]
    assert first < next(index for index, line in enumerate(said) if line.startswith("1 step in"))


def test_a_cancel_stays_a_cancel_and_its_state_is_kept_in_temp(case, said, folders, stop_at):
    with folders():
        name = stop_at(2, lambda: case.train(save_prefix="cut"))
    assert name.startswith("cut_0000") and name.endswith("_.safetensors [temp]")
    (line,) = [line for line in said if line.startswith("Stopped at step 2 of 5. Its state could not be saved")]
    assert f"choose {name} in resume_from" in line
    resumed, _ = case.train(resume_from=name, save_prefix="resumed")
    whole, _ = case.train(save_prefix="whole")
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_a_cancel_stays_a_cancel_where_no_disk_has_room(case, said, cancel_at_2):
    import comfy.model_management as management

    with files_of_at_most(4096), pytest.raises(management.InterruptProcessingException):
        case.train(save_prefix="roomless")
    failed = f"Stopped at step 2 of 5. Its state could not be saved under output/: {FULL}; nor under temp/: {FULL}."
    assert failed in said and saved("roomless") == []


@pytest.mark.parametrize(
    "prefix", ["", ".", "sub/..", "../out", "/out", "a\0b", "x" * 300, "ünï" * 60, "nul", "a:b", "half \ud83d"]
)
def test_a_name_that_no_disk_takes_is_refused_before_the_first_step(sprites_case, said, prefix):
    with pytest.raises(ValueError, match="prefix"):
        sprites_case.train(steps=1, save_prefix=prefix)
    assert not any(line.startswith("step 1/1") for line in said)


def test_two_runs_never_share_a_file(sprites_case, host):
    import folder_paths

    for seed in (1, 2):
        sprites_case.train(steps=1, save_every=1, save_prefix="trail/", seed=seed)
    assert saved("trail") == [
        *(f"trail_0000{number}_.safetensors" for number in (1, 2)),
        *(f"trail_step00001_0000{number}_.safetensors" for number in (1, 2)),
    ]
    seeds = set()
    for path in Path(folder_paths.get_output_directory(), "loras").glob("trail*"):
        with safe_open(path, framework="pt") as file:
            seeds.add(file.metadata()["seed"])
    assert seeds == {"1", "2"}


def test_a_lora_that_cannot_be_saved_by_its_node_is_refused_in_a_sentence(host, sprites_case, folders):
    lora, _ = sprites_case.train(steps=1, save_prefix="node")
    with (
        folders(),
        pytest.raises(ValueError, match="could not be saved under output/loras: a file stands where the folder"),
    ):
        host.call("SMA_SaveMotionLoRA", lora=lora, filename_prefix="node")


def test_a_damaged_kept_inversion_is_made_again(host, tmp_path):
    cache = host.module("nodes.host.inversion_cache")
    path = tmp_path / "inverted.safetensors"
    cache.write(path, torch.ones(3))
    assert torch.equal(cache.read(path), torch.ones(3))
    for content in (path.read_bytes()[:-5], b"", b"\0" * 99):
        path.write_bytes(content)
        assert cache.read(path) is None
    path.unlink()
    shutil.rmtree(tmp_path)
    tmp_path.touch()
    cache.write(path, torch.ones(3))
    assert cache.read(path) is None
