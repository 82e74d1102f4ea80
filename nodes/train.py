"""The trainer: a clip's latent and a motion loss in, a motion LoRA out."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from comfy_api.latest import io

from ..sma import __version__, roles
from ..sma.files import MotionLoRA, load_state, state_about
from ..sma.finite import check_state
from ..sma.image_pass import image_pass
from ..sma.lora import attach
from ..sma.losses import MotionLoss
from ..sma.outcome import outcome
from ..sma.training import train
from .host import paths
from .host.animatediff import group_norm_of
from .host.graph import fps_behind, prompt_behind
from .host.loss_map import loss_map
from .host.memory import estimate
from .host.report import Report
from .host.training import HostDenoiser, run_in_training
from .training_inputs import FULL, NEW_RUN, advanced_inputs, later_inputs, main_inputs, model_inputs
from .training_options import TrainingOptions
from .training_plan import plan_of
from .training_run import TrainingRun
from .training_warnings import tell_after, warn_before


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
            inputs=[*model_inputs(), *main_inputs(), *advanced_inputs(), *later_inputs()],
            outputs=[
                io.LoraModel.Output(
                    display_name="lora", tooltip="To Load LoRA Model, Save LoRA Weights or Save Motion LoRA."
                ),
                io.LossMap.Output(
                    display_name="loss_map",
                    tooltip="To Plot Loss Graph, which is left out where all losses are the same, as after one step.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, model, latent: dict, positive: list, motion_loss: MotionLoss, **widgets: Any) -> io.NodeOutput:
        report = Report(cls.hidden.unique_id)
        options = TrainingOptions(**widgets)
        state_file = None if options.resume_from == NEW_RUN else paths.state_path(options.resume_from)
        state = load_state(state_file) if state_file else None
        if state is not None:
            check_state(state, options.resume_from)
        node_id = cls.hidden.unique_id

        def job(host: HostDenoiser) -> tuple[MotionLoRA, list[float]]:
            latent_frames = host.clip.shape[2]
            roles.check_frames(host.network, latent_frames)
            plan = plan_of(options, host.network, len(host.clip), motion_loss)
            settings = options.settings(host.network, host.kind, host.sigma_at, plan.resting)
            adapter = attach(
                host.network,
                plan.layers,
                groups=plan.groups,
                kind="full" if options.adapter == FULL else "lora",
                rank=options.rank,
                alpha=options.rank,
                dropout=options.dropout,
                generator=torch.Generator().manual_seed(options.seed),
                device=host.clip.device,
            )
            try:
                described = roles.describe(host.network, plan.motion_layers, latent_frames, host.frames)
                adapted = ", ".join(filter(None, [described, plan.describe(), options.describe_expert(settings)]))
                metadata = {
                    "method": " + ".join(term.name for term in motion_loss.terms),
                    "losses": motion_loss.describe(),
                    "base_model": type(model.model).__name__,
                    "group_norm": group_norm_of(model),
                    "prompt": prompt_behind(cls.hidden.prompt, node_id, "positive"),
                    "fps": fps_behind(cls.hidden.prompt, node_id, "latent"),
                    "frames": host.frames,
                    "latent_frames": latent_frames,
                    "adapted": adapted,
                    "spectral_motion": __version__,
                }
                run = TrainingRun(
                    report,
                    model,
                    adapter,
                    metadata | options.recorded(settings),
                    steps=options.steps,
                    first_step=state.step if state else 0,
                    save_every=options.save_every,
                    prefix=options.prefix,
                    motion=plan.motion,
                    beside=plan.beside,
                )
                memory = estimate(host, adapter, batch=options.batch_size, checkpoint=options.checkpointing)
                report.tell(f"{adapted}; {options.describe_noise(settings)}; {memory}")
                warn_before(report, model, host, positive, memory)
                if state_file:
                    run.resumed(options.resume_from, state_about(state_file))
                clips = host.clip.split(1)
                masks = None if host.mask is None else host.mask.split(1)
                if masks is not None:
                    report.tell(
                        f"The losses look at {host.mask.mean():.0%} of the clip, where the noise mask is above 0"
                    )
                with image_pass(host.network) if plan.beside else nullcontext():
                    result = train(
                        host.denoisers,
                        clips,
                        plan.phases,
                        adapter,
                        settings,
                        masks=masks,
                        state=state,
                        on_step=run.on_step,
                        on_stop=run.on_stop,
                    )
                run.idle(result.idle)
                lora = run.lora(result.state)
                found = outcome(host.denoisers, clips, plan.phases[-1], adapter, settings, masks=masks)
                tell_after(report, found)
                return lora, [record.loss for record in result.state.history]
            finally:
                adapter.detach()

        lora, losses = run_in_training(
            model,
            latent["samples"],
            positive,
            job,
            seed=options.seed,
            noise_mask=latent.get("noise_mask"),
            checkpoint=options.checkpointing,
        )
        return io.NodeOutput(lora, loss_map(losses), ui=report.ui())
