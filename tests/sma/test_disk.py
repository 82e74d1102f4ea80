"""Files on disks that fail, in folders that several runs write to; real limits of the system, in processes of their own."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sma.disk import DiskError, put, try_out
from sma.files import load_state, save_lora

ROOT = Path(__file__).resolve().parents[2]
LORA = {"a.lora_A.weight": torch.arange(64.0 * 64).view(64, 64)}

posix = pytest.mark.skipif(os.name == "nt", reason="limits and modes of POSIX")


def names(folder: Path):
    paths = (folder / f"motion_{number:05}_.safetensors" for number in itertools.count(1))
    return itertools.dropwhile(Path.exists, paths)


def child(code: str, *arguments: object, command: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs Python code with this tree's sma; its arguments are ``sys.argv[1:]``."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    return subprocess.run(
        [*command, sys.executable, "-c", start + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@contextmanager
def files_of_at_most(size: int):
    """What a full disk does, for this process alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@posix
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_rights_of_the_users_other_files(tmp_path, mask):
    before = os.umask(mask)
    try:
        path = save_lora(LORA, {}, names(tmp_path))
        (tmp_path / "other").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o666 & ~mask


def test_new_files_take_the_first_free_name_and_replace_none(tmp_path):
    paths = [save_lora(LORA, {"run": run}, names(tmp_path)) for run in range(3)]
    assert [path.name for path in paths] == [f"motion_{number:05}_.safetensors" for number in (1, 2, 3)]
    paths[1].unlink()
    assert save_lora(LORA, {}, names(tmp_path)) == paths[1]
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "a disk without hard links"])
def test_runs_that_save_at_the_same_moment_have_a_file_each(tmp_path, monkeypatch, links):
    if not links:

        def link(*_):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", link)

    def run(number: int) -> Path:
        # All have chosen their name before any of them writes.
        paths = iter([next(names(tmp_path))])
        time.sleep(0.05)
        return put(itertools.chain(paths, names(tmp_path)), lambda path: path.write_text(str(number)))

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(run, range(8)))
    assert len(set(written)) == 8
    assert [int(path.read_text()) for path in written] == list(range(8))
    assert sorted(tmp_path.iterdir()) == sorted(written)


@posix
def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path):
    path = save_lora(LORA, {"run": 1}, tmp_path / "motion.safetensors")
    whole = path.read_bytes()
    with files_of_at_most(4096), pytest.raises(DiskError, match="^the file is larger than this disk takes$"):
        save_lora(LORA, {"run": 2}, path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


@posix
def test_a_file_system_that_is_really_full(tmp_path):
    code = """
        import subprocess, sys, torch
        from pathlib import Path
        from sma.disk import DiskError
        from sma.files import save_lora
        folder = Path(sys.argv[1])
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", folder], check=True)
        try:
            save_lora({"a": torch.zeros(100_000)}, {}, folder / "motion.safetensors")
        except DiskError as error:
            sys.stdout.write(f"{error}; left: {list(folder.iterdir())}")
    """
    result = child(code, tmp_path, command=("unshare", "--map-root-user", "--mount"))
    if "Operation not permitted" in result.stderr or "permission denied" in result.stderr:
        pytest.skip("this system mounts nothing for tests")
    assert result.stdout == "the disk is full; left: []", result.stderr


@posix
@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: folder.chmod(0o555), "the folder may not be written to"),
        (lambda folder: (shutil.rmtree(folder), folder.touch()), "a file stands where the folder should be"),
    ],
    ids=["no permission", "a file instead of the folder"],
)
def test_folders_that_take_nothing_are_said(tmp_path, prepare, said):
    """In a process without root's rights, which go through every mode."""
    folder = tmp_path / "loras"
    folder.mkdir()
    prepare(folder)
    code = """
        import sys, torch
        from pathlib import Path
        from sma.disk import DiskError, try_out
        from sma.files import save_lora
        path = Path(sys.argv[1], "motion.safetensors")
        for attempt in (lambda: try_out([path]), lambda: save_lora({"a": torch.zeros(1)}, {}, path)):
            try:
                attempt()
            except DiskError as error:
                print(error)
    """
    rights = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    if rights and shutil.which("setpriv") is None:
        pytest.skip("root without setpriv goes through every mode")
    result = child(code, folder, command=rights)
    assert result.stdout.splitlines() == [said, said], result.stderr


@posix
def test_a_name_that_the_disk_does_not_take_is_told_from_a_failing_disk(tmp_path):
    with pytest.raises(DiskError, match="the name is longer than this disk takes") as found:
        try_out([tmp_path / f"{'x' * 300}.safetensors"])
    assert found.value.of_name
    try_out([tmp_path / "motion.safetensors"])
    assert list(tmp_path.iterdir()) == []


def test_the_first_error_is_heard(tmp_path):
    def fail(path: Path) -> None:
        shutil.rmtree(path.parent)  # what cleans up finds nothing
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match="^the disk is full$"):
        put(tmp_path / "motion.safetensors", fail)


@posix
def test_what_a_killed_write_left_is_swept_by_the_next(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from sma.disk import put
        def killed(path):
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        put(Path(sys.argv[1], "motion.safetensors"), killed)
    """
    assert child(code, tmp_path).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".") and not list(tmp_path.rglob("*.safetensors"))
    other = tmp_path / left.name.replace(left.name.split("-")[1], "another_machine", 1)
    other.mkdir()
    path = save_lora(LORA, {}, names(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted([other, path])
    os.utime(other, (0, 0))
    assert sorted([save_lora(LORA, {}, names(tmp_path)), path]) == sorted(tmp_path.iterdir())


def test_a_write_that_goes_on_is_not_swept(tmp_path):
    def slow(path: Path) -> None:
        save_lora(LORA, {}, names(tmp_path))
        path.write_text("whole")

    assert put(tmp_path / "state.safetensors", slow).read_text() == "whole"


def test_text_that_no_file_can_hold_costs_no_lora(tmp_path):
    path = save_lora(LORA, {"prompt": "half \ud83d of a pair", "losses": ["\ud83d"]}, tmp_path / "motion.safetensors")
    assert load_file(path).keys() == LORA.keys()


def test_a_lora_that_was_meant_for_a_state_is_no_state(tmp_path):
    save_file(LORA, tmp_path / "x.safetensors", {"format": "spectral-motion training state 1", "step": "3"})
    with pytest.raises(ValueError, match="x.safetensors is damaged: its step, history or generator cannot be read"):
        load_state(tmp_path / "x.safetensors")
