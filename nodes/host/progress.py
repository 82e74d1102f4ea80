"""The host's bar, previews and status line, and its cancel button."""

from __future__ import annotations

import time

import comfy.model_management
import comfy.utils
import latent_preview
from server import PromptServer
from torch import Tensor

_TEXT_INTERVAL = 0.25
_PREVIEW_INTERVAL = 1.0


def say(node_id: str | None, text: str) -> None:
    """Writes one line under a node's widgets."""
    server = PromptServer.instance
    if node_id is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)


def raise_if_cancelled() -> None:
    """Raises the host's InterruptProcessingException, a BaseException, once the user has pressed cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class Progress:
    """Reports a long run on its node: bar and preview about once a second, text four times; the host throttles only the bar."""

    def __init__(self, model, steps: int, node_id: str | None) -> None:
        self.steps = steps
        self.node_id = node_id
        self.bar = comfy.utils.ProgressBar(steps, node_id=node_id)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._last_text = self._last_preview = 0.0

    def update(self, step: int, text: str, x0_hat: Tensor) -> None:
        """Reports that ``step`` steps are done; x0_hat [B, C, F, H, W] is previewed by its first frame."""
        now, last = time.monotonic(), step == self.steps
        preview = None
        if self.previewer is not None and (last or now - self._last_preview >= _PREVIEW_INTERVAL):
            preview = self.previewer.decode_latent_to_preview_image("JPEG", x0_hat)
            self._last_preview = now
        self.bar.update_absolute(step, self.steps, preview)
        if last or now - self._last_text >= _TEXT_INTERVAL:
            say(self.node_id, text)
            self._last_text = now
