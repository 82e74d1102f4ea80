"""The UNet3D of ZeroScope, ModelScope and VideoCrafter2 as the host's MODEL."""

from __future__ import annotations

from ...sma.networks.unet3d import build_unet3d
from .wrapped import HostNetwork


class HostUNet3D(HostNetwork):
    build = staticmethod(build_unet3d)
    run_again = ("transformer_in", "resnets", "temp_convs", "attentions", "temp_attentions")
