"""Wavelet transform over time, on pytorch_wavelets."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from types import ModuleType
from typing import BinaryIO

import torch
from torch import Tensor

from .residuals import at_least_float32


def _resource_stream(package: str, name: str) -> BinaryIO:
    return files(package).joinpath(name).open("rb")


def _pytorch_wavelets() -> ModuleType:
    """Import pytorch_wavelets, whose 1.3.0 needs `pkg_resources`, a module that current setuptools no longer has.

    All it takes from there is `resource_stream`, so a stand-in with that one function serves for the length of the
    import. A real pkg_resources is left alone.
    """
    if "pkg_resources" in sys.modules or find_spec("pkg_resources"):
        return import_module("pytorch_wavelets")
    stand_in = ModuleType("pkg_resources")
    stand_in.resource_stream = _resource_stream
    sys.modules["pkg_resources"] = stand_in
    try:
        return import_module("pytorch_wavelets")
    finally:
        del sys.modules["pkg_resources"]


def check_wavelet(wave: str) -> None:
    """Refuse a name that is no discrete wavelet of PyWavelets.

    Raises:
        ValueError: names the close matches and the families.
    """
    import pywt  # here: loading this module must not load the wavelet libraries

    if wave in pywt.wavelist(kind="discrete"):
        return
    close = get_close_matches(str(wave), pywt.wavelist(kind="discrete"))
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    families = ", ".join(family for family in pywt.families() if pywt.wavelist(family, kind="discrete"))
    raise ValueError(f"Unknown wavelet {wave!r}. {hint}Families: {families}.")


def temporal_dwt(x: Tensor, wave: str, levels: int) -> tuple[Tensor, list[Tensor]]:
    """Wavelet transform along time, with zeros outside the clip.

    A level turns T values into floor((T + n - 1) / 2) for a filter of n taps. Levels beyond log2(T) are legal: with
    haar the length then stays 1.

    Args:
        x: [B, C, T, H, W].
        wave: a discrete wavelet of PyWavelets, such as "haar" or "db2".
        levels: 1 or more.

    Returns:
        The approximation of the last level and the details of all levels, finest first, each [B, C, T_level, H, W],
        at least float32.

    Raises:
        ValueError: levels < 1 or unknown wavelet.
    """
    if levels < 1:
        raise ValueError(f"The wavelet transform was asked for {levels} levels; it needs at least 1.")
    check_wavelet(wave)
    import pywt

    x = at_least_float32(x)
    # Built here on every call: a filter kept from a call under inference mode could never be trained through. The
    # library rounds its filters to float32, so float64 clips get them from the source.
    transform = _pytorch_wavelets().DWT1DForward(J=levels, wave=wave, mode="zero")
    low, high, *_ = pywt.Wavelet(wave).filter_bank
    transform.h0 = torch.tensor(low[::-1], dtype=x.dtype, device=x.device).view(1, 1, -1)
    transform.h1 = torch.tensor(high[::-1], dtype=x.dtype, device=x.device).view(1, 1, -1)

    b, c, t, h, w = x.shape
    series = x.movedim(2, -1).reshape(-1, 1, t)  # one series per channel and pixel
    approx, details = transform(series)

    def unfold(y: Tensor) -> Tensor:
        return y.reshape(b, c, h, w, -1).movedim(-1, 2)

    return unfold(approx), [unfold(detail) for detail in details]
