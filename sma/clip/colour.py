"""High dynamic range and wide colours, brought into what an ordinary screen shows."""

from __future__ import annotations

import numpy as np

# Codes of ITU-T H.273, which all containers and FFmpeg share.
PQ, HLG = 16, 18
_BT2020, _P3 = 9, 12
_WHITE = 203.0  # cd/m2 of a white page in HDR, by ITU-R BT.2408
_KNEE = 0.75  # part of the range of an ordinary screen that highlights are not pressed into

# Linear RGB to linear RGB of BT.709: the matrices of ITU-R BT.2087 and, for Display P3, of the primaries in SMPTE EG 432-1.
_TO_BT709 = {
    _BT2020: np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]),
    _P3: np.array([[1.2249, -0.2249, 0.0], [-0.0421, 1.0421, 0.0], [-0.0196, -0.0786, 1.0983]]),
}


def conversion(transfer: int, primaries: int) -> str:
    """Says what :func:`ordinary` does to pictures of this kind: "HDR (PQ) converted to ordinary brightness"; "" for nothing."""
    if name := {PQ: "PQ", HLG: "HLG"}.get(transfer):
        return f"HDR ({name}) converted to ordinary brightness"
    if primaries in _TO_BT709:
        return "wide colours converted to ordinary ones"
    return ""


def ordinary(picture: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Convert a picture [H, W, 3], float32, 0..1, of HDR or wide colours to sRGB.

    PQ is read by SMPTE ST 2084, HLG by ITU-R BT.2100 for a screen of 1000 cd/m2. A white page, 203 cd/m2 there, becomes 0.96:
    what is darker than three quarters of it keeps its brightness, all that is brighter is pressed into the rest, and
    colours that the screen lacks are cut off. Hues are kept: a pixel's three channels shrink alike.
    """
    if transfer == PQ:
        light = _pq_light(picture)
    elif transfer == HLG:
        light = _hlg_light(picture)
    elif primaries in _TO_BT709:
        light = picture.clip(0) ** 2.4  # ITU-R BT.1886, how screens show video
    else:
        return picture
    if primaries in _TO_BT709:
        light = (light @ _TO_BT709[primaries].T.astype(np.float32)).clip(0)
    if transfer in (PQ, HLG):
        light = _pressed(light / _WHITE)
        return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)
    return light.clip(0, 1) ** (1 / 2.4)


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """cd/m2"""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal.clip(0, 1) ** (1 / m2)
    return 10_000 * ((power - c1).clip(0) / (c2 - c3 * power)) ** (1 / m1)


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """cd/m2"""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    signal = signal.clip(0, 1)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return 1000 * scene * luminance[..., None] ** 0.2


def _pressed(light: np.ndarray) -> np.ndarray:
    """Light with its highlights, above the knee, pressed below 1 by a curve that goes on smoothly."""
    brightest = light.max(axis=-1, keepdims=True)
    room = 1 - _KNEE
    pressed = np.where(brightest <= _KNEE, brightest, 1 - room * np.exp((_KNEE - brightest) / room))
    return light * (pressed / np.maximum(brightest, 1e-6))
