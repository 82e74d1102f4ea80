"""What a template of a real model is made of: loaders and files, sizes, settings, prompts and the note."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

HUB = "https://huggingface.co"

HOW = """
- **Your film**: pick or upload it in *Load Motion Clip*; its line says which frames the model will see. Describe in *Training prompt* what
moves, without style or background: the LoRA learns what the words do not say.
- **Without the LoRA**: set *strength_model* to 0 and press *Run* again; the training is not repeated. **Cancel** keeps the last good
state: choose it in *resume_from*. LoRAs of every 100 steps lie in output/loras, for core's LoRA loaders and *Load Motion LoRA*.
- **Spectral Loss** (SMA): weights of -1 are the form's own, here 0.04 and 0.02. Beside *denoising* the paper's, ten times these, slowed
learning on the pack's tiny model; with these, on the network's output, neither help nor harm could be read (benchmarks/README.md in the
repository). On this model it is unmeasured: compare with both weights at 0."""


class Model(NamedTuple):
    """A file the template needs: the page offers it for download where it is missing."""

    name: str
    url: str
    directory: str


@dataclass(frozen=True)
class Loader:
    """A node that brings MODEL, CLIP or VAE; of what several bring, the last one's is used."""

    kind: str
    widgets: dict[str, Any]
    outputs: tuple[str, ...]
    models: tuple[Model, ...] = ()


@dataclass(frozen=True)
class Backbone:
    """One template.

    Attributes:
        size: width, height in pixels.
        training, sampling: widgets that differ from the base's.
        bypass: the LoRA runs beside the weights, which are quantised, instead of being added to them.
        snap: the clip is rounded to the lengths and sizes the model takes.
        second: the file of a second expert, for low noise, which takes over at the sampling step ``switch``.
    """

    name: str
    loaders: tuple[Loader, ...]
    size: tuple[int, int]
    frames: int
    fps: float
    sampling: dict[str, Any]
    note: str
    training: dict[str, Any] = field(default_factory=dict)
    training_prompt: str = "a red circle is moving"
    prompt: str = "a red balloon is flying over a meadow, film"
    negative_prompt: str = "low resolution, blurry, watermark"
    bypass: bool = False
    snap: bool = False
    second: Model | None = None
    switch: int = 0


@dataclass(frozen=True)
class Start:
    """The clip's inverted noise to sample from: as many steps up as down, over the same noise levels."""

    steps: int
    refinements: int
    sampler: str = "ddim"
    scheduler: str = "ddim_uniform"
    method: str = "inverted alone (VMC)"


@dataclass(frozen=True)
class Method:
    """The template of a method other than plain training.

    Attributes:
        name: of the file, and of what it saves.
        backbone: a real model's template that it starts from; None is the embedded model's.
        alignment: widgets of Alignment Loss; those besides "method" are of the chosen one.
        spectral, training, sampling: widgets that differ from that template's.
        start: None is fresh noise.
    """

    name: str
    backbone: Backbone | None
    alignment: dict[str, Any]
    training: dict[str, Any]
    note: str
    spectral: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    start: Start | None = None


def note(title: str, files: str, expect: str) -> str:
    return one_line_a_paragraph(f"## {title}\n- **Files**: {files}\n- **What to expect**: {expect}{HOW}")


def one_line_a_paragraph(text: str) -> str:
    """As the page's editor has it."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and not line.startswith(("-", "#")) and not lines[-1].startswith("#"):
            lines[-1] += " " + line
        else:
            lines.append(line)
    return "\n".join(lines)
