"""Gradients through AnimateDiff, and the LoRA they make, in the real host."""

from __future__ import annotations

import pytest
import torch
from descent import slopes


@pytest.mark.parametrize("checkpoint", [True, False])
def test_the_gradient_is_that_of_finite_differences(case, checkpoint):
    def job(denoiser):
        adapter = case.adapter_on(denoiser)
        values = adapter.parameters()
        with torch.no_grad():
            for name, value in adapter.named_parameters():
                if name.endswith(".up"):
                    value.normal_(std=0.1, generator=torch.Generator().manual_seed(6))
        case.loss(denoiser).backward()
        found = slopes(values, lambda: case.loss(denoiser))
        adapter.detach()
        return found

    slope, measured = case.inside(job, checkpoint=checkpoint)
    assert slope > 1e-3
    assert measured == pytest.approx(slope, rel=1e-3)


def test_checkpoints_keep_little_of_the_graph_and_change_no_gradient(case):
    def job(denoiser):
        adapter = case.adapter_on(denoiser)
        loss = case.loss(denoiser)
        seen, queue = set(), [loss.grad_fn]
        while queue:
            node = queue.pop()
            if node is not None and node not in seen:
                seen.add(node)
                queue += [behind for behind, _ in node.next_functions]
        loss.backward()
        adapter.detach()
        return len(seen), loss.item(), torch.cat([value.grad.flatten() for value in adapter.parameters()])

    kept, loss, gradient = case.inside(job)
    whole, plain_loss, plain_gradient = case.inside(job, checkpoint=False)
    assert kept < whole / 4
    assert loss == plain_loss
    torch.testing.assert_close(gradient, plain_gradient, rtol=1e-5, atol=1e-6 * float(plain_gradient.abs().max()))


def test_a_trained_lora_is_loaded_by_core_whole_and_samples_as_it_trained(host, case):
    import comfy.lora

    def train(denoiser):
        adapter = case.adapter_on(denoiser)
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=5e-2)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            losses.append(case.loss(denoiser))
            losses[-1].backward()
            optimizer.step()
        with torch.no_grad():
            worn = case.x0_hat(denoiser).clone()
        adapter.detach()
        return losses, worn, adapter.export("diffusion_model.")

    def forward(model):
        return case.inside(lambda denoiser: case.x0_hat(denoiser).detach().clone(), model=model)

    base = forward(case.model)
    losses, worn, lora = case.inside(train)
    assert losses[2] < losses[1] < losses[0]
    patches = comfy.lora.load_lora(dict(lora), comfy.lora.model_lora_keys_unet(case.model.model, {}))
    # 2 + 1 + 4 motion modules of one block each, 10 layers in a block; down and up of each.
    assert len(lora) == 2 * len(patches) == 2 * 10 * 7
    assert set(case.model.clone().add_patches(patches)) == set(patches)
    (patched,) = host.call("LoraModelLoader", model=case.model, lora=lora, strength_model=1.0)
    (bypassed,) = host.call("LoraModelLoader", model=case.model, lora=lora, strength_model=1.0, bypass=True)
    assert (worn - base).abs().max() > 1e-2
    assert (forward(patched) - worn).abs().max() <= 1e-4 * worn.abs().max()
    assert torch.equal(forward(bypassed), worn)
    assert torch.equal(forward(case.model), base)
