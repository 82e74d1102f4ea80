"""What a finished training leaves on disk, and where it says that this is."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

DUAL = "dual path (MotionDirector)"


def loras(prefix: str) -> dict[str, Path]:
    """LoRA files of a prefix below output/loras: name without counter -> file."""
    import folder_paths

    found = sorted(Path(folder_paths.get_output_directory(), "loras").glob(f"{prefix}*.safetensors"))
    names = [file.stem.rstrip("_").rpartition("_")[0] for file in found]
    assert len(set(names)) == len(names), f"saved twice: {names}"
    return dict(zip(names, found, strict=True))


def states(host, prefix: str) -> list[str]:
    return [name for name in host.module("nodes.host.paths").saved_states() if name.startswith(prefix)]


@pytest.mark.parametrize(
    ("save_every", "steps"),
    [(0, [3]), (2, [2, 3]), (3, [3]), (5, [3])],
    ids=["no checkpoints", "no multiple", "a multiple", "more than there are"],
)
def test_a_finished_training_is_on_disk_once(host, sprites_case, said, save_every, steps):
    prefix = f"final_{save_every}"
    lora, _ = sprites_case.train(steps=3, save_every=save_every, save_prefix=prefix)
    saved = loras(prefix)
    assert list(saved) == [f"{prefix}_step{step:05}" for step in steps]
    last = saved[f"{prefix}_step00003"]
    with safe_open(last, framework="pt") as file:
        assert file.metadata()["steps"] == "3"
        assert all(file.get_tensor(key).equal(lora[key]) for key in lora)
    assert f"Saved output/loras/{last.name}; press R to see it in the lists of LoRA loaders." in said
    assert len(states(host, prefix)) == (save_every > 0)
    assert any(line.startswith("To train on: ") for line in said) == (save_every > 0)


def test_the_final_state_trains_on_and_nothing_left_to_do_leaves_the_lora_too(host, sprites_case, said):
    straight, _ = sprites_case.train(steps=4, save_prefix="straight")
    sprites_case.train(steps=3, save_every=2, save_prefix="first")
    (state,) = states(host, "first")
    resumed, _ = sprites_case.train(steps=4, resume_from=state, save_prefix="second")
    assert all(resumed[key].equal(straight[key]) for key in straight)
    done, _ = sprites_case.train(steps=3, resume_from=state, save_prefix="done")
    assert list(loras("done")) == ["done_step00003"]
    assert "Nothing was left to do: 3 of 3 steps were done" in said


def test_the_looks_of_the_dual_path_are_saved_beside_the_final_lora(sprites_case):
    for save_every, beside in ((0, []), (2, ["_spatial_clip1"])):
        prefix = f"beside_{save_every}"
        sprites_case.train(method=DUAL, steps=3, save_every=save_every, save_prefix=prefix)
        last = [name for name in loras(prefix) if "step00003" in name]
        assert last == [f"{prefix}_step00003{name}" for name in ["", *beside]]
