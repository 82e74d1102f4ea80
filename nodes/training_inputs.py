"""Inputs of Train Motion LoRA. Saved workflows hold widget values by position: new inputs go to the end."""

from __future__ import annotations

from comfy_api.latest import io

from ..sma import roles
from .host import paths
from .host.lists import Offered, offered
from .types import MotionLossSocket

NEW_RUN = "start anew"
BY_PATTERN = "regular expression"
ONE_MODEL = "one model for all noise"
ONE_ADAPTER, DUAL_PATH = "one adapter", "dual path (MotionDirector)"
LORA, FULL = "LoRA", "full weights (VMC)"


def _resumable() -> Offered:
    return Offered([NEW_RUN, *offered("output/spectral_motion", paths.saved_states, hint=False)])


def model_inputs() -> list[io.Input]:
    """What is linked."""
    return [
        io.Model.Input(
            "model", tooltip="The video model that learns. Any later MODEL of the same kind can wear the LoRA."
        ),
        io.Latent.Input(
            "latent",
            tooltip="The clip, encoded by the VAE of this model. With a noise mask, every loss looks inside it only.",
        ),
        io.Conditioning.Input(
            "positive",
            tooltip="What the clip shows, without style and background: the LoRA learns what the words do not say.",
        ),
        MotionLossSocket.Input("motion_loss", tooltip="From Alignment Loss or Spectral Loss."),
    ]


def main_inputs() -> list[io.Input]:
    """What everybody sets."""
    return [
        io.DynamicCombo.Input(
            "layers",
            tooltip="Which layers learn. motion: those where this kind of model keeps motion.",
            options=[
                *(io.DynamicCombo.Option(role, []) for role in roles.ROLES),
                io.DynamicCombo.Option(
                    BY_PATTERN,
                    [
                        io.String.Input(
                            "pattern",
                            default=r".*attn.*",
                            tooltip="Must match a module's whole name below diffusion_model. At most 2000 characters; no references back.",
                        )
                    ],
                ),
            ],
        ),
        io.Int.Input(
            "rank",
            default=8,
            min=1,
            max=1024,
            tooltip="Size of the LoRA. Its alpha equals the rank, so strength 1 is as trained.",
        ),
        io.Int.Input(
            "steps", default=300, min=1, max=100_000, tooltip="Optimizer steps in all, resumed ones included."
        ),
        io.Float.Input(
            "learning_rate",
            default=5e-4,
            min=1e-7,
            max=1.0,
            step=1e-6,
            round=False,
            tooltip="AdamW's. 1e-4 to 5e-4 for large models, 6e-3 for sprites.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="Of the LoRA's initial values, noise and noise levels. Same seed, same LoRA.",
        ),
        io.Int.Input(
            "save_every",
            default=0,
            min=0,
            max=100_000,
            tooltip="The finished LoRA is always saved under output/loras. Above 0: also every so many steps, each time and at the end with the "
            "state for resume_from, to train on with more steps. 0: a state on cancel or error alone.",
        ),
        io.Combo.Input(
            "resume_from",
            options=_resumable(),
            tooltip="Continues a run that was cancelled, failed or saved. Press R to refresh the list.",
        ),
    ]


def advanced_inputs() -> list[io.Input]:
    """What few people set; the page folds it away."""
    return [
        io.Int.Input(
            "batch_size", default=1, min=1, max=64, advanced=True, tooltip="Noised copies of the clip per forward."
        ),
        io.Int.Input("accumulation", default=1, min=1, max=64, advanced=True, tooltip="Forwards per optimizer step."),
        io.Float.Input(
            "dropout",
            default=0.0,
            min=0.0,
            max=0.9,
            step=0.05,
            advanced=True,
            tooltip="Share of the LoRA's output dropped while training. MotionDirector has 0.1.",
        ),
        io.Int.Input(
            "warmup_steps",
            default=0,
            min=0,
            max=10_000,
            advanced=True,
            tooltip="Steps over which the learning rate rises from 0.",
        ),
        io.Combo.Input(
            "schedule",
            options=["constant", "cosine"],
            advanced=True,
            tooltip="Learning rate after the warm-up; cosine falls to 0 at the last step.",
        ),
        io.Float.Input(
            "noise_low",
            default=0.01,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="Lowest noise level trained, as a share of the model's schedule: 0 is clean.",
        ),
        io.Float.Input(
            "noise_high",
            default=0.99,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="Highest noise level trained: 1 is pure noise.",
        ),
        io.Float.Input(
            "noise_bias",
            default=0.0,
            min=0.0,
            max=10.0,
            step=0.05,
            advanced=True,
            tooltip="Noise levels are u^bias of a uniform u. Below 1 favours high noise, where motion is decided. 0: automatic, 1 for flow "
            "models, whose own shift favours high noise already, and 0.4 for the others. The node says the median sigma.",
        ),
        io.Float.Input(
            "clip_norm",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.1,
            advanced=True,
            tooltip="Gradient norm limit over the trained values; 0 is none.",
        ),
        io.Float.Input(
            "weight_decay", default=0.0, min=0.0, max=1.0, step=0.001, advanced=True, tooltip="AdamW's weight decay."
        ),
        io.String.Input(
            "save_prefix",
            default="motion",
            advanced=True,
            tooltip="File name prefix of LoRAs and states under output/.",
        ),
        io.Boolean.Input(
            "checkpointing",
            default=True,
            advanced=True,
            tooltip="Runs each transformer block again in backward instead of keeping its activations: far less memory, "
            "about a third more time. No effect on sprites.",
        ),
    ]


def later_inputs() -> list[io.Input]:
    """What was added since the first release; optional, so that prompts in API format saved before still run."""
    return [
        io.Combo.Input(
            "expert",
            options=[ONE_MODEL, "high noise", "low noise"],
            optional=True,
            tooltip="Wan 2.2 comes as two models, one for high noise and one for low. Say which one is connected: it learns "
            "at the noise it will see, and its files are named after it. One Train node for each trains both.",
        ),
        io.Float.Input(
            "expert_boundary",
            default=0.0,
            min=0.0,
            max=0.999,
            step=0.005,
            optional=True,
            advanced=True,
            tooltip="Sigma at which the low noise expert takes over. 0: as Wan 2.2 was trained, 0.875 for text-to-video and "
            "0.9 for image-to-video.",
        ),
        io.String.Input(
            "blocks",
            default="",
            optional=True,
            advanced=True,
            tooltip="Only layers of these transformer blocks learn, such as 0-9, 20-29. Empty: those of all blocks. "
            "HunyuanVideo's single blocks are numbered on from its double blocks.",
        ),
        io.Combo.Input(
            "method",
            options=[ONE_ADAPTER, DUAL_PATH],
            optional=True,
            tooltip="dual path: beside the LoRA of motion another one for each clip learns from single frames how it looks, so that "
            "motion is what is left to learn. The output is the LoRA of motion alone; with save_every above 0 the others are saved beside it.",
        ),
        io.Combo.Input(
            "adapter",
            options=[LORA, FULL],
            optional=True,
            advanced=True,
            tooltip="full weights: what is learned is a difference of each layer's whole weight, as VMC has it; rank is not used. Choose "
            "few layers: it takes seven times their float32 size in memory, and the file their size.",
        ),
    ]
