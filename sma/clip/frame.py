"""Decoded frames of videos as RGB arrays."""

from __future__ import annotations

import av
import numpy as np

from .picture import opaque


def upright(frame: av.VideoFrame) -> np.ndarray:
    return opaque(frame.to_image().rotate(frame.rotation, expand=True))  # phones film sideways and say so in the file
