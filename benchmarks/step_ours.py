"""Ours: the loop that Train Motion LoRA runs, inside the real host, on an ordinary MODEL with random weights."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.step_meter import WARM_UP, Meter
from benchmarks.step_networks import Size, clip_and_context, diffusers_network, random_weights
from sma.networks.animatediff import frame_positions

ROOT = Path(__file__).resolve().parents[1]
_PACK = "spectral_motion"


def measure(backbone: str, size: Size, contender: dict[str, Any], device: str, steps: int) -> dict[str, Any]:
    """Trains the warm-up and ``steps`` timed steps."""
    with tempfile.TemporaryDirectory() as base:
        _enter_host(Path(base), device)
        # Nodes run in inference mode, and the host's loaders with them.
        with torch.inference_mode():
            return _measure(backbone, size, contender, device, steps)


def _measure(backbone: str, size: Size, contender: dict[str, Any], device: str, steps: int) -> dict[str, Any]:
    training, lora, plan, roles = (_pack(f"sma.{name}") for name in ("training", "lora", "plan", "roles"))
    run_in_training = _pack("nodes.host.training").run_in_training
    build = _BUILDERS[backbone]
    loss = _loss(contender["spectral"])
    meter = Meter(device)
    clip, context = clip_and_context(size)
    model = build(size, getattr(torch, contender["storage"]), device)
    result: dict[str, Any] = {}

    def job(host: Any) -> None:
        names = roles.layers_of(host.network, "motion")
        generator = torch.Generator().manual_seed(0)
        adapter = lora.attach(
            host.network, names, rank=size.rank, alpha=size.rank, generator=generator, device=host.clip.device
        )
        settings = plan.TrainingSettings(
            kind=host.kind, sigma_at=host.sigma_at, steps=WARM_UP + steps, learning_rate=5e-4
        )
        try:
            trained = training.train(
                host.denoise,
                host.clip,
                [plan.Phase(loss=loss)],
                adapter,
                settings,
                on_step=lambda _: meter.step(),
            )
        finally:
            adapter.detach()
        result["step_seconds"], result["peak_bytes"] = meter.step_seconds, meter.peak_bytes
        result["losses"] = [record.loss for record in trained.state.history]
        result["trained_values"] = sum(value.numel() for value in adapter.parameters())
        if contender["spectral"] == "repaired":
            result["spectral_seconds"] = _spectral_seconds(host.clip, meter, steps)

    meter.start()
    run_in_training(model, clip, [[context, {}]], job, seed=0, checkpoint=contender["checkpoint"] == "on")
    return {
        "weights_bytes": model.model_size(),
        "compute": str(model.model.manual_cast_dtype or model.model.get_dtype()).removeprefix("torch."),
        **result,
    }


def _spectral_seconds(clip: Tensor, meter: Meter, steps: int) -> list[float]:
    """What both spectral terms take by themselves, forward and backward to x0_hat."""
    prediction = _pack("sma.prediction").Prediction
    spectral = _pack("sma.losses").MotionLoss(_spectral_terms()).bind(clip)
    noise = torch.randn(clip.shape).to(clip)
    seconds = []
    for _ in range(1 + steps):
        x0_hat = (clip + 0.1 * noise).requires_grad_()
        said = prediction.from_denoised(clip, noise, clip + noise, 1.0, x0_hat, "eps")
        start = meter.now()
        spectral.total(said, torch.Generator()).mean().backward()
        seconds.append(meter.now() - start)
    return seconds[1:]


def _loss(spectral: str) -> Any:
    losses = _pack("sma.losses")
    plain = losses.MotionLoss((losses.WeightedTerm("denoising", 1.0, losses.Denoising()),))
    return plain if spectral == "off" else plain.with_terms(*_spectral_terms())


def _spectral_terms() -> Any:
    return _pack("sma.losses").spectral_terms(_pack("sma.spectral").REPAIRED)


def _enter_host(base: Path, device: str) -> None:
    """Makes the host importable, and loads the pack from this checkout under a name of its own, as the host does."""
    sys.path.append(str(ROOT / "scripts"))
    from environment import find_host

    # First, because the host owns top-level names such as `nodes`.
    sys.path.insert(0, str(find_host()))
    from comfy.cli_args import args

    # Read by the host while it is imported. Attention as on a GPU installation; on a CPU the host would choose another.
    args.cpu, args.base_directory, args.use_pytorch_cross_attention = device == "cpu", str(base), True
    spec = importlib.util.spec_from_file_location(_PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules[_PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[_PACK])


def _pack(name: str) -> ModuleType:
    return importlib.import_module(f"{_PACK}.{name}")


def _zeroscope(size: Size, dtype: torch.dtype, device: str) -> Any:
    return _diffusers_model("zeroscope", _pack("nodes.host.unet3d").HostUNet3D, size, dtype, device)


def _animatediff(size: Size, dtype: torch.dtype, device: str) -> Any:
    return _diffusers_model("animatediff", _pack("nodes.host.animatediff").HostUNetMotion, size, dtype, device)


def _diffusers_model(backbone: str, network: Any, size: Size, dtype: torch.dtype, device: str) -> Any:
    import comfy.model_base

    wrapped = _pack("nodes.host.wrapped")
    shapes = diffusers_network(backbone, size, "meta")
    weights = {name: value.cpu() for name, value in random_weights(shapes, dtype, device).items()}
    # Tables of frame positions, which are no parameters.
    positions = {name: frame_positions(*table.shape[1:]) for name, table in shapes.named_buffers()}
    return wrapped.model_from_network(
        network,
        weights | positions,
        size.network,
        # The host's "linear" is linear in sqrt(beta). AnimateDiff has another, which changes no time and no memory.
        {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000},
        comfy.model_base.ModelType.EPS,
        wrapped.SD15Video,
        backbone,
        _cannot_reload,
    )


def _wan(size: Size, dtype: torch.dtype, device: str) -> Any:
    import comfy.ops
    import comfy.sd
    from comfy.ldm.wan.model import WanModel

    shapes = WanModel(
        model_type="t2v", in_dim=16, out_dim=16, operations=comfy.ops.disable_weight_init, device="meta", **size.network
    )
    # Drawn in bfloat16, as the published file is; the host casts to the storage asked for.
    weights = {name: value.cpu() for name, value in random_weights(shapes, torch.bfloat16, device).items()}
    config = {"text_dim": size.context[1]}
    model = comfy.sd.load_diffusion_model_state_dict(
        weights, {"dtype": dtype}, metadata={"config": json.dumps({"transformer": config})}
    )
    model.cached_patcher_init = (_cannot_reload, ())
    return model


def _cannot_reload(*_: Any, **__: Any) -> Any:
    raise RuntimeError("These random weights are in no file; this process must not place weights dynamically.")


_BUILDERS: dict[str, Callable[[Size, torch.dtype, str], Any]] = {
    "zeroscope": _zeroscope,
    "animatediff": _animatediff,
    "wan1.3b": _wan,
}
