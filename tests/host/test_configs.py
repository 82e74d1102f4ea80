"""Load Official Config in the real host."""

from __future__ import annotations

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
    name = write(CONFIG, "Bear.YAML")
    node = host.node("SMA_LoadOfficialConfig")
    (file, _) = node.define_schema().inputs
    assert name in file.options
    assert node.validate_inputs(file=name) is True
    for absent in ("wolf.yml", "", ".", ".."):
        assert f"no config {absent!r} in ComfyUI's input folder" in node.validate_inputs(file=absent)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is no YAML file"), ("a: 1", "no config of SMA or VMC"), ("\x00", "is no YAML file")]
)
def test_other_files_are_refused(host, write, text, message):
    with pytest.raises(ValueError, match=message):
        host.call("SMA_LoadOfficialConfig", file=write(text, "other.yml"), compare="noise")
