from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import pywt
import torch

from sma.wavelets import temporal_dwt

ROOT = Path(__file__).parents[2]


def reference_dwt(x: torch.Tensor, wave: str, levels: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Level after level with PyWavelets; its own multilevel call warns where levels exceed log2."""
    approx, details = x.numpy(), []
    for _ in range(levels):
        approx, detail = pywt.dwt(approx, wave, mode="zero", axis=2)
        details.append(torch.from_numpy(detail))
    return torch.from_numpy(approx), details


def assert_same_bands(ours, reference, **tolerance) -> None:
    torch.testing.assert_close(ours[0], reference[0], **tolerance)
    assert len(ours[1]) == len(reference[1])
    for a, b in zip(ours[1], reference[1], strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("wave", ["haar", "db2", "sym5", "coif1", "bior2.2", "rbio3.1", "dmey"])
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 15])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_float64_transform_equals_pywavelets(wave, frames, levels):
    x = torch.randn(2, 3, frames, 2, 5, dtype=torch.float64)
    assert_same_bands(temporal_dwt(x, wave, levels), reference_dwt(x, wave, levels), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wave", pywt.wavelist(kind="discrete"))
def test_every_discrete_wavelet_is_known(wave):
    x = torch.randn(1, 1, 9, 1, 2)
    assert_same_bands(temporal_dwt(x, wave, 2), reference_dwt(x.double(), wave, 2), check_dtype=False)


def test_lengths_stay_one_beyond_log2_with_haar():
    approx, details = temporal_dwt(torch.randn(1, 2, 7, 3, 3), "haar", 5)
    assert [d.shape[2] for d in details] == [4, 2, 1, 1, 1]
    assert approx.shape == (1, 2, 1, 3, 3)


def test_odd_haar_tail_is_paired_with_zero():
    approx, (detail,) = temporal_dwt(torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 3, 1, 1), "haar", 1)
    torch.testing.assert_close(approx.flatten(), torch.tensor([4.0, 5.0]) / 2**0.5)
    torch.testing.assert_close(detail.flatten().abs(), torch.tensor([2.0, 5.0]) / 2**0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    x = torch.randn(1, 2, 7, 3, 3).to(dtype)
    assert_same_bands(temporal_dwt(x, "db2", 2), temporal_dwt(x.float(), "db2", 2), rtol=0, atol=0)


def test_autocast_does_not_lower_the_precision():
    x = torch.randn(1, 2, 7, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = temporal_dwt(x, "haar", 2)
    assert_same_bands(ours, temporal_dwt(x, "haar", 2), rtol=0, atol=0)


@pytest.mark.parametrize("wave", ["haar", "bior2.2", "db3"])
def test_gradient_is_the_transposed_transform(wave):
    x = torch.randn(1, 1, 7, 2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: (lambda a, d: (a, *d))(*temporal_dwt(x, wave, 2)), x)


def test_a_call_under_inference_mode_does_not_spoil_training():
    x = torch.randn(1, 1, 7, 2, 2)
    with torch.inference_mode():
        temporal_dwt(x, "haar", 2)
    x.requires_grad_()
    temporal_dwt(x, "haar", 2)[0].sum().backward()
    assert x.grad.abs().sum() > 0


def test_unknown_wavelet_is_refused_with_a_close_match():
    with pytest.raises(
        ValueError, match=r"Unknown wavelet 'db22x'.*db22.*Families: haar, db, sym, coif, bior, rbio, dmey"
    ):
        temporal_dwt(torch.zeros(1, 1, 4, 1, 1), "db22x", 1)


def test_continuous_wavelet_is_refused():
    with pytest.raises(ValueError, match="Unknown wavelet 'morl'"):
        temporal_dwt(torch.zeros(1, 1, 4, 1, 1), "morl", 1)


def test_no_level_is_refused():
    with pytest.raises(ValueError, match="levels is 0.*at least 1"):
        temporal_dwt(torch.zeros(1, 1, 4, 1, 1), "haar", 0)


@pytest.fixture
def fresh_import(monkeypatch):
    """As if neither pytorch_wavelets nor pkg_resources had been imported, and the latter did not exist."""
    wavelets = importlib.import_module("sma.wavelets")
    for name in list(sys.modules):
        if name.split(".")[0] in ("pytorch_wavelets", "pkg_resources"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(wavelets, "find_spec", lambda name: None)
    return wavelets


def test_stand_in_for_pkg_resources_serves_the_import_and_is_gone_afterwards(fresh_import):
    library = fresh_import._pytorch_wavelets()
    assert "pkg_resources" not in sys.modules
    library.DTCWTForward(J=2)  # reads its filters through resource_stream


def test_stand_in_is_gone_after_a_failed_import(fresh_import, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_wavelets.dwt", None)
    with pytest.raises(ImportError):
        fresh_import._pytorch_wavelets()
    assert "pkg_resources" not in sys.modules


def test_real_pkg_resources_is_left_alone(tmp_path):
    (tmp_path / "pkg_resources.py").write_text("def resource_stream(package, name):\n    raise AssertionError\n")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from sma.wavelets import _pytorch_wavelets\n"
        "_pytorch_wavelets()\n"
        f"assert sys.modules['pkg_resources'].__file__.startswith({str(tmp_path)!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
