"""A LoRA that has no part in the sampling is told on its node, by what its sampling shows."""

from __future__ import annotations

import pytest
import torch
from stand_in_nodes import computing


@pytest.fixture
def warnings(monkeypatch):
    """What the last report of each node warns of."""
    import server

    said = {}

    def on_event(event, data, sid=None):
        if event == "spectral_motion.report":
            said[data["node"]] = data["warnings"]

    monkeypatch.setattr(server.PromptServer.instance, "send_sync", on_event)
    return lambda: [text for texts in said.values() for text in texts]


@pytest.mark.parametrize("how", [{"apply": "bypass"}, {"start_percent": 0.5}, {"first_frame": 1, "end_percent": 0.6}])
def test_nothing_is_said_where_all_of_it_was_there(case, warnings, how):
    worn = case.wear(case.lora(seed=1), case.wear(case.lora(), **how))
    case.predict(worn, (0.1, 0.55, 0.9), cfg=3.0, batch=2)
    case.predict(worn.clone(), (0.9,))
    assert warnings() == []


@pytest.mark.parametrize("apply", ["patch weights", "bypass"])
def test_compiled_networks_and_lowvram_are_no_reason_to_warn(wan, warnings, apply):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    worn = wan.wear(wan.lora(), apply=apply)
    compiled = worn.clone()
    set_torch_compile_wrapper(compiled, backend="eager", keys=["diffusion_model.blocks.0"])
    wan.predict(compiled)
    wan.predict(wan.wear(wan.lora(seed=6), compiled, apply=apply))
    torch._dynamo.reset()
    worn.partially_unload(worn.offload_device, 10**9)
    wan.predict(worn)
    assert warnings() == []


def test_layers_that_no_step_calls_are_told(wan, warnings, monkeypatch):
    only_q = {key: value for key, value in wan.lora().items() if "0.self_attn.q" in key}
    attention = wan.model.model.diffusion_model.blocks[0].self_attn
    one, all_of_it = wan.wear(only_q, apply="bypass"), wan.wear(wan.lora(), apply="bypass")
    with monkeypatch.context() as patch:
        patch.setattr(attention, "forward", computing(attention))
        assert torch.equal(wan.predict(one), wan.predict(wan.model))
        (text,) = warnings()
        assert text.startswith(
            "The LoRA changed nothing in the last sampling: 1 of the 1 layers it is computed beside were not called, for example "
            "blocks.0.self_attn.q. Another node may compute them in its own way: set apply to patch weights."
        )
        wan.predict(all_of_it)
        (text,) = warnings()
        assert text.startswith("A part of the LoRA changed nothing in the last sampling: 4 of the 8 layers")
    # The same MODEL in a later prompt, without the node that did that.
    import comfy_execution.utils as utils

    with utils.CurrentNodeContext("another prompt", "9", 0):
        wan.predict(all_of_it)
    assert warnings() == []


def test_a_range_is_judged_by_the_steps_inside_it(wan, warnings, monkeypatch):
    only_q = {key: value for key, value in wan.lora().items() if "0.self_attn.q" in key}
    attention = wan.model.model.diffusion_model.blocks[0].self_attn
    worn = wan.wear(only_q, start_percent=0.5)
    monkeypatch.setattr(attention, "forward", computing(attention))
    wan.predict(worn, (0.1, 0.4))
    assert warnings() == []
    wan.predict(worn, (0.1, 0.4, 0.6))
    assert len(warnings()) == 1


def test_a_warning_of_one_sampler_stays_though_another_of_the_same_prompt_has_none(wan, warnings, monkeypatch):
    import comfy_execution.utils as utils

    attention = wan.model.model.diffusion_model.blocks[0].self_attn
    worn = wan.wear(wan.lora(), apply="bypass")
    with utils.CurrentNodeContext("prompt", "9", 0):
        with monkeypatch.context() as patch:
            patch.setattr(attention, "forward", computing(attention))
            wan.predict(worn)
        wan.predict(worn)
    assert len(warnings()) == 1


def test_weights_that_the_host_does_not_patch_are_told(wan, warnings):
    """Compiled blocks that a node puts into a MODEL behind the LoRA: the host looks for the weights under their old names."""
    lora = {key: value for key, value in wan.lora().items() if "blocks.0" in key}
    worn = wan.wear(lora, apply="patch weights")
    key = "diffusion_model.blocks.0"
    worn.add_object_patch(key, torch.compile(worn.get_model_object(key), backend="eager"))
    assert torch.equal(wan.predict(worn), wan.predict(wan.model))
    torch._dynamo.reset()
    (text,) = warnings()
    count = len(lora) // 3
    assert text == (
        f"The LoRA changed nothing in the last sampling: {count} of the {count} weights it is added to were not patched, for example "
        "diffusion_model.blocks.0.self_attn.q.weight. Another node has put something in their place: set apply to bypass. "
        "Or ComfyUI patches no parameters of their kind."
    )


@pytest.mark.parametrize(("size", "lost"), [(1e-9, True), (0.05, False)])
def test_updates_lost_in_rounding_are_told(make_case, wan_file, warnings, size, lost):
    import comfy.sd

    case = make_case(comfy.sd.load_diffusion_model(str(wan_file), model_options={"dtype": torch.bfloat16}))
    lora = case.lora(strength=size)
    answer = case.predict(case.wear(lora, apply="patch weights"))
    assert torch.equal(answer, case.predict(case.model)) == lost
    text = (
        "The LoRA changed nothing in the last sampling: its updates are lost in the rounding of the model's bfloat16 weights. "
        "Raise strength, or set apply to bypass."
    )
    assert warnings() == [text] * lost


def test_training_through_a_worn_lora_is_no_reason_to_warn(case, warnings):
    case.trained(model=case.wear(case.lora(), apply="bypass"))
    assert warnings() == []


def test_calls_that_a_caching_node_skips_are_no_reason_to_warn(wan, warnings):
    """EasyCache answers a step from earlier ones; here the first inside the range is such a step."""
    from comfy.patcher_extension import WrappersMP

    worn = wan.wear(wan.lora(), start_percent=0.5).clone()
    skipped = float(worn.get_model_object("model_sampling").percent_to_sigma(0.6))

    def skip(executor, x, *args, **kwargs):
        near = abs(float(args[-1]["sigmas"][0]) - skipped) < 1e-4
        return x if near else executor(x, *args, **kwargs)

    worn.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "skip", skip)
    wan.predict(worn, (0.1, 0.6, 0.8))
    assert warnings() == []
    wan.predict(worn, (0.1, 0.6))
    assert len(warnings()) == 1
