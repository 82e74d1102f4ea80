"""What a motion adapter learns from: the alignment loss of a method, and Spectral Motion Alignment on top."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..sma.checks import shown
from ..sma.losses import Debiased, Denoising, MotionLoss, ResidualCosine, WeightedTerm, spectral_terms
from ..sma.spectral import OFFICIAL, OUTPUT, PAPER, REPAIRED, SpectralSettings
from .host.report import Report
from .types import MotionLossSocket

PRESETS = {"network output": OUTPUT, "repaired": REPAIRED, "paper": PAPER, "official code": OFFICIAL}
FORMS_OWN = -1.0


class AlignmentLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_AlignmentLoss",
            display_name="Alignment Loss",
            category="Spectral Motion/learn",
            description="How the model's prediction is pulled towards the clip. Start with 'denoising'.",
            search_aliases=["motion loss", "vmc", "motiondirector", "mse"],
            inputs=[
                io.DynamicCombo.Input(
                    "method",
                    tooltip="denoising: plain training. debiased: MotionDirector, takes one frame's appearance out of the error. "
                    "residual cosine: VMC, compares the directions of frame differences only.",
                    options=[
                        io.DynamicCombo.Option("denoising", []),
                        io.DynamicCombo.Option(
                            "debiased (MotionDirector)",
                            [
                                io.Float.Input(
                                    "beta",
                                    default=1.0,
                                    min=0.0,
                                    max=10.0,
                                    step=0.1,
                                    tooltip="How much of a random anchor frame is taken out of the error. The paper uses 1.",
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "residual cosine (VMC)",
                            [
                                io.Float.Input(
                                    "denoising_weight",
                                    default=1.0,
                                    min=0.0,
                                    max=100.0,
                                    step=0.1,
                                    tooltip="Weight of a denoising loss beside the cosine. VMC has 0; but a cosine alone does not see "
                                    "brightness and scale, and small models then drift into noise.",
                                ),
                                io.Combo.Input(
                                    "compare",
                                    options=["network output", "noise"],
                                    tooltip="VMC compares the noise. For v and flow models the network's own output is better: "
                                    "their noise says almost nothing at high noise, where motion is decided.",
                                ),
                                io.Combo.Input(
                                    "form",
                                    options=["code", "paper"],
                                    tooltip="code: absolute frame differences, one cosine per pixel along time. "
                                    "paper: signed differences, one cosine per pair of frames over all pixels.",
                                ),
                            ],
                        ),
                    ],
                ),
            ],
            outputs=[
                MotionLossSocket.Output(
                    display_name="motion_loss", tooltip="To Spectral Loss, or straight to Train Motion LoRA."
                )
            ],
        )

    @classmethod
    def execute(cls, method: io.DynamicCombo.Type) -> io.NodeOutput:
        denoising = WeightedTerm("denoising", 1.0, Denoising())
        if method["method"] == "denoising":
            return io.NodeOutput(MotionLoss((denoising,)))
        if method["method"] == "debiased (MotionDirector)":
            return io.NodeOutput(MotionLoss((denoising, WeightedTerm("debiased", 1.0, Debiased(method["beta"])))))
        code = method["form"] == "code"
        cosine = ResidualCosine(
            absolute=code,
            over="frames" if code else "pixels",
            space="output" if method["compare"] == "network output" else "noise",
        )
        terms = [WeightedTerm("residual_cosine", 1.0, cosine)]
        if method["denoising_weight"] > 0:
            terms.append(replace(denoising, weight=method["denoising_weight"]))
        return io.NodeOutput(MotionLoss(tuple(terms)))


class SpectralLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_SpectralLoss",
            display_name="Spectral Loss",
            category="Spectral Motion/learn",
            description="Adds Spectral Motion Alignment (arXiv 2403.15249): frame differences of the prediction are aligned with "
            "the clip's, over time by wavelets and over space by Fourier spectra.",
            search_aliases=["sma", "spectral motion alignment", "wavelet", "fourier"],
            inputs=[
                MotionLossSocket.Input("motion_loss", tooltip="What it is added to."),
                io.Float.Input(
                    "global_weight",
                    default=FORMS_OWN,
                    min=FORMS_OWN,
                    max=100.0,
                    step=0.01,
                    tooltip="Weight of the wavelet loss over time: motion of the whole clip. The papers' ld_global. -1: the form's own, 0.4, "
                    "and 0.04 on the network's output; beside denoising 0.4 slowed learning on the sprites model. 0 leaves it out.",
                ),
                io.Float.Input(
                    "local_weight",
                    default=FORMS_OWN,
                    min=FORMS_OWN,
                    max=100.0,
                    step=0.01,
                    tooltip="Weight of the Fourier loss over space: the shape of each frame difference. The papers' ld_local. -1: the form's "
                    "own, 0.2, and 0.02 on the network's output. 0 leaves it out.",
                ),
                io.DynamicCombo.Input(
                    "form",
                    tooltip="network output: the repaired form on what the network itself predicts; the one that did not slow learning on the "
                    "sprites model. repaired: on the clean estimate, signed differences, wrapped phase, resolution-independent. "
                    "paper: as arXiv 2403.15249 writes it. "
                    "official code: as the authors' code computes it. custom: every knob. Weights of -1 are the form's own; the node says them.",
                    options=[
                        *(io.DynamicCombo.Option(name, []) for name in PRESETS),
                        io.DynamicCombo.Option("custom", _knobs()),
                    ],
                ),
            ],
            outputs=[MotionLossSocket.Output(display_name="motion_loss", tooltip="To Train Motion LoRA.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls, motion_loss: MotionLoss, global_weight: float, local_weight: float, form: io.DynamicCombo.Type
    ) -> io.NodeOutput:
        settings = _custom(form) if form["form"] == "custom" else PRESETS[form["form"]]
        chosen = {"global_weight": global_weight, "local_weight": local_weight}
        for name, weight in chosen.items():
            if weight < 0 and weight != FORMS_OWN:
                raise ValueError(f"{name} is {weight:g}; set it to 0 or above, or to -1 for the form's own weight.")
        settings = replace(settings, **{name: weight for name, weight in chosen.items() if weight != FORMS_OWN})
        terms, share = spectral_terms(settings), form.get("share", 0.0)
        report = Report(cls.hidden.unique_id)
        report.tell(_in_force(settings, [name for name, weight in chosen.items() if weight == FORMS_OWN], share))
        motion_loss = motion_loss.with_terms(*terms)
        if share and terms:
            motion_loss = replace(motion_loss, spectral_share=share)
        return io.NodeOutput(motion_loss, ui=report.ui())


def _in_force(settings: SpectralSettings, own: list[str], share: float) -> str:
    """The weights that a training will have, and where they come from."""
    if not settings.global_weight and not settings.local_weight:
        return "global weight 0, local weight 0: nothing is added"
    origin = {0: "as set", 1: f"{''.join(own).replace('_', ' ')} the form's own", 2: "the form's own"}[len(own)]
    text = f"global weight {settings.global_weight:g}, local weight {settings.local_weight:g} ({origin})"
    return f"{text}, their proportion only: together scaled to a share of {share:g}" if share else text


def _custom(form: io.DynamicCombo.Type) -> SpectralSettings:
    """The knobs' settings, with the weights of the preset that compares the same."""
    weights = OUTPUT if form["space"] == "output" else REPAIRED
    return SpectralSettings(
        wave=form["wave"].strip(),
        levels=form["levels"] or None,
        level_weights=_numbers(form["level_weights"]),
        residual=form["residual"],
        phase=form["phase"],
        norm=form["norm"],
        delta=form["delta"],
        base=form["base"],
        zero_border=form["zero_border"],
        relative=form["relative"],
        extra_levels=form["extra_levels"],
        space=form["space"],
        sigma_weight=form["sigma_weight"],
        bands=form["bands"],
        global_weight=weights.global_weight,
        local_weight=weights.local_weight,
    )


