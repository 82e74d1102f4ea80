"""Training a text-to-video UNet keeps little for backward, and gives the gradients of keeping all, at sizes that do not halve evenly too."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("side", [16, 13])
def test_parts_that_run_again_keep_little_and_change_no_gradient(host, loaded, contexts, side):
    run = host.module("nodes.host.training").run_in_training
    attach, layers_of = host.module("sma.lora").attach, host.module("sma.roles").layers_of
    latent = torch.randn(1, 4, 3, side, side, generator=torch.Generator().manual_seed(1))

    def job(denoiser):
        names = layers_of(denoiser.network, "everything")
        adapter = attach(denoiser.network, names, rank=2, alpha=2, generator=torch.Generator().manual_seed(5))
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                answer = denoiser.denoise(latent, torch.full((1,), denoiser.sigma_at(0.6)))
            answer.square().mean().backward()
            return sum(kept.values()), torch.cat([value.grad.flatten() for value in adapter.parameters()])
        finally:
            adapter.detach()

    with torch.inference_mode():
        little, gradient = run(loaded[0], latent, [[contexts[0], {}]], job, seed=0)
        much, expected = run(loaded[0], latent, [[contexts[0], {}]], job, seed=0, checkpoint=False)
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    assert little < much / 10
