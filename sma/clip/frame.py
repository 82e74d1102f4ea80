"""Decoded frames of videos as RGB arrays of their own depth."""

from __future__ import annotations

import av
import numpy as np

from .colour import ordinary

_BT709, _BT601, _BT2020, _BT2020_CONSTANT = 1, 5, 9, 10  # codes of matrices in ITU-T H.273
# Weights of red and blue in luma.
_LUMA_WEIGHTS = {
    _BT709: (0.2126, 0.0722),
    4: (0.30, 0.11),
    _BT601: (0.299, 0.114),
    7: (0.212, 0.087),
    _BT2020: (0.2627, 0.0593),
}
_LIMITED_RANGE, _FULL_RANGE = 1, 2


def picture(frame: av.VideoFrame, transfer: int, primaries: int, opaque: bool = False) -> np.ndarray:
    """The frame as sRGB [H, W, 3], float32, 0..1, over black where it is transparent.

    Args:
        transfer, primaries: codes of ITU-T H.273 for the film's transfer curve and primaries.
        opaque: what stands where transparency would is none, and left out.
    """
    pixels = _deep(frame) if _depth(frame) > 8 else _plain(frame)
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    colours = ordinary(colours, transfer, primaries)
    return colours * alpha if alpha.size and not opaque else colours


def _depth(frame: av.VideoFrame) -> int:
    return max(component.bits for component in frame.format.components)


def _has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def _matrix(frame: av.VideoFrame) -> int:
    """Code of the film's matrix; that of ITU-R BT.601 where it names none, as FFmpeg does."""
    if frame.colorspace == _BT2020_CONSTANT:
        return _BT2020
    return frame.colorspace if frame.colorspace in _LUMA_WEIGHTS else _BT601


def _is_full_range(frame: av.VideoFrame) -> bool:
    return frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")


def _plain(frame: av.VideoFrame) -> np.ndarray:
    format = "rgba" if _has_alpha(frame) else "rgb24"
    if not frame.format.is_rgb and len(frame.format.components) > 2:
        # Older PyAV follows neither the film's matrix nor its range by itself, and only what differs between source and result.
        matrix = _matrix(frame)
        frame = frame.reformat(
            format=format,
            src_colorspace=matrix,
            dst_colorspace=_BT709 if matrix == _BT601 else _BT601,
            src_color_range=_FULL_RANGE if _is_full_range(frame) else _LIMITED_RANGE,
            dst_color_range=_FULL_RANGE,
        )
    return frame.to_ndarray(format=format).astype(np.float32) / 255


def _deep(frame: av.VideoFrame) -> np.ndarray:
    """Pictures of more than 8 bits, in full: FFmpeg's own conversion of them falls short of white."""
    if frame.format.is_rgb:
        pixels = frame.to_ndarray(format="rgba64le" if _has_alpha(frame) else "rgb48le")
        return pixels.astype(np.float32) / 65535
    depth = min(_depth(frame), 16)
    top = 2**depth - 1
    if len(frame.format.components) == 1:  # FFmpeg takes grey for full range, whatever the film says
        grey = _plane(frame.reformat(format=f"gray{depth}le").planes[0]) / top
        return np.stack([grey] * 3, axis=-1)
    frame = frame.reformat(format=f"yuv{'a' if _has_alpha(frame) else ''}444p{depth}le")
    luma, blue, red, *alpha = (_plane(plane) for plane in frame.planes)
    zero, middle, luma_range, colour_range = 0, 2 ** (depth - 1), top, top
    if not _is_full_range(frame):
        zero, luma_range, colour_range = (level << (depth - 8) for level in (16, 219, 224))
    luma, blue, red = (luma - zero) / luma_range, (blue - middle) / colour_range, (red - middle) / colour_range
    of_red, of_blue = _LUMA_WEIGHTS[_matrix(frame)]
    red = luma + 2 * (1 - of_red) * red
    blue = luma + 2 * (1 - of_blue) * blue
    green = (luma - of_red * red - of_blue * blue) / (1 - of_red - of_blue)
    channels = [red, green, blue] + [plane / top for plane in alpha]
    return np.stack(channels, axis=-1).clip(0, 1)


def _plane(plane: av.video.plane.VideoPlane) -> np.ndarray:
    rows = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)
    return rows[:, : plane.width].astype(np.float32)