def _knobs() -> list[io.Input]:
    return [
        io.String.Input(
            "wave", default="haar", tooltip="Wavelet over time: haar, db2, sym4, coif1, … any PyWavelets knows."
        ),
        io.Int.Input(
            "levels",
            default=0,
            min=0,
            max=16,
            tooltip="Wavelet levels, the papers' num_levels. 0 chooses by the number of latent frames: 8 frames 2, 16 frames 3.",
        ),
        io.String.Input(
            "level_weights",
            default="",
            tooltip="levels + 1 numbers with commas, approximation first, then details finest first; the papers' ld_levels. "
            "Empty: all 1.",
        ),
        io.Combo.Input(
            "residual",
            options=["signed", "absolute"],
            tooltip="Absolute differences (official code) cannot tell left from right.",
        ),
        io.Combo.Input(
            "phase", options=["wrapped", "raw"], tooltip="raw: angles are subtracted without wrapping (paper and code)."
        ),
        io.Combo.Input(
            "norm", options=["ortho", "backward"], tooltip="backward: unnormalised FFT; the loss grows with resolution."
        ),
        io.Float.Input(
            "delta",
            default=0.05,
            min=0.0,
            max=2.0,
            step=0.01,
            tooltip="How strongly low spatial frequencies weigh more.",
        ),
        io.Float.Input(
            "base", default=1.0, min=0.0, max=10.0, step=0.1, tooltip="Weight of the highest spatial frequency."
        ),
        io.Boolean.Input(
            "zero_border", default=False, tooltip="Leave the outermost row and column of the spectrum out (paper)."
        ),
        io.Boolean.Input(
            "relative",
            default=True,
            tooltip="Measure spectra against the clip's own amplitudes: the loss keeps its value over resolution (repaired).",
        ),
        io.Int.Input(
            "extra_levels",
            default=0,
            min=0,
            max=8,
            tooltip="Added to the levels chosen by the number of frames, where levels is 0. The paper has one more.",
        ),
        io.Combo.Input(
            "space",
            options=["x0_hat", "output"],
            tooltip="x0_hat: the clean estimate, as in the paper. output: what the network itself predicts (noise, v or velocity).",
        ),
        io.Combo.Input(
            "sigma_weight",
            options=["none", "signal"],
            tooltip="signal: high noise counts less, by the share of signal in the noised clip; the clean estimate is poor there. "
            "With share it only weighs the samples of one batch.",
        ),
        io.Combo.Input(
            "bands",
            options=["all", "low"],
            tooltip="low: slow changes only, the coarsest two bands of the wavelet loss.",
        ),
        io.Float.Input(
            "share",
            default=0.0,
            min=0.0,
            max=10.0,
            step=0.05,
            tooltip="Above 0: in every step the spectral gradient is scaled to this share of that of the other losses, so that no weight "
            "needs tuning; the two weights then set their proportion. Takes a second backward pass. 0: the weights as they are.",
        ),
    ]


def _numbers(text: str) -> tuple[float, ...] | None:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(float(part) for part in parts) or None
    except ValueError as error:
        raise ValueError(
            f"level_weights is {shown(text)}; it must be numbers with commas, such as 1, 1, 0.5."
        ) from error
