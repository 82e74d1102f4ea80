"""Trainings that are killed at any moment: what lies on disk is whole, and the run goes on from it bit for bit."""

from __future__ import annotations

import os
import random
import time

import pytest
from rule import COUNTS, REFUSED, WORKED, judge
from safetensors.torch import load_file
from victims import broken_files, small_disk, victims

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL, forks and mounts of POSIX")

STEPS = 10


def test_a_killed_training_leaves_whole_files_that_resume_bit_for_bit():
    drawn = random.Random(8)
    with victims() as at:
        output = at.base / "output"
        started = time.monotonic()
        reference = at.train(steps=STEPS, save_every=1, save_prefix="whole")
        length = time.monotonic() - started
        assert reference["done"], reference
        (whole,) = (output / "loras").glob(f"whole_step{STEPS:05}_*")
        interrupted = 0
        for number in range(8):
            prefix = f"killed{number}"
            child = at.begin(steps=STEPS, save_every=1, save_prefix=prefix)
            time.sleep(drawn.uniform(0.1, 0.95) * length)
            at.kill(child)
            interrupted += "killed" in at.end()
            assert broken_files(output) == [], prefix
            states = [path.name for path in (output / "spectral_motion").glob(f"{prefix}*")]
            assert len(states) <= 1
            resumed = at.train(
                steps=STEPS, save_every=1, save_prefix=f"resumed{number}", resume_from=(states or ["start anew"])[0]
            )
            assert resumed["done"], resumed
            assert resumed["digest"] == reference["digest"]
            # A state of the very end leaves nothing to save.
            for path in (output / "loras").glob(f"resumed{number}_step{STEPS:05}_*"):
                tensors, expected = load_file(path), load_file(whole)
                assert all(tensors[name].equal(expected[name]) for name in expected)
            left = [path.name for path in output.rglob(".spectral_motion_partial*")]
            assert left == [], "leftovers of a kill are swept by the next save"
            COUNTS.add(f"kill {number}", WORKED)
        assert interrupted >= 4


def test_a_training_on_a_full_disk_ends_with_its_lora(tmp_path):
    before = small_disk(tmp_path, "96k")
    if not before:
        pytest.skip("no small file system may be mounted here; test_disks.py limits the size of files instead")
    with victims(before, tmp_path) as at:
        roomy = at.train(steps=4, rank=1, layers={"layers": "motion"}, save_prefix="a")
        assert any(line.startswith("Saved output/loras/") for line in roomy["said"])
        full = at.train(steps=4, rank=64, save_every=2, save_prefix="b")
        assert full["done"], full
        assert full["digest"], "the LoRA leaves the socket"
        told = [line for line in full["said"] if "could not be saved" in line]
        assert told and all("the disk is full" in line for line in told)
        assert all(judge(line, tmp_path) == REFUSED for line in told)
        again = at.train(steps=4, rank=1, layers={"layers": "motion"}, save_prefix="a")
        assert again["done"] and again["digest"] == roomy["digest"], "the disk has room for small files as before"
        COUNTS.add("full disk", WORKED)
