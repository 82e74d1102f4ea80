"""The trainer: a clip's latent and a motion loss in, a motion LoRA out."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..sma import __version__, roles
from ..sma.files import MotionLoRA, load_state
from ..sma.lora import attach
from ..sma.losses import MotionLoss
from ..sma.training import Phase, TrainingSettings, train
from .host import paths
from .host.progress import say
from .host.training import HostDenoiser, run_in_training
from .training_run import TrainingRun
from .types import MotionLossSocket

NEW_RUN = "start anew"
BY_PATTERN = "regular expression"


class TrainMotionLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_TrainMotionLoRA",
            display_name="Train Motion LoRA",
            category="Spectral Motion/learn",
            description="Learns the motion of a clip as a small LoRA, through the loaded model itself: no copy of its "
            "weights, and the MODEL is unchanged afterwards. Cancel keeps the last good state for resume_from.",
            search_aliases=["motion transfer", "motion customization", "sma", "lora training"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The video model that learns. Any later MODEL of the same kind can wear the LoRA."
                ),
                io.Latent.Input("latent", tooltip="The clip, encoded by the VAE of this model."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the clip shows, without style and background: the LoRA learns what the words do not say.",
                ),
                MotionLossSocket.Input("motion_loss", tooltip="From Alignment Loss or Spectral Loss."),
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
                                    tooltip="Must match a module's whole name below diffusion_model.",
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
                    tooltip="Every so many steps, saves the LoRA under output/loras and the state for resume_from. "
                    "0: the state alone, on cancel or error.",
                ),
                io.Combo.Input(
                    "resume_from",
                    options=[NEW_RUN, *paths.saved_states()],
                    tooltip="Continues a run that was cancelled, failed or saved. Press R to refresh the list.",
                ),
                *_advanced_inputs(),
            ],
            outputs=[
                io.LoraModel.Output(
                    display_name="lora", tooltip="To Load LoRA Model, Save LoRA Weights or Save Motion LoRA."
                ),
                io.LossMap.Output(display_name="loss_map", tooltip="To Plot Loss Graph."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        latent: dict,
        positive: list,
        motion_loss: MotionLoss,
        layers: io.DynamicCombo.Type,
        rank: int,
        steps: int,
        learning_rate: float,
        seed: int,
        save_every: int,
        resume_from: str,
        batch_size: int,
        accumulation: int,
        dropout: float,
        warmup_steps: int,
        schedule: str,
        noise_low: float,
        noise_high: float,
        noise_bias: float,
        clip_norm: float,
        weight_decay: float,
        save_prefix: str,
    ) -> io.NodeOutput:
        state = None if resume_from == NEW_RUN else load_state(paths.state_path(resume_from))
        node_id = cls.hidden.unique_id

        def job(host: HostDenoiser) -> tuple[MotionLoRA, list[float]]:
            settings = TrainingSettings(
                kind=host.kind,
                sigma_at=host.sigma_at,
                steps=steps,
                learning_rate=learning_rate,
                batch_size=batch_size,
                accumulation=accumulation,
                warmup_steps=warmup_steps,
                schedule=schedule,
                level_range=(noise_low, noise_high),
                level_bias=noise_bias,
                clip_norm=clip_norm,
                weight_decay=weight_decay,
                seed=seed,
            )
            if layers["layers"] == BY_PATTERN:
                names = roles.matching(host.network, layers["pattern"])
            else:
                names = roles.layers_of(host.network, layers["layers"])
            generator = torch.Generator().manual_seed(seed)
            adapter = attach(
                host.network,
                names,
                rank=rank,
                alpha=rank,
                dropout=dropout,
                generator=generator,
                device=host.clip.device,
            )
            try:
                adapted = roles.describe(host.network, names, host.clip.shape[2])
                say(node_id, adapted)
                metadata = {
                    "method": "motion LoRA",
                    "base_model": type(model.model).__name__,
                    "adapted": adapted,
                    "layers": layers["layers"],
                    "rank": rank,
                    "learning_rate": learning_rate,
                    "seed": seed,
                    "losses": motion_loss.describe(),
                    "frames": host.clip.shape[2],
                    "spectral_motion": __version__,
                }
                first_step = state.step if state else 0
                run = TrainingRun(
                    node_id,
                    model,
                    adapter,
                    metadata,
                    steps=steps,
                    first_step=first_step,
                    save_every=save_every,
                    prefix=save_prefix,
                )
                phases = [Phase(motion_loss)]
                clips = host.clip.split(1)
                callbacks = {"on_step": run.on_step, "on_stop": run.on_stop}
                result = train(host.denoise, clips, phases, adapter, settings, state=state, **callbacks)
                return run.lora(result.state), [record.loss for record in result.state.history]
            finally:
                adapter.detach()

        lora, losses = run_in_training(model, latent["samples"], positive, job, seed=seed)
        return io.NodeOutput(lora, {"loss": losses})


def _advanced_inputs() -> list[io.Input]:
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
            default=0.4,
            min=0.05,
            max=10.0,
            step=0.05,
            advanced=True,
            tooltip="Noise levels are u^bias of a uniform u. Below 1 favours high noise, where motion is decided.",
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
            tooltip="File name prefix of what save_every, cancel and errors leave under output/.",
        ),
    ]
