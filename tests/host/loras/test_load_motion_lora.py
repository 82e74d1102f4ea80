"""Load Motion LoRA: what it applies equals the training-time forward, stacks exactly, and leaves the MODEL as it was."""

from __future__ import annotations

import gc

import pytest
import torch


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def merged(*loras: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One LoRA with the sum of the updates of several on the same layers: factors side by side."""
    keys = [key.removesuffix(".alpha") for key in loras[0] if key.endswith(".alpha")]
    tensors = {}
    for key in keys:
        scales = [float(lora[f"{key}.alpha"]) / len(lora[f"{key}.lora_A.weight"]) for lora in loras]
        tensors[f"{key}.lora_A.weight"] = torch.cat([lora[f"{key}.lora_A.weight"] for lora in loras])
        ups = [scale * lora[f"{key}.lora_B.weight"] for scale, lora in zip(scales, loras, strict=True)]
        tensors[f"{key}.lora_B.weight"] = torch.cat(ups, 1)
        tensors[f"{key}.alpha"] = torch.tensor(float(tensors[f"{key}.lora_A.weight"].shape[0]))
    return tensors


def test_bypass_is_the_training_time_forward_and_patching_rounds_once_more(case):
    trained, lora = case.trained()
    base = case.predict(case.model)
    assert distance(base, trained) > 1e-2
    assert torch.equal(case.predict(case.wear(lora, apply="bypass")), trained)
    assert distance(case.predict(case.wear(lora, apply="patch weights")), trained) <= 1e-4
    assert distance(case.predict(case.wear(lora)), trained) <= 1e-4
    assert torch.equal(case.predict(case.model), base)


def test_it_says_what_it_applied(case):
    lora = case.lora(rank=3)
    for apply, word in (("auto", "patched"), ("patch weights", "patched"), ("bypass", "bypassed")):
        case.wear(lora, apply=apply)
        assert case.said[-1] == f"{len(lora)} of {len(lora)} keys applied (ComfyUI format, rank 3, {word})"


@pytest.mark.parametrize("apply", ["patch weights", "bypass"])
def test_strength_scales_the_update(case, apply):
    lora = case.lora()
    doubled = {key: value * 2 if key.endswith("lora_B.weight") else value for key, value in lora.items()}
    twice = case.predict(case.wear(lora, strength=2.0, apply=apply))
    assert distance(twice, case.predict(case.wear(doubled, apply=apply))) <= 1e-5
    opposite = case.wear(lora, case.wear(lora, strength=-1.0, apply=apply), apply=apply)
    assert distance(case.predict(opposite), case.predict(case.model)) <= 1e-5
    assert case.wear(lora, strength=0.0) is case.model
    assert case.said[-1] == "strength is 0: nothing applied"


def test_two_bypassed_loras_add_up_where_the_hosts_replace_each_other(case):
    first, second = case.lora(seed=5), case.lora(seed=6)
    expected = case.predict(case.wear(merged(first, second), apply="bypass"))
    both = case.predict(case.wear(second, case.wear(first, apply="bypass"), apply="bypass"))
    assert distance(both, expected) <= 1e-5
    replaced = case.predict(case.core(second, case.core(first, bypass=True), bypass=True))
    assert distance(replaced, expected) > 1e-3
    assert distance(both, case.predict(case.wear(first, apply="bypass"))) > 1e-3
    assert distance(both, case.predict(case.wear(second, apply="bypass"))) > 1e-3


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_ours_and_the_hosts_patches_and_bypasses_mix(case, order):
    loras = [case.lora(seed=seed) for seed in range(4)]
    put_on = [
        lambda model: case.wear(loras[0], model, apply="patch weights"),
        lambda model: case.wear(loras[1], model, apply="bypass"),
        lambda model: case.core(loras[2], model),
        lambda model: case.core(loras[3], model, bypass=True),
    ]
    model = case.model
    for index in order:
        model = put_on[index](model)
    assert distance(case.predict(model), case.predict(case.wear(merged(*loras), apply="bypass"))) <= 1e-4


def test_prompt_and_negative_prompt_in_one_batch(case):
    lora = case.lora()
    bypassed = case.predict(case.wear(lora, apply="bypass"), cfg=3.0, batch=2)
    patched = case.predict(case.wear(lora, apply="patch weights"), cfg=3.0, batch=2)
    assert distance(bypassed, patched) <= 1e-4
    assert distance(bypassed, case.predict(case.model, cfg=3.0, batch=2)) > 1e-3


def test_hooks_are_there_while_the_model_is_loaded_and_never_after(case):
    import comfy.model_management as management

    assert case.hooks() == []
    worn = case.wear(case.lora(), apply="bypass")
    assert case.hooks() == []
    first = case.predict(worn)
    assert len(case.hooks()) == len(case.lora()) / 3 + 1  # and the host's model, which says who uses it
    management.unload_all_models()
    assert case.hooks() == []
    # Loaded again, and by a clone.
    assert torch.equal(case.predict(worn), first)
    assert torch.equal(case.predict(worn.clone()), first)
    base = case.predict(case.model)
    assert case.hooks() == []
    assert distance(base, first) > 1e-3


def test_a_model_dropped_while_loaded_leaves_nothing(case):
    base, lora = case.predict(case.model), case.lora()
    worn = case.wear(lora, apply="bypass")
    first = case.predict(worn)
    sibling = worn.clone()
    del worn
    gc.collect()
    assert torch.equal(case.predict(case.model), base)
    assert case.hooks() == []
    assert torch.equal(case.predict(sibling), first)
    del sibling
    gc.collect()
    assert case.hooks() == []


def test_clones_made_while_the_model_is_loaded_do_not_leak_into_it(case):
    first, second = case.lora(seed=5), case.lora(seed=6)
    worn = case.wear(first, apply="bypass")
    alone = case.predict(worn)
    both = case.wear(second, worn, apply="bypass")
    # The host takes injections off and puts them on again around this, on whatever network is loaded.
    case.core(case.lora(seed=7), both)
    both.model_state_dict()
    assert torch.equal(case.predict(worn), alone)
    base = case.predict(case.model)
    stale = case.core(case.lora(seed=7), worn.clone())
    case.core(case.lora(seed=8), stale)
    assert torch.equal(case.predict(case.model), base)
    assert torch.equal(case.predict(worn), alone)
    assert distance(case.predict(both), alone) > 1e-3


def test_a_clone_dropped_while_the_model_is_in_use_takes_nothing_off(case):
    """The host ejects in the name of every clone that it drops, also of those that only inherited the mark of a loaded MODEL."""
    worn = case.wear(case.lora(), apply="bypass")
    first, hooks = case.predict(worn), case.hooks()
    clone = worn.clone()
    assert hooks and clone.is_injected
    del clone
    gc.collect()
    assert case.hooks() == hooks
    assert torch.equal(case.predict(worn), first)


def test_a_layer_that_another_node_has_replaced_is_named_and_the_rest_stays_off(wan):
    worn = wan.wear(wan.lora(), apply="bypass")
    other = worn.clone()
    other.add_object_patch("diffusion_model.blocks.1.self_attn", torch.nn.Identity())
    with pytest.raises(ValueError, match=r"beside blocks\.1\.self_attn\.\w, and another node has put something else"):
        wan.predict(other)
    del other
    assert torch.equal(wan.predict(worn), wan.predict(wan.wear(wan.lora(), apply="bypass")))
    assert not torch.equal(wan.predict(worn), wan.predict(wan.model))


def test_training_through_a_model_that_wears_a_lora(case):
    """The worn LoRA is part of the model that is trained; checkpointed blocks see it again in backward."""
    worn_lora = case.lora(seed=5)
    roles, attach = case.host.module("sma.roles"), case.host.module("sma.lora").attach
    run = case.host.module("nodes.host.training").run_in_training

    def gradients(model, checkpoint):
        def job(denoiser):
            names = roles.layers_of(denoiser.network, "motion")[::2]
            adapter = attach(denoiser.network, names, rank=2, alpha=2, generator=torch.Generator().manual_seed(1))
            try:
                x = torch.randn(denoiser.clip.shape, generator=torch.Generator().manual_seed(7))
                answer = denoiser.denoise(x, torch.full((1,), denoiser.sigma_at(0.6)))
                answer.square().sum().backward()
                return answer.detach().clone(), [
                    value.grad.clone() for _, value in adapter.named_parameters() if "up" in _
                ]
            finally:
                adapter.detach()

        with torch.inference_mode():
            return run(model, case.latent, case.positive, job, seed=0, checkpoint=checkpoint)

    bypassed, patched = case.wear(worn_lora, apply="bypass"), case.wear(worn_lora, apply="patch weights")
    answer, through_bypass = gradients(bypassed, True)
    _, without_checkpoint = gradients(bypassed, False)
    _, through_patch = gradients(patched, True)
    _, bare = gradients(case.model, True)
    assert torch.equal(answer, case.predict(bypassed))
    scale = max(float(gradient.abs().max()) for gradient in through_bypass)
    for a, b, c in zip(through_bypass, without_checkpoint, through_patch, strict=True):
        assert distance(a, b) <= 1e-5 * scale
        assert distance(a, c) <= 1e-3 * scale
    assert max(distance(a, b) for a, b in zip(through_bypass, bare, strict=True)) > 1e-2 * scale
    assert case.hooks() != []  # still loaded
    case.predict(case.model)
    assert case.hooks() == []


def test_a_layer_that_is_asked_for_more_than_its_product_is_refused_by_name(wan, monkeypatch):
    """Newer hosts fuse what comes before and after a layer into its call, and say so by a keyword."""
    network = wan.model.model.diffusion_model
    layer, plain = network.blocks[0].self_attn.o, network.forward
    worn = wan.wear(wan.lora(), apply="bypass")

    def fused(*args, **kwargs):
        layer(torch.ones(1, 128), input_act="gelu_tanh")
        return plain(*args, **kwargs)

    with monkeypatch.context() as patch:
        # The host's own bypass, taken off, leaves the method it found on the layer itself.
        patch.setitem(vars(layer), "forward", lambda x, input_act=None: x)
        patch.setattr(network, "forward", fused)
        with pytest.raises(
            ValueError, match="0.self_attn.o is called with input_act beside its input.* Set apply to pat"
        ):
            wan.predict(worn)
    assert distance(wan.predict(worn), wan.predict(wan.model)) > 1e-3
