"""Whose statistics AnimateDiff's group norms take: those of each frame, or of all frames of a video together.

The programs that run motion modules differ in it, on the same weights. One frame is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .requirement import require

# Whose answer is computed.
ORIGINAL, EVOLVED, DIFFUSERS = FORMS = ("original", "AnimateDiff-Evolved", "diffusers")

# The lists of modules whose norms take all frames together, by form and version. The norm before the output goes with the ResNets.
_OVER_FRAMES = {
    # Its inference-v1.yaml has use_inflated_groupnorm false, those of v2 and v3 true; transformers fold the frames away in all three.
    (ORIGINAL, "v1"): ("resnets",),
    # For v1 it replaces the forward of every group norm there is.
    (EVOLVED, "v1"): ("resnets", "attentions", "motion_modules"),
    (DIFFUSERS, "v1"): ("motion_modules",),
    (DIFFUSERS, "v2"): ("motion_modules",),
    (DIFFUSERS, "v3"): ("motion_modules",),
}
_IN_WORDS = {
    (): "each frame by itself",
    ("resnets",): "ResNets over all frames, motion modules each frame by itself",
    ("motion_modules",): "motion modules over all frames, the rest each frame by itself",
    ("resnets", "attentions", "motion_modules"): "all frames together",
}


def module_version(config: Mapping[str, Any]) -> str:
    """Tell which of AnimateDiff's three releases a motion module is of: "v1", "v2" or "v3".

    config: of a MotionAdapter or a UNetMotionModel. v2 has a motion module in the middle, v3 places 32 frames without one, and v1 24, as
    AnimateDiff-Evolved tells them apart. A v1 that was converted to a MotionAdapter of 32 frames counts as v3.
    """
    if config["use_motion_mid_block"]:
        return "v2"
    return "v3" if config["motion_max_seq_length"] == 32 else "v1"


def norms_over_frames(config: Mapping[str, Any], form: str = ORIGINAL) -> tuple[str, ...]:
    """Name the lists of modules whose group norms take all frames of a video together, of "resnets", "attentions", "motion_modules".

    config: as in :func:`module_version`. form: one of FORMS.

    Raises:
        ValueError: an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"There is no group norm as {form!r}. Choose one of {', '.join(FORMS)}.")
    return _OVER_FRAMES.get((form, module_version(config)), ())


def describe_norms(config: Mapping[str, Any], form: str) -> str:
    """Say in a line how the group norms work, e.g. "group norm as original (v3): each frame by itself"."""
    words = _IN_WORDS[norms_over_frames(config, form)]
    return f"group norm as {form} ({module_version(config)}): {words}"


def normalise(network: nn.Module, over_frames: tuple[str, ...]) -> None:
    """Make the group norms of diffusers' UNetMotionModel take the frames together where they should, and nowhere else, in place.

    Only classes change: weights, keys and the operations they come from stay.

    Args:
        network: as diffusers computes it. It is given [B, C, F, H, W] first.
        over_frames: see :func:`norms_over_frames`.
    """
    motion_transformer = require("diffusers.models.unets.unet_motion_model", "AnimateDiff").AnimateDiffTransformer3D
    clip = _Clip()
    for name, module in list(network.named_modules()):
        place = name.split(".")[-2:-1]
        if isinstance(module, motion_transformer):
            if "motion_modules" not in over_frames:
                _become(module.norm, forward=_each_frame)
        elif place == ["resnets"] and "resnets" in over_frames:
            _with_frames(module, clip, module.norm1, module.norm2)
        elif place == ["attentions"] and "attentions" in over_frames:
            _with_frames(module, clip, module.norm)
    if "resnets" in over_frames:
        _over_frames(network.conv_norm_out, clip)
        network.clip = clip
        _become(network, forward=_count_frames)


class _Clip:
    """How many frames of one video follow one another in what the image layers are given now."""

    frames = 1


def _become(module: nn.Module, **methods: Any) -> None:
    """Gives a module's class methods of its own, each made from the class before."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {name: make(kind) for name, make in methods.items()})


def _each_frame(kind: type) -> Any:
    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, F, H, W] -> the same shape."""
        frames = x.transpose(1, 2)
        return kind.forward(self, frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)

    return forward


def _over_frames(norm: nn.Module, clip: _Clip) -> None:
    norm.clip = clip
    _become(norm, forward=_all_frames)


def _all_frames(kind: type) -> Any:
    def forward(self, x: Tensor) -> Tensor:
        """x [B*F, C, H, W] -> the same shape."""
        videos = x.unflatten(0, (-1, self.clip.frames)).transpose(1, 2)
        return kind.forward(self, videos).transpose(1, 2).flatten(0, 1)

    return forward


def _with_frames(module: nn.Module, clip: _Clip, *norms: nn.Module) -> None:
    """Lets a module's norms know the number of frames, also where it runs again in backward: it then is given what it was given."""
    for norm in norms:
        _over_frames(norm, clip)
    module.clip = clip
    _become(module, __call__=_pass_frames, forward=_take_frames)


def _pass_frames(kind: type) -> Any:
    def call(self, *args: Any, **kwargs: Any) -> Any:
        return kind.__call__(self, *args, frames=self.clip.frames, **kwargs)

    return call


def _take_frames(kind: type) -> Any:
    def forward(self, *args: Any, frames: int, **kwargs: Any) -> Any:
        self.clip.frames = frames
        return kind.forward(self, *args, **kwargs)

    return forward


def _count_frames(kind: type) -> Any:
    def forward(self, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.clip.frames = sample.shape[2]
        return kind.forward(self, sample, *args, **kwargs)

    return forward
