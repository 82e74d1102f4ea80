"""The length and size of clips that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipSize:
    """Frames and pixels of a clip."""

    frames: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.frames} frames of {self.width}x{self.height} pixels"

    def warning(self, clip: ClipSize, model: str) -> str:
        """What to say about a clip of another length or size than a model was trained on; "" for one of the same.

        Args:
            clip: what the model is given.
            model: name of the model whose training this size is.
        """
        if clip == self:
            return ""
        return f"{model} was trained on {self} and never saw {clip}: it will move and look worse. Choose {self}."
