"""One run of Train Motion LoRA: what it says while it works, and what it leaves on disk when it is cut short."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..sma.files import MotionLoRA, save_lora, save_state
from ..sma.lora import Adapter
from ..sma.training import StepInfo, TrainingState
from .host import paths
from .host.progress import Progress, raise_if_cancelled, say

# What the host puts before the network's module names in LoRA files.
LORA_PREFIX = "diffusion_model."

logger = logging.getLogger(__name__)


class TrainingRun:
    """Callbacks of one training: progress on the node, checkpoints, the last good state.

    Args:
        node_id: the node that reports.
        model: the host's MODEL, for previews.
        adapter: what is trained.
        metadata: goes into every LoRA file, but for what is None or empty; ``adapted`` is what the node says it trained.
        steps: optimizer steps in all.
        first_step: steps a resumed state has behind it.
        save_every: steps between checkpoints, 0 for none.
        prefix: file name prefix below output/loras and output/spectral_motion; the host refuses one that leads outside.
        motion: the adapter's groups that make the LoRA; None is all.
        beside: groups that are saved in files of their own -> what those are named after.
    """

    def __init__(
        self,
        node_id: str | None,
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
        self.node_id = node_id
        self.adapter = adapter
        self.metadata = {name: value for name, value in metadata.items() if value not in (None, "")}
        self.steps = steps
        self.first_step = first_step
        self.save_every = save_every
        self.prefix = prefix
        self.motion = motion
        self.beside = beside
        # Found before training: a bad prefix must not cost the state when the run is cut short.
        self.state_path = paths.next_state(prefix)
        self.progress = Progress(model, steps, node_id)
        # The host looks for its cancel in forward operations only; the backward of a large UNet takes seconds.
        for value in adapter.parameters():
            value.register_hook(lambda _: raise_if_cancelled())
        self.started = time.monotonic()

    def resumed(self, name: str, about: Mapping[str, object]) -> None:
        """Says where a resumed run differs from the one that left the state: it then goes on, but not as that one would have."""
        same_as_json = json.loads(json.dumps(self.metadata))
        differing = [key for key, value in same_as_json.items() if key in about and about[key] != value]
        if differing:
            text = f"{name} was trained with other settings ({', '.join(differing)}) than this run."
            say(self.node_id, text)
            logger.warning(text)

    def idle(self, keys: Sequence[str]) -> None:
        """Says which layers took no part in the model's answer; they learned nothing."""
        if keys:
            text = f"{len(keys)} layers took no part in the model's answer and learned nothing, for example {keys[0]}."
            say(self.node_id, text)
            logger.warning(text)

    def on_step(self, info: StepInfo) -> None:
        """Reports a step, saves a checkpoint when one is due, and raises the host's cancel."""
        step = info.record.step
        pace = (step - self.first_step) / max(time.monotonic() - self.started, 1e-6)
        text = f"step {step}/{self.steps}  loss {info.record.loss:.4f}  {pace:.2f} steps/s"
        self.progress.update(step, text, info.x0_hat)
        if self.save_every and step % self.save_every == 0:
            save_state(info.capture(), self.state_path, self.metadata)
            about = self.metadata | {"steps": step}
            self._save(f"{self.prefix}_step{step:05}", self.motion, about)
            for group, name in self.beside.items():
                self._save(f"{self.prefix}_step{step:05}_{name}", [group], about | {"part": name})
        raise_if_cancelled()

    def _save(self, prefix: str, groups: Sequence[str] | None, about: Mapping[str, object]) -> None:
        path = paths.next_lora(prefix)
        save_lora(self.adapter.export(LORA_PREFIX, groups), about, path)
        logger.info("Saved %s", paths.shown(path))

    def on_stop(self, state: TrainingState) -> None:
        """Keeps the state of a run that ends by cancel or error, and tells its name."""
        if state.step <= self.first_step:
            return
        stopped = f"Stopped at step {state.step} of {self.steps}."
        try:
            save_state(state, self.state_path, self.metadata)
        except OSError as error:
            # What ended the run, the user's cancel above all, must reach the host and not be replaced by a full disk.
            text = f"{stopped} Its state could not be saved: {error}."
        else:
            text = f"{stopped} Choose {paths.state_name(self.state_path)} in resume_from to continue."
        say(self.node_id, text)
        logger.warning(text)

    def lora(self, state: TrainingState) -> MotionLoRA:
        """The finished LoRA. Says on the node what was done."""
        records = state.history[self.first_step :]
        text = str(self.metadata["adapted"])
        if records:
            tail = records[-max(1, len(records) // 10) :]
            mean = sum(record.loss for record in tail) / len(tail)
            seconds = time.monotonic() - self.started
            text += f"; {len(records)} steps in {seconds:.0f} s, loss {records[0].loss:.4f} → {mean:.4f}"
        say(self.node_id, text)
        return MotionLoRA(self.adapter.export(LORA_PREFIX, self.motion), self.metadata | {"steps": state.step})
