"""The rival: SMA's training loop on VMC's host loop, as the official code runs it, written anew on diffusers.

What it takes from there: float32 weights under float16 autocast with a gradient scaler, the network in training mode, every parameter
handed to AdamW of which only the queries, keys and values of temporal attention ever get a gradient, gradients clipped to 1,
checkpoints, VMC's cosine and both spectral losses in the official form against the clip transformed anew in every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.utils.checkpoint import checkpoint

from benchmarks.step_meter import WARM_UP, Meter
from benchmarks.step_networks import Size, clip_and_context, diffusers_network, random_weights
from sma.residuals import frame_residuals
from sma.spectral import OFFICIAL, GlobalTransform, LocalTransform

# Show-1's UNet, which the official loop trains, keeps the activations of temporal attention; MotionDirector's does not.
_SHOW1 = ("ResnetBlock2D", "TemporalConvLayer", "Transformer2DModel")
CHECKPOINTS = {"as Show-1": _SHOW1, "all": (*_SHOW1, "TransformerTemporalModel", "AnimateDiffTransformer3D")}
_TRAINED = {"zeroscope": "temp_attentions", "animatediff": "motion_modules"}


def measure(backbone: str, size: Size, contender: dict[str, Any], device: str, steps: int) -> dict[str, Any]:
    """Trains the warm-up and ``steps`` timed steps."""
    meter = Meter(device)
    clip, context = (x.to(device) for x in clip_and_context(size))
    if backbone == "animatediff":
        context = context.repeat_interleave(clip.shape[2], dim=0)  # one per frame
    network = _network(backbone, size, device)
    _checkpoint(network, CHECKPOINTS[contender["checkpoint"]])
    for name, module in network.named_modules():
        if _TRAINED[backbone] in name and name.endswith((".to_q", ".to_k", ".to_v")):
            module.requires_grad_(True)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=1e-2)
    mixed = device == "cuda"
    scaler = torch.amp.GradScaler(device, enabled=mixed)
    # Linear in sqrt(beta), what diffusers calls scaled_linear.
    alphas_cumprod = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, device=device) ** 2, 0)
    timesteps = torch.randint(1000, (WARM_UP + steps, 1), generator=torch.Generator().manual_seed(2)).to(device)

    def step(timestep: Tensor) -> float:
        noise = torch.randn_like(clip)
        alpha = alphas_cumprod[timestep]
        x_t = alpha.sqrt() * clip + (1 - alpha).sqrt() * noise
        with torch.autocast(device, torch.float16, enabled=mixed):
            predicted = network(x_t, timestep, encoder_hidden_states=context).sample
        predicted = predicted.float()
        cosine = cosine_similarity(
            frame_residuals(predicted, absolute=True), frame_residuals(noise, absolute=True), dim=2
        )
        x0_hat = (x_t - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
        loss = 1 - cosine.mean() + _spectral(clip, x0_hat)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss.item()

    meter.start()
    losses = []
    for timestep in timesteps:
        losses.append(step(timestep))
        meter.step()
    return {
        "step_seconds": meter.step_seconds,
        "peak_bytes": meter.peak_bytes,
        "weights_bytes": sum(parameter.nbytes for parameter in network.parameters()),
        "trained_values": sum(parameter.numel() for parameter in trained),
        "compute": "float16 autocast" if mixed else "float32",
        "losses": losses,
        # A step whose scaled gradient overflowed is skipped; AdamW's moments are there only after one that was not.
        "optimizer_steps": int(max((state["step"].item() for state in optimizer.state.values()), default=0)),
    }


def _network(backbone: str, size: Size, device: str) -> nn.Module:
    """As diffusers gives it, dropout included."""
    network = diffusers_network(backbone, size, device)
    network.load_state_dict(random_weights(network, torch.float32, device), strict=False)
    return network.train().requires_grad_(False)


def _checkpoint(network: nn.Module, kinds: tuple[str, ...]) -> None:
    """Lets modules of these classes run again in backward. diffusers' own switch does not reach its UNet3D blocks."""

    def checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)

    for module in network.modules():
        if type(module).__name__ in kinds:
            module.forward = checkpointed(module.forward)


def _spectral(clip: Tensor, x0_hat: Tensor) -> Tensor:
    amplitude, phase = LocalTransform.of(clip, OFFICIAL).compare(x0_hat)
    whole = GlobalTransform.of(clip, OFFICIAL).compare(x0_hat)
    return (OFFICIAL.global_weight * whole + OFFICIAL.local_weight * (amplitude + phase)).mean()
