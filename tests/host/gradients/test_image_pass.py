"""The spatial part of the dual path: gradients of one frame, which UNets see without their temporal layers."""

from __future__ import annotations

import pytest
import torch
from descent import slopes


@pytest.mark.parametrize("family", ["sprites", "unet3d", "wan", "wan_5b", "ltx", "hunyuan"])
def test_gradients_of_a_frame_alone_agree_with_finite_differences_and_reach_the_looks_only(host, load, family):
    case = load(family)
    attach, roles = host.module("sma.lora").attach, host.module("sma.roles")
    image_pass = host.module("sma.image_pass").image_pass

    def job(denoiser):
        generator = torch.Generator().manual_seed(5)
        groups = {"temporal": roles.layers_of(denoiser.network, "motion")}
        groups["spatial 0"] = roles.layers_of(denoiser.network, "looks")
        names = list(dict.fromkeys([*groups["temporal"], *groups["spatial 0"]]))
        adapter = attach(denoiser.network, names, groups=groups, rank=2, alpha=2, generator=generator)
        with torch.no_grad():
            for name, value in adapter.named_parameters():
                if name.endswith(".up"):
                    value.normal_(std=0.1, generator=generator)
        adapter.enable(**{"temporal": False})
        x, target = (torch.randn(denoiser.clip[:, :, :1].shape, generator=generator) for _ in range(2))
        sigma = torch.full((1,), denoiser.sigma_at(0.6))

        def loss():
            return (denoiser.denoise(x, sigma).double() - target).square().mean()

        with image_pass(denoiser.network):
            loss().backward()
            values = adapter.parameters(["spatial 0"])
            assert all(value.grad is None for value in adapter.parameters(["temporal"]))
            values = [value for value in values if value.grad is not None]
            found = slopes(values, loss)
        adapter.detach()
        return found

    for each in (case, case.without_checkpoints()):
        slope, measured = each.inside(job)
        assert slope > 1e-3
        assert measured == pytest.approx(slope, rel=1e-3)
