"""Reference numbers of the methods' published code, see tests/golden; and a prediction to measure losses on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sma.prediction import Prediction, add_noise

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class GoldenCase:
    """One case: its parameters, tolerances, numbers and tensors."""

    params: dict
    tolerance: dict[str, float]
    scalars: dict[str, float]
    tensors: dict[str, Tensor]

    @property
    def close(self) -> dict[str, float]:
        return {key: self.tolerance[key] for key in ("rtol", "atol")}


@pytest.fixture
def golden() -> Callable[[str], GoldenCase]:
    """Load a case by its path under tests/golden, such as "sma/global_f8_haar_J2"."""

    def load(case: str) -> GoldenCase:
        text = json.loads((GOLDEN / f"{case}.json").read_text())
        scalars = {name: scalar["value"] for name, scalar in text["scalars"].items()}
        tensors = load_file(GOLDEN / f"{case}.safetensors")
        return GoldenCase(text["params"], text["tolerance"], scalars, tensors)

    return load


@pytest.fixture
def predicted() -> Callable[..., Prediction]:
    """predicted(batch, frames, kind, dtype): noised copies of one clip and a wrong estimate that wants a gradient."""

    def make(batch: int = 2, frames: int = 8, kind: str = "v", dtype: torch.dtype = torch.float64) -> Prediction:
        generator = torch.Generator().manual_seed(7)
        # Odd sides: a spectrum of even ones has real bins whose raw angle, pi or -pi, is up to the FFT library.
        shape = (batch, 3, frames, 3, 5)
        x0 = torch.randn(1, *shape[1:], generator=generator, dtype=dtype).expand(shape)
        noise, error = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
        sigma = torch.linspace(0.3, 0.9, batch, dtype=dtype)
        x0_hat = (x0 + 0.5 * error).requires_grad_()
        return Prediction.from_denoised(x0, noise, add_noise(x0, noise, sigma, kind), sigma, x0_hat, kind)

    return make


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test marked `golden_cases(pattern, count)` on every matching case; a missing file is an error."""
    marker = metafunc.definition.get_closest_marker("golden_cases")
    if marker:
        pattern, count = marker.args
        cases = sorted(str(path.relative_to(GOLDEN).with_suffix("")) for path in GOLDEN.glob(f"{pattern}.json"))
        assert len(cases) == count, f"{pattern}: {len(cases)} golden cases, {count} expected"
        metafunc.parametrize("case", cases)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden_cases(pattern, count): run on the matching cases of tests/golden")
