"""One run of Train Motion LoRA: what it says while it works, and what it leaves on disk when it is cut short."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..sma.disk import DiskError, try_out
from ..sma.files import MotionLoRA, save_lora, save_state
from ..sma.lora import Adapter
from ..sma.lora_formats import to_format
from ..sma.training import StepInfo, TrainingState
from .host import paths
from .host.progress import Progress, raise_if_cancelled
from .host.report import Report

# What the host puts before the network's module names in LoRA files.
LORA_PREFIX = "diffusion_model."

logger = logging.getLogger(__name__)


class TrainingRun:
    """Callbacks of one training: progress on the node, checkpoints, the finished LoRA, the last good state.

    Args:
        report: of the node.
        model: the host's MODEL, for previews.
        adapter: what is trained.
        metadata: goes into every LoRA file, but for what is None or empty; ``adapted`` is what the node says it trained.
        steps: optimizer steps in all.
        first_step: steps a resumed state has behind it.
        save_every: steps between checkpoints, 0 for none; then no state is kept of a run that ends well.
        prefix: file name prefix below output/loras and output/spectral_motion; the host refuses one that leads outside.
        motion: the adapter's groups that make the LoRA; None is all.
        beside: groups that are saved in files of their own -> what those are named after.
    """

    def __init__(
        self,
        report: Report,
        model: Any,
        adapter: Adapter,
        metadata: Mapping[str, object],
        *,
        steps: int,
        first_step: int,
        save_every: int,
        prefix: str,
        motion: Sequence[str] | None,
        beside: Mapping[str, str],
    ) -> None:
        self.report = report
        self.adapter = adapter
        self.metadata = {name: value for name, value in metadata.items() if value not in (None, "")}
        self.steps = steps
        self.first_step = first_step
        self.save_every = save_every
        self.prefix = prefix
        self.motion = motion
        self.beside = beside
        self.state_path: Path | None = None
        self._check_disk()
        self.progress = Progress(model, steps, report.node_id)
        self.saved: tuple[int, Path] | None = None
        # The host looks for its cancel in forward operations only; the backward of a large UNet takes seconds.
        for value in adapter.parameters():
            value.register_hook(lambda _: raise_if_cancelled())
        self.started = time.monotonic()

    def _check_disk(self) -> None:
        """Tries the names out before the first step, while no work can be lost.

        Raises:
            ValueError: a prefix that names no file, or one that the disk does not take.
        """
        longest = max((f"_{name}" for name in self.beside.values()), key=len, default="")
        try:
            try_out(paths.new_loras(self.prefix, f"_step{self.steps:05}{longest}"))
            try_out(paths.new_states(self.prefix))
        except DiskError as error:
            if error.of_name:
                raise ValueError(
                    f"The file name prefix {self.prefix!r} cannot be used: {error}. Choose a short, plain one."
                ) from error
            self.report.warn(
                f"Nothing can be saved under output/: {error}. The LoRA leaves by the output of this node alone; to have it on disk, "
                "stop and mend that."
            )

    def resumed(self, name: str, about: Mapping[str, object]) -> None:
        """Says where a resumed run goes on, and where it differs from the one that left the state: it then is another run."""
        self.report.tell(f"Goes on from step {self.first_step} of {self.steps}, from {name}")
        same_as_json = json.loads(json.dumps(self.metadata))
        differing = [key for key, value in same_as_json.items() if key in about and about[key] != value]
        if differing:
            self.report.warn(f"{name} was trained with other settings ({', '.join(differing)}) than this run.")

    def idle(self, keys: Sequence[str]) -> None:
        """Says which layers took no part in the model's answer; they learned nothing."""
        if keys:
            self.report.warn(
                f"{len(keys)} layers took no part in the model's answer and learned nothing, for example {keys[0]}."
            )

    def on_step(self, info: StepInfo) -> None:
        """Reports a step, saves a checkpoint when one is due, and raises the host's cancel."""
        step = info.record.step
        pace = (step - self.first_step) / max(time.monotonic() - self.started, 1e-6)
        text = f"step {step}/{self.steps}  loss {info.record.loss:.4f}  {pace:.2f} steps/s"
        self.progress.update(step, text, info.x0_hat)
        if self.save_every and step % self.save_every == 0:
            self._checkpoint(info.capture())
        raise_if_cancelled()

    def _checkpoint(self, state: TrainingState) -> None:
        """Saves the LoRA, and where checkpoints are asked for the state and the LoRAs beside it. What the disk refuses is said, and the
        run goes on: its outcome is still in memory."""
        step = state.step
        about = self.metadata | {"steps": step}
        try:
            path = self._save(f"_step{step:05}", self.motion, about)
            self.saved = step, path
            if self.save_every:
                for group, name in self.beside.items():
                    self._save(f"_step{step:05}_{name}", [group], about | {"part": name})
                self._save_state(state)
        except DiskError as error:
            self.report.warn(
                f"Step {step} could not be saved whole under output/: {error}. Mend that, and save the LoRA by Save Motion LoRA."
            )

    def _save_state(self, state: TrainingState) -> None:
        """Writes the run's one state, over its last one."""
        self.state_path = save_state(state, self.state_path or paths.new_states(self.prefix), self.metadata)

    def _save(self, more: str, groups: Sequence[str] | None, about: Mapping[str, object]) -> Path:
        tensors = to_format(self.adapter.export(LORA_PREFIX, groups), "comfyui").tensors
        path = save_lora(tensors, about, paths.new_loras(self.prefix, more))
        logger.info("Saved %s", paths.shown(path))
        return path

    def on_stop(self, state: TrainingState) -> None:
        """Keeps the state of a run that ends by cancel or error, and tells its name."""
        if state.step <= self.first_step:
            return
        stopped = f"Stopped at step {state.step} of {self.steps}."
        # What ended the run, the user's cancel above all, must reach the host and not be replaced by a full disk.
        try:
            self._save_state(state)
        except DiskError as error:
            failed = f"{stopped} Its state could not be saved under output/: {error}"
            try:
                spare = save_state(state, paths.spare_states(self.prefix), self.metadata)
            except DiskError as second:
                self.report.warn(f"{failed}; nor under temp/: {second}.")
            else:
                self.report.warn(
                    f"{failed}. It is under temp/ until ComfyUI starts again: choose {paths.state_name(spare)} in resume_from to continue; "
                    "press R to refresh the list."
                )
        else:
            name = paths.state_name(self.state_path)
            self.report.warn(f"{stopped} Choose {name} in resume_from to continue; press R to refresh the list.")

    def lora(self, state: TrainingState) -> MotionLoRA:
        """The finished LoRA, which is on disk as well. Says on the node what was done and where it is."""
        if done := state.step - self.first_step:
            # Without losses of single steps: each has another noise level, so the first and the last say little.
            self.report.tell(f"{done} step{'' if done == 1 else 's'} in {time.monotonic() - self.started:.0f} s")
        else:
            self.report.tell(f"Nothing was left to do: {self.first_step} of {self.steps} steps were done")
        if self.saved is None or self.saved[0] != state.step:
            self._checkpoint(state)
        if self.saved is not None and self.saved[0] == state.step:
            self.report.tell(f"Saved {paths.shown(self.saved[1])}; press R to see it in the lists of LoRA loaders.")
        if self.state_path is not None:
            self.report.tell(f"To train on: more steps, and {paths.state_name(self.state_path)} in resume_from.")
        return MotionLoRA(self.adapter.export(LORA_PREFIX, self.motion), self.metadata | {"steps": state.step})
