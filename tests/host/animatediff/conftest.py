"""A tiny AnimateDiff in the real host, and diffusers' own network of the same random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_animatediff as tiny
import torch


class Case:
    """A model of the tiny folder and a motion module, and diffusers' network of the same weights."""

    def __init__(self, host: Any, motion_module: str, adapter: tuple[dict, dict], form: str) -> None:
        self.host = host
        self.module = host.module("nodes.host.animatediff")
        self.motion_module = motion_module
        self.adapter = adapter
        self.base = self.module.Folder("tiny-sd15")
        with torch.inference_mode():
            self.model = self.module.load_model(self.base, motion_module, group_norm=form)

    def stored(self, dtype: torch.dtype) -> Any:
        with torch.inference_mode():
            return self.module.load_model(self.base, self.motion_module, dtype)

    def diffusers(self) -> torch.nn.Module:
        from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

        unet = UNet2DConditionModel.from_config(dict(tiny.UNET2D))
        unet.load_state_dict(tiny.random_weights(unet, 1))
        adapter = MotionAdapter.from_config(dict(self.adapter[0]))
        adapter.load_state_dict(self.adapter[1])
        return UNetMotionModel.from_unet2d(unet, adapter).eval()

    def inside(self, job: Any, *, model: Any = None, checkpoint: bool = True) -> Any:
        run = self.host.module("nodes.host.training").run_in_training
        with torch.inference_mode():
            latent = tiny.video(seed=4)
            return run(model or self.model, latent, tiny.conditioning(5), job, seed=0, checkpoint=checkpoint)

    def adapter_on(self, denoiser: Any) -> Any:
        attach = self.host.module("sma.lora").attach
        names = self.host.module("sma.roles").layers_of(denoiser.network, "motion")
        return attach(denoiser.network, names, rank=2, alpha=2, generator=torch.Generator().manual_seed(5))

    def x0_hat(self, denoiser: Any) -> torch.Tensor:
        return denoiser.denoise(tiny.video(seed=7), torch.full((1,), denoiser.sigma_at(0.6)))

    def loss(self, denoiser: Any) -> torch.Tensor:
        return (self.x0_hat(denoiser).double() - tiny.video(seed=8)).square().mean()


@pytest.fixture(scope="session")
def models(host) -> Path:
    models = Path(host.base) / "models"
    tiny.write_folder(models, "tiny-sd15")
    return models


@pytest.fixture(scope="session")
def load(host, models) -> Callable[..., Case]:
    """load(name, config, weights, form=...) -> Case: what the writers of motion modules return, and whose group norms it computes."""
    return lambda name, *adapter, form="original": Case(host, name, adapter, form)


@pytest.fixture(scope="session")
def case(models, load) -> Case:
    return load(*tiny.write_motion_module(models, "v2", tiny.WIDTHS))


@pytest.fixture(scope="session")
def as_diffusers(models, load) -> Case:
    return load(*tiny.write_motion_module(models, "v2", tiny.WIDTHS), form="diffusers")


@pytest.fixture(scope="session")
def checkpoint(host, models) -> dict[str, torch.Tensor]:
    """The UNet of a whole SD 1.5 checkpoint."""
    return tiny.write_checkpoint(models)
