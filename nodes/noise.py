"""Starting a new video from a clip: mixtures of its inverted noise with fresh noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from comfy_api.latest import io
from torch import Tensor

from ..sma import noise as starts
from ..sma.finite import check_finite
from .host.noise import fresh_noise, video_samples

BLEND = "blend (MotionDirector)"
LOW = "low frequencies (DMT)"
LOW_BLEND = "low frequencies, blended detail"
FOURIER = "Fourier mask"
BANDS = "temporal bands"
ALONE = "inverted alone (VMC)"


class MotionNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_MotionNoise",
            display_name="Motion Noise",
            category="Spectral Motion/make",
            description="Noise that begins with a clip's layout and motion, for SamplerCustomAdvanced in place of RandomNoise, over an empty "
            "latent as long as the clip. Of another width or height, the clip's part is resized.",
            search_aliases=["noise prior", "freeinit", "initial noise", "inverted noise", "noise blend", "dmt"],
            inputs=[
                io.Latent.Input("inverted", tooltip="From Invert Clip, made with the model that samples."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Of the fresh noise, which is that of RandomNoise with this seed.",
                ),
                io.DynamicCombo.Input(
                    "method",
                    options=_methods(),
                    tooltip="What comes from the clip; fresh noise is the rest. blend: a share of everything. low frequencies: coarse "
                    "layout of each frame. Fourier mask: coarse in space and slow in time. temporal bands: what changes slowly.",
                ),
                io.Boolean.Input(
                    "renormalise",
                    default=False,
                    tooltip="Brings each video back to unit variance, which resizing and all but blend and temporal bands lower. "
                    "Off as in the papers.",
                ),
            ],
            outputs=[io.Noise.Output(display_name="noise", tooltip="To SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, inverted: dict, seed: int, method: dict[str, Any], renormalise: bool) -> io.NodeOutput:
        samples = video_samples(inverted)
        if not samples.numel():
            raise ValueError("The inverted latent holds no value. Invert the clip again.")
        check_finite("The inverted latent", samples, "Invert the clip again.")
        widgets = {name: value for name, value in method.items() if name != "method"}
        return io.NodeOutput(_Start(seed, samples, _mixture(method["method"], **widgets), renormalise))


@dataclass(frozen=True)
class _Start:
    """What core calls a NOISE."""

    seed: int
    inverted: Tensor
    mix: Callable[[Tensor, Tensor], Tensor]
    renormalise: bool

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        noise = fresh_noise(input_latent, self.seed)
        mixed = self.mix(self.inverted, noise)
        return (starts.unit_variance(mixed) if self.renormalise else mixed).to(noise.dtype)


def _masked(inverted: Tensor, noise: Tensor, kind: starts.MaskKind, ds: float, dt: float) -> Tensor:
    return starts.mix_fft(inverted, noise, starts.frequency_mask(noise.shape, kind, ds, dt))


def _mixture(method: str, **widgets: Any) -> Callable[[Tensor, Tensor], Tensor]:
    functions = {
        BLEND: starts.blend,
        LOW: starts.swap_low_frequencies,
        LOW_BLEND: starts.blend_frequencies,
        FOURIER: _masked,
        BANDS: starts.mix_temporal_bands,
        ALONE: partial(starts.blend, p=1.0),
    }
    return partial(functions[method], **widgets)


def _share(input_id: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(input_id, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _methods() -> list[io.DynamicCombo.Option]:
    factor = io.Int.Input(
        "factor", default=4, min=1, max=64, tooltip="Low is what survives shrinking a frame this many times."
    )
    mask = [
        io.Combo.Input("kind", options=list(get_args(starts.MaskKind)), tooltip="Shape of the mask. ideal passes nearly everything."),
        _share("ds", 0.25, "Width in space: share of the spectrum that comes from the clip."),
        _share("dt", 0.25, "Width in time. 0 in either takes nothing from the clip."),
    ]  # fmt: skip
    levels = "Each level halves the rate of what comes from the clip: 1 keeps runs of 2 frames, 2 of 4, and so on."
    return [
        io.DynamicCombo.Option(BLEND, [_share("p", 0.5, "Share of the clip. 0 is fresh noise, 1 the clip alone.")]),
        io.DynamicCombo.Option(LOW, [factor]),
        io.DynamicCombo.Option(LOW_BLEND, [_share("p", 0.5, "Share of the clip in the detail."), factor]),
        io.DynamicCombo.Option(FOURIER, mask),
        io.DynamicCombo.Option(BANDS, [io.Int.Input("levels", default=1, min=1, max=8, tooltip=levels)]),
        io.DynamicCombo.Option(ALONE, []),
    ]
