from __future__ import annotations

import pytest
import torch

from sma.residuals import frame_residuals


def test_residual_is_the_next_frame_minus_this_one():
    x = torch.randn(2, 3, 5, 4, 7)
    residual = frame_residuals(x)
    assert residual.shape == (2, 3, 4, 4, 7)
    for frame in range(4):
        assert torch.equal(residual[:, :, frame], x[:, :, frame + 1] - x[:, :, frame])


def test_absolute_residual_forgets_the_direction():
    x = torch.tensor([1.0, 4.0, 2.0]).view(1, 1, 3, 1, 1)
    assert frame_residuals(x).flatten().tolist() == [3.0, -2.0]
    assert frame_residuals(x, absolute=True).flatten().tolist() == [3.0, 2.0]


@pytest.mark.parametrize(
    ("given", "worked"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_residuals_are_taken_in_at_least_float32(given, worked):
    x = torch.tensor([1.0, 1.0078125]).view(1, 1, 2, 1, 1).to(given)
    residual = frame_residuals(x)
    assert residual.dtype == worked
    assert residual.item() == (x[0, 0, 1].double() - x[0, 0, 0].double()).item()


@pytest.mark.parametrize(("frames", "said"), [(0, "0 frames"), (1, "1 frame")])
def test_too_few_frames_are_refused(frames, said):
    with pytest.raises(ValueError, match=f"The clip has {said}; motion needs at least 2. Raise frame_count or pick"):
        frame_residuals(torch.zeros(1, 3, frames, 4, 4))


def test_an_image_batch_is_refused():
    with pytest.raises(ValueError, match=r"shape \[8, 3, 4, 4\]"):
        frame_residuals(torch.zeros(8, 3, 4, 4))
