"""The pack's nodes, as the host asks for them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from .animatediff import LoadAnimateDiffModel
from .clip import EmptyVideoLatent, LoadMotionClip
from .configs import LoadOfficialConfig
from .host.checked import checked
from .host.clips import serve_clips
from .host.kept_reports import add_route
from .inversion import InvertClip
from .losses import AlignmentLoss, SpectralLoss
from .noise import MotionNoise
from .residuals import MotionResiduals
from .save import SaveMotionLoRA
from .sprites import LoadSpritesModel
from .text_to_video import LoadTextToVideoModel
from .train import TrainMotionLoRA
from .wear import LoadMotionLoRA

NODES = [
    checked(node)
    for node in (
        LoadMotionClip,
        EmptyVideoLatent,
        MotionResiduals,
        LoadSpritesModel,
        LoadTextToVideoModel,
        LoadAnimateDiffModel,
        AlignmentLoss,
        SpectralLoss,
        LoadOfficialConfig,
        TrainMotionLoRA,
        SaveMotionLoRA,
        LoadMotionLoRA,
        InvertClip,
        MotionNoise,
    )
]


class SpectralMotionExtension(ComfyExtension):
    @override
    async def on_load(self) -> None:
        serve_clips()
        add_route()

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SpectralMotionExtension:
    return SpectralMotionExtension()
