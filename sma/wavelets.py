"""Wavelet transform over time, on pytorch_wavelets."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from types import ModuleType
from typing import BinaryIO

import pywt
import torch
from torch import Tensor

from .checks import shown
from .residuals import at_least_float32


def _resource_stream(package: str, name: str) -> BinaryIO:
    return files(package).joinpath(name).open("rb")


def _pytorch_wavelets() -> ModuleType:
    """Import pytorch_wavelets, whose 1.3.0 needs `pkg_resources`, a module that current setuptools no longer has.

    All it takes from there is `resource_stream`, so a stand-in with that one function serves for the length of the
    import. A real pkg_resources is left alone.
    """
    if not {"pytorch_wavelets", "pkg_resources"}.isdisjoint(sys.modules) or find_spec("pkg_resources"):
        return import_module("pytorch_wavelets")
    stand_in = ModuleType("pkg_resources")
    stand_in.resource_stream = _resource_stream
    sys.modules["pkg_resources"] = stand_in
    try:
        return import_module("pytorch_wavelets")
    finally:
        sys.modules.pop("pkg_resources", None)


def check_wavelet(wave: str) -> None:
    """Refuse a name that is no discrete wavelet of PyWavelets, which is where pytorch_wavelets takes its filters from.

    Raises:
        ValueError: names the close matches and the families.
    """
    known = pywt.wavelist(kind="discrete")
    if wave in known:
        return
    close = get_close_matches(str(wave), known)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    families = ", ".join(family for family in pywt.families() if not set(known).isdisjoint(pywt.wavelist(family)))
    raise ValueError(f"Unknown wavelet {shown(wave)}. {hint}Families: {families}.")


def check_levels(levels: int) -> None:
    """Refuse a wavelet transform of no level.

    Raises:
        ValueError: levels < 1.
    """
    if levels < 1:
        raise ValueError(f"levels is {levels}; the wavelet transform needs at least 1.")


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
    check_levels(levels)
    check_wavelet(wave)
    x = at_least_float32(x)
    matrix, lengths = _analysis_matrix(wave, levels, x.shape[2])
    with torch.autocast(x.device.type, enabled=False):
        coefficients = torch.matmul(matrix.to(x.dtype).to(x.device), x.flatten(3))  # [B, C, sum of lengths, H * W]
    approx, *details = coefficients.unflatten(3, x.shape[3:]).split(lengths, dim=2)
    return approx, details


def _analysis_matrix(wave: str, levels: int, frames: int) -> tuple[Tensor, list[int]]:
    """The transform as a matrix [coefficients, frames] in float64, and the length of each band, approximation first.

    pytorch_wavelets filters by convolution, which a GPU rounds to TF32 unless told otherwise, and which takes 20 to 30
    times as long as one matrix product over a clip's few frames. So it transforms the unit impulses only. Built on
    every call: tensors kept from a call under inference mode could never be trained through.
    """
    transform = _pytorch_wavelets().DWT1DForward(J=levels, wave=wave, mode="zero")
    filters = pywt.Wavelet(wave)  # the library has rounded its own copy to float32
    transform.h0 = torch.tensor(filters.dec_lo[::-1], dtype=torch.float64).view(1, 1, -1)
    transform.h1 = torch.tensor(filters.dec_hi[::-1], dtype=torch.float64).view(1, 1, -1)
    approx, details = transform(torch.eye(frames, dtype=torch.float64).unsqueeze(1))  # one impulse per sample
    bands = [approx, *details]  # [frames, 1, length] each
    return torch.cat(bands, dim=2).squeeze(1).T, [band.shape[2] for band in bands]
