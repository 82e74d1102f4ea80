"""Pictures of any kind as plain RGB arrays."""

from __future__ import annotations

import numpy as np
from PIL import Image


def opaque(image: Image.Image) -> np.ndarray:
    """The picture as RGB [H, W, 3], float32, 0..1, over black where it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return np.asarray(image.convert("RGB"), np.float32) / 255
