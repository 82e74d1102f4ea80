"""A clip that does not move is noticed, and none that does."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sma.clip.size import ClipSize
from sma.sprites.data import MOTIONS, Scene, named_path
from sma.stillness import STILL, moving_share, still_warning


def picture(size: int = 64) -> torch.Tensor:
    """A picture in 0..1, [1, 3, 1, size, size]."""
    return torch.rand(1, 3, 1, size, size, generator=torch.Generator().manual_seed(0))


def test_a_still_clip_is_noticed_and_a_noisy_copy_of_it_too():
    still = picture().expand(-1, -1, 8, -1, -1)
    assert moving_share(still) == 0.0
    assert moving_share(torch.full((1, 3, 8, 16, 16), 0.5)) == 0.0
    # What an 8-bit film of one picture differs by: a level up or down.
    coded = (still * 255 + torch.randint(-1, 2, still.shape)).round() / 255
    assert 0 < moving_share(coded) < STILL
    assert still_warning(still).startswith("The clip does not move: all its frames are the same.")
    for clip in (coded, coded.half(), coded * 20 - 10):
        assert "The clip hardly moves" in still_warning(clip)


def test_frames_that_have_nothing_to_do_with_each_other_have_a_share_of_two():
    noise = torch.randn(2, 4, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    assert moving_share(noise) == pytest.approx(2.0, rel=0.05)
    assert still_warning(noise) == ""


def test_a_film_is_looked_at_frame_by_frame():
    """A long film fills the memory; what is made of it must not do so once more."""

    class Made(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if (
                isinstance(made, torch.Tensor)
                and made.untyped_storage().data_ptr() != clip.untyped_storage().data_ptr()
            ):
                Made.largest = max(Made.largest, made.numel())
            return made

    for dtype in (torch.float32, torch.float16):
        clip = torch.rand(1, 3, 20, 8, 8, generator=torch.Generator().manual_seed(2)).to(dtype)
        with Made():
            share = moving_share(clip)
        assert 1.5 < share < 2.5 and 0 < Made.largest <= 2 * clip[:, :, 0].numel()


def test_what_is_no_clip_is_refused():
    for shape in ((2, 3), (1, 3, 1, 8, 8), (3, 8, 8, 8)):
        with pytest.raises(ValueError, match="motion needs"):
            moving_share(torch.rand(shape))


def test_a_small_thing_that_moves_is_motion():
    """One thousandth of the picture's area, by its own width in each frame, over a textured ground."""
    clip = (0.5 * picture(96)).repeat(1, 1, 8, 1, 1)
    for frame in range(8):
        clip[:, :, frame, 40:43, 3 * frame : 3 * frame + 3] = 1.0
    assert still_warning(clip) == ""


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_sprites_own_motions_move(motion):
    scene = Scene("red", "circle", named_path(motion))
    assert still_warning(scene.render()[None]) == ""


def test_another_length_or_size_than_trained_on_is_said_with_both():
    trained = ClipSize(8, 16, 16)
    assert trained.warning(ClipSize(8, 16, 16), "The model") == ""
    for clip, shown in (
        (ClipSize(4, 16, 16), "4 frames of 16x16 pixels"),
        (ClipSize(8, 256, 256), "8 frames of 256x256 pixels"),
    ):
        text = trained.warning(clip, "The model")
        assert shown in text and "The model was trained on 8 frames of 16x16 pixels" in text
