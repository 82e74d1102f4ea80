"""Socket types the host does not have."""

from __future__ import annotations

from comfy_api.latest import io

MotionLossSocket = io.Custom("MOTION_LOSS")
