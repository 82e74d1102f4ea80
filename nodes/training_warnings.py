"""What Train Motion LoRA warns of: clips, prompts and memory before it starts, a loss that grew when it is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ..sma.clip.size import ClipSize
from ..sma.outcome import Outcome
from ..sma.stillness import still_warning
from .host.memory import MemoryEstimate
from .host.report import Report
from .host.sprites import PROMPT_WARNING
from .host.training import HostDenoiser


def warn_before(report: Report, model: Any, host: HostDenoiser, positive: list, memory: MemoryEstimate) -> None:
    """Warns of what will train worse than the user expects, or may not fit into memory."""
    for text in (*_of_clips(model, host), *_of_prompts(positive), memory.warning()):
        if text:
            report.warn(text)


def tell_after(report: Report, found: Outcome) -> None:
    """Says what the training did to the loss on its clip, and warns where that grew."""
    report.tell(f"{found}.")
    if text := found.warning():
        report.warn(text)


def _of_clips(model: Any, host: HostDenoiser) -> Iterable[str]:
    trained = getattr(host.network, "trained_on", None)
    if trained is not None:
        scale = model.get_model_object("latent_format").spacial_downscale_ratio
        height, width = (side * scale for side in host.clip.shape[3:])
        yield trained.warning(ClipSize(host.frames, width, height), "The model")
    for clip in host.clip.split(1):
        yield still_warning(_after_the_first_frame(clip, host.frames))


def _after_the_first_frame(clip: Tensor, frames: int) -> Tensor:
    """A latent without its first frame, where a VAE packs several frames into each of the others: its first one is of another kind,
    and differs from them also where nothing moves."""
    return clip[:, :, 1:] if frames != clip.shape[2] > 2 else clip


def _of_prompts(positive: list) -> Iterable[str]:
    return (extra.get(PROMPT_WARNING, "") for _, extra in positive)
