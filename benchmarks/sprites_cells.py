"""One cell of the motion benchmark: train a LoRA on one clip of one motion, sample other sprites with it, measure them."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sma
from benchmarks.motion_measures import drawn_videos, measure, random_videos, reference_scene, sample_videos
from benchmarks.motion_methods import METHODS, STEPS, UNTRAINED, motion_loss
from benchmarks.motion_training import Protocol, Trainer
from sma import __version__
from sma.pictures import contact_sheet
from sma.sprites.data import Scene
from sma.sprites.model import SpritesModel

Line = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One line of results: a method of METHODS and a form of FORMS on one motion.

    Motion and seed fix the LoRA's initial values, all draws in training, the noises sampled from and the reference's
    background: other pairs of them share nothing, methods and forms of one pair share all (but see Form.null).
    """

    method: str
    form: str
    motion: str
    seed: int
    learning_rate: float | None
    steps: int | None

    @classmethod
    def of(
        cls,
        method: str,
        form: str,
        motion: str,
        seed: int,
        learning_rate: float | None = None,
        steps: int = STEPS,
    ) -> Cell:
        """With the method's own learning rate unless another is given; what trains nothing has neither rate nor steps."""
        if method in UNTRAINED:
            return cls(method, form, motion, seed, None, None)
        return cls(method, form, motion, seed, learning_rate or METHODS[method].learning_rate, steps)

    @property
    def trained(self) -> bool:
        return self.method not in UNTRAINED

    @property
    def name(self) -> str:
        """Fit for a file name and a progress line."""
        trained = f"_{self.form}" if self.trained else ""
        rate = f"_{self.learning_rate:g}" if self.trained else ""
        return f"{self.method}{trained}_{self.motion}_seed{self.seed}{rate}"

    def identity(self, protocol: Protocol, weights_sha256: str) -> Line:
        """What a line must agree in to stand for this cell, as it reads back from JSON. It names the terms that are
        minimised, so that a changed definition of a method or form leaves its old lines behind."""
        loss = None
        if self.trained:
            loss = [term for term in motion_loss(self.method, self.form).describe() if term["weight"] > 0]
        common = {"loss": loss, "protocol": asdict(protocol), "weights_sha256": weights_sha256}
        return json.loads(json.dumps({**asdict(self), **common}))


def run_cell(
    cell: Cell, protocol: Protocol, weights: Path, snapshots: Sequence[int] = (), sheets: Path | None = None
) -> Line:
    """Everything measured in one cell, on one thread, fit for JSON.

    Args:
        snapshots: numbers of steps at which the adapter is sampled and measured besides the cell's own; the line holds
            cosine, error and fit at each of them, its own end among them.
        sheets: folder for a contact sheet of the clips.
    """
    torch.set_num_threads(1)
    started, cpu_started = time.perf_counter(), time.process_time()
    scene = reference_scene(cell.motion, cell.seed)
    training: Line = {}
    if cell.method == "oracle":
        videos = drawn_videos(cell.motion, protocol)
    elif cell.method == "random":
        videos = random_videos(cell.motion, cell.seed, protocol)
    else:
        model = protocol.load(weights)
        if cell.trained:
            trainer = Trainer(
                model, scene, cell.method, cell.form, cell.motion, cell.seed, cell.learning_rate, protocol
            )
            videos, training = _train(cell, trainer, model, scene, protocol, snapshots)
        else:
            videos = sample_videos(model, cell.motion, cell.seed, protocol)
    result = {
        **measure(videos, scene, protocol),
        **training,
        "ground": int(scene.ground.kind),
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "pack": __version__,
        "sources": sources(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if sheets:
        sheets.mkdir(parents=True, exist_ok=True)
        rows = [("reference", scene.render().movedim(0, -1))]
        rows += [(f"clip {number}", video) for number, video in enumerate(videos, 1)]
        contact_sheet(rows, title=cell.name).save(sheets / f"{cell.name}.png")
    return _rounded(result)


def _train(
    cell: Cell, trainer: Trainer, model: SpritesModel, scene: Scene, protocol: Protocol, snapshots: Sequence[int]
) -> tuple[Tensor, Line]:
    """The clips at the cell's own number of steps, and what is known of its training."""
    before = trainer.gradient_ratio()
    found: list[Line] = []
    spent = 0.0
    for steps in sorted({*snapshots, cell.steps}):
        started = time.process_time()
        trainer.train_to(steps)
        spent += time.process_time() - started
        with trainer.sampling():
            clips = sample_videos(model, cell.motion, cell.seed, protocol)
        figures = measure(clips, scene, protocol)
        found.append({"steps": steps, "fit": trainer.fit(), **{key: figures[key] for key in ("cosine", "error")}})
        if steps == cell.steps:
            videos = clips
            own = {"fit": found[-1]["fit"], "training_seconds": spent, "losses": trainer.closing_losses()}
            ratio = None if before is None else (before, trainer.gradient_ratio())
    return videos, {**own, "gradient_ratio": ratio, "snapshots": found}


def sources() -> str:
    """Fingerprint of the package's and the benchmark's code: figures hold for one state of them, a change in draws or
    rounding moves single cells."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    files = [
        *Path(sma.__file__).parent.rglob("*.py"),
        *(here / f"motion_{name}.py" for name in ("measures", "training")),
    ]
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def _rounded(value: Any) -> Any:
    """Floats to 5 significant digits, so that the committed file stays readable."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
