"""Decoded frames of videos as RGB arrays of their own depth."""

from __future__ import annotations

import av
import numpy as np

from .colour import ordinary

# Weights of red and blue in luma by the code of the matrix in ITU-T H.273; ITU-R BT.601 where the film names none.
_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)
_FULL_RANGE = 2


def picture(frame: av.VideoFrame, transfer: int, primaries: int) -> np.ndarray:
    """The frame as sRGB [H, W, 3], float32, 0..1, over black where it is transparent.

    Args:
        transfer, primaries: codes of ITU-T H.273 for the film's transfer curve and primaries.
    """
    pixels = _deep(frame) if _depth(frame) > 8 else _plain(frame)
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    colours = ordinary(colours, transfer, primaries)
    return colours * alpha if alpha.size else colours


def _depth(frame: av.VideoFrame) -> int:
    return max(component.bits for component in frame.format.components)


def _has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def _plain(frame: av.VideoFrame) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgba" if _has_alpha(frame) else "rgb24")
    return pixels.astype(np.float32) / 255


def _deep(frame: av.VideoFrame) -> np.ndarray:
    """Pictures of more than 8 bits, in full: FFmpeg's own conversion of them falls short of white."""
    if frame.format.is_rgb:
        pixels = frame.to_ndarray(format="rgba64le" if _has_alpha(frame) else "rgb48le")
        return pixels.astype(np.float32) / 65535
    depth = _depth(frame)
    frame = frame.reformat(format="yuva444p16le" if _has_alpha(frame) else "yuv444p16le")
    top = np.float32(2**16 - 2 ** (16 - depth))  # FFmpeg shifts the bits up and leaves zeros behind
    planes = [_plane(plane) for plane in frame.planes]
    luma, blue, red = planes[:3]
    if frame.color_range == _FULL_RANGE:
        luma, blue, red = luma / top, (blue - 2**15) / top, (red - 2**15) / top
    else:
        luma, blue, red = (luma / 256 - 16) / 219, (blue / 256 - 128) / 224, (red / 256 - 128) / 224
    of_red, of_blue = _LUMA_WEIGHTS.get(frame.colorspace, _BT601)
    red = luma + 2 * (1 - of_red) * red
    blue = luma + 2 * (1 - of_blue) * blue
    green = (luma - of_red * red - of_blue * blue) / (1 - of_red - of_blue)
    channels = [red, green, blue] + [alpha / top for alpha in planes[3:]]
    return np.stack(channels, axis=-1).clip(0, 1)


def _plane(plane: av.video.plane.VideoPlane) -> np.ndarray:
    rows = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)
    return rows[:, : plane.width].astype(np.float32)
