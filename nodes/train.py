"""The trainer: a clip's latent and a motion loss in, a motion LoRA out."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..sma import __version__, roles
from ..sma.files import MotionLoRA, load_state, state_about
from ..sma.lora import attach
from ..sma.losses import MotionLoss
from ..sma.training import Phase, TrainingSettings, train
from .host import paths
from .host.graph import fps_behind, prompt_behind
from .host.progress import say
from .host.training import HostDenoiser, run_in_training
from .training_inputs import BY_PATTERN, NEW_RUN, advanced_inputs, main_inputs, model_inputs
from .training_run import TrainingRun


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
            inputs=[*model_inputs(), *main_inputs(), *advanced_inputs()],
            outputs=[
                io.LoraModel.Output(
                    display_name="lora", tooltip="To Load LoRA Model, Save LoRA Weights or Save Motion LoRA."
                ),
                io.LossMap.Output(display_name="loss_map", tooltip="To Plot Loss Graph."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
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
        checkpointing: bool,
    ) -> io.NodeOutput:
        state_file = None if resume_from == NEW_RUN else paths.state_path(resume_from)
        state = load_state(state_file) if state_file else None
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
                adapted = roles.describe(host.network, names, host.clip.shape[2], host.frames)
                say(node_id, adapted)
                metadata = {
                    "method": " + ".join(term.name for term in motion_loss.terms),
                    "losses": motion_loss.describe(),
                    "base_model": type(model.model).__name__,
                    "prompt": prompt_behind(cls.hidden.prompt, node_id, "positive"),
                    "fps": fps_behind(cls.hidden.prompt, node_id, "latent"),
                    "frames": host.frames,
                    "latent_frames": host.clip.shape[2],
                    "adapted": adapted,
                    "layers": layers["layers"],
                    "rank": rank,
                    "dropout": dropout,
                    "learning_rate": learning_rate,
                    "schedule": schedule,
                    "warmup_steps": warmup_steps,
                    "batch_size": batch_size,
                    "accumulation": accumulation,
                    "clip_norm": clip_norm,
                    "weight_decay": weight_decay,
                    "noise": [noise_low, noise_high, noise_bias],
                    "seed": seed,
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
                if state_file:
                    run.resumed(resume_from, state_about(state_file))
                result = train(
                    host.denoise,
                    host.clip.split(1),
                    [Phase(loss=motion_loss)],
                    adapter,
                    settings,
                    masks=None if host.mask is None else host.mask.split(1),
                    state=state,
                    on_step=run.on_step,
                    on_stop=run.on_stop,
                )
                return run.lora(result.state), [record.loss for record in result.state.history]
            finally:
                adapter.detach()

        mask = latent.get("noise_mask")
        lora, losses = run_in_training(
            model, latent["samples"], positive, job, seed=seed, noise_mask=mask, checkpoint=checkpointing
        )
        return io.NodeOutput(lora, {"loss": losses})
