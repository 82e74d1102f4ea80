"""Load Official Config in the real host."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

CONFIG = """
vid_name: "man_skate"
train_steps: 500
lr: 1e-4
ld_global: 0.08
ld_local: 0.53
num_levels: 2
ld_levels: [1., 1., 1.]

train_dataset:
  path: "video_images/${..vid_name}"
  prompt: "A man is skateboarding."
"""


@pytest.fixture
def write(host):
    def run(text: str, name: str = "man_skate.yml") -> str:
        (Path(host.base) / "input" / name).write_text(text)
        return name

    (Path(host.base) / "input").mkdir(exist_ok=True)
    return run


def test_a_config_sets_loss_prompt_steps_rate_and_seed(host, write):
    loss, *rest = host.call("SMA_LoadOfficialConfig", file=write(CONFIG), compare="noise")
    assert rest == ["A man is skateboarding.", 500, 1e-4, 12345]
    assert {term.name: term.weight for term in loss.terms} == {
        "residual_cosine": 1.0,
        "spectral_global": 0.08,
        "spectral_local": 0.53,
    }


def test_its_list_holds_the_files_of_the_input_folder(host, write):
    name, shown = write(CONFIG, "Bear.YAML"), host.module("sma.checks").shown
    node = host.node("SMA_LoadOfficialConfig")
    (file, _) = node.define_schema().inputs
    assert name in file.options
    assert node.validate_inputs(file=name) is True
    for absent in ("wolf.yml", "", ".", "..", "a\0b", "\udcff", "x" * 300):
        assert f"no config {shown(absent)} in ComfyUI's input folder" in node.validate_inputs(file=absent)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is no YAML file"), ("a: 1", "no config of SMA or VMC"), ("\x00", "is no YAML file")]
)
def test_other_files_are_refused(host, write, text, message):
    with pytest.raises(ValueError, match=message):
        host.call("SMA_LoadOfficialConfig", file=write(text, "other.yml"), compare="noise")


def _bomb(depth: int) -> str:
    """Lists of ten references to the list before: 10^depth values."""
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "\n".join(["a0: &a0 [x, x]", *levels, f"train_dataset: *a{depth - 1}"])


_MERGES = "a0: &a0 {x: 1}\n" + "\n".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 10)
)


@pytest.mark.parametrize(
    "text",
    [
        _bomb(10),
        _MERGES,
        "a: &a [*a]",
        "[" * 30_000,
        "a: b: c: d",
        "train_steps: !!int x\n",
        "train_steps: !!float ''\n",
        "a: !!bool x",
        "a: !!timestamp x",
        "a: 2020-13-45",
        "a: " + "9" * 10_000,
        "? {a: 1}\n: 2",
        "!!python/object/apply:os.system ['true']",
        "x" * 100_000,
        "train_steps: 1\nnum_levels: 1000000000",
        "train_steps: .nan",
        "train_steps: .inf",
        "train_steps: 1e999",
        "a: \ud800",
    ],
)
def test_files_that_want_too_much_are_refused_in_one_short_line(host, write, text):
    (Path(host.base) / "input" / "other.yml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError) as caught:
        host.call("SMA_LoadOfficialConfig", file="other.yml", compare="noise")
    said = str(caught.value)
    assert "\n" not in said and len(said) < 250 and said.endswith("."), said


def test_only_files_that_are_there_and_plain_are_read(host, write, tmp_path):
    folder, node = Path(host.base) / "input", host.node("SMA_LoadOfficialConfig")
    write("", "keep.yml")
    os.mkfifo(folder / "pipe.yml")
    (tmp_path / "outside.yml").write_text(CONFIG)
    (folder / "link.yml").symlink_to(tmp_path / "outside.yml")
    try:
        listed = node.define_schema().inputs[0].options
        assert "keep.yml" in listed and not {"pipe.yml", "link.yml"} & set(listed)
        for name, said in [
            ("pipe.yml", "^pipe.yml is a pipe or a device; a plain file is needed"),
            (
                "link.yml",
                "^There is no config 'link.yml' in ComfyUI's input folder. Put the .yml file there and pick it.$",
            ),
            ("deleted.yml", "^There is no config 'deleted.yml' in ComfyUI's input folder"),
        ]:
            with pytest.raises(ValueError, match=said):
                host.call("SMA_LoadOfficialConfig", file=name, compare="noise")
            assert node.fingerprint_inputs(file=name) is not None
    finally:
        (folder / "pipe.yml").unlink()
        (folder / "link.yml").unlink()


def _mutated(text: bytes, drawn: random.Random) -> bytes:
    """A config with a few bytes cut, copied, changed, or put in that mean something to YAML."""
    marks = [
        b"*a",
        b"&a ",
        b"{",
        b"[",
        b"]",
        b": ",
        b"- ",
        b"!!int ",
        b"!!float ",
        b"!!set",
        b"!!binary x",
        b"<<: ",
        b"\x00",
        b"\xff",
    ]
    marks += [
        b"9" * 400,
        b".nan",
        b".inf",
        b"1e999",
        b"|\n",
        b"---\n",
        b"?",
        b"'",
        b'"',
        b"\\",
        b"\t",
        b"null",
        b"1:99:99",
        b"\r",
    ]
    changed = bytearray(text)
    for _ in range(drawn.randint(1, 5)):
        at, kind = drawn.randrange(len(changed) + 1), drawn.randrange(4)
        if kind == 0:
            del changed[at : at + drawn.randint(1, 30)]
        elif kind == 1:
            changed[at:at] = changed[drawn.randrange(len(changed) + 1) :][: drawn.randint(1, 60)]
        elif kind == 2:
            changed[at : at + 1] = bytes([drawn.randrange(256)])
        else:
            changed[at:at] = drawn.choice(marks)
    return bytes(changed)


def test_two_thousand_damaged_configs_are_read_or_refused_in_a_sentence(host, tmp_path):
    read, configs = host.module("nodes.host.yaml_files").read_yaml, host.module("sma.configs")
    drawn, path, taken = random.Random(0), tmp_path / "damaged.yml", 0
    for _ in range(2000):
        path.write_bytes(_mutated(CONFIG.encode(), drawn))
        try:
            config = configs.official_config(read(path, path.name))
            config.motion_loss()
            taken += config.describe() != ""
        except ValueError as error:
            said = str(error)
            assert type(error) is ValueError and "\n" not in said and len(said) < 400 and str(tmp_path) not in said, (
                said
            )
    assert 100 < taken < 1000
