"""Spectral Loss in the real host: whose weights are in force, and that it says so."""

from __future__ import annotations

import pytest

PAPERS, TENTH = (0.4, 0.2), (0.04, 0.02)


@pytest.fixture
def align(host):
    """align(form, global_weight, local_weight) -> (motion loss, what stays on the node)."""
    from comfy_api.latest import io

    (plain,) = host.call("SMA_AlignmentLoss", method={"method": "denoising"})
    node = host.node("SMA_SpectralLoss")

    def run(form="paper", global_weight=None, local_weight=None, **knobs):
        clone = node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "1"}})
        inputs = {item.id: item for item in node.GET_SCHEMA().inputs}
        chosen = {"global_weight": global_weight, "local_weight": local_weight}
        weights = {name: inputs[name].default if weight is None else weight for name, weight in chosen.items()}
        output = clone.execute(
            motion_loss=plain, form={"form": form} | untouched(inputs["form"], form) | knobs, **weights
        )
        return output.result[0], output.ui

    return run


def untouched(form, name):
    """An option's own inputs as the page first shows them."""
    (option,) = [option for option in form.options if option.key == name]
    return {item.id: item.options[0] if item.io_type == "COMBO" else item.default for item in option.inputs}


def weights(loss):
    return {term.name: term.weight for term in loss.terms if term.name != "denoising"}


def pair(over_time, over_space):
    return {"spectral_global": over_time, "spectral_local": over_space}


@pytest.mark.parametrize(
    ("form", "own"),
    [
        ("paper", PAPERS),
        ("official code", PAPERS),
        ("repaired", PAPERS),
        ("network output", TENTH),
        ("custom", PAPERS),
    ],
)
def test_an_untouched_form_brings_its_own_weights_and_says_them(align, form, own):
    loss, ui = align(form)
    assert weights(loss) == pair(*own)
    assert ui["report"] == [f"global weight {own[0]:g}, local weight {own[1]:g} (the form's own)"]
    assert "-1" not in str(loss.describe())
    (described, _) = loss.describe()[1:]
    assert (described["global_weight"], described["local_weight"]) == own


def test_custom_on_the_networks_output_has_that_forms_weights(align):
    loss, _ = align("custom", space="output")
    assert weights(loss) == pair(*TENTH)


@pytest.mark.parametrize("form", ["paper", "network output"])
def test_weights_of_saved_workflows_stay(align, form):
    for kept in (PAPERS, TENTH):
        loss, ui = align(form, *kept)
        assert weights(loss) == pair(*kept)
        assert ui["report"] == [f"global weight {kept[0]:g}, local weight {kept[1]:g} (as set)"]


def test_one_weight_may_be_set_alone(align):
    loss, ui = align("paper", 0.1)
    assert weights(loss) == pair(0.1, 0.2)
    assert ui["report"] == ["global weight 0.1, local weight 0.2 (local weight the form's own)"]
    loss, _ = align("paper", local_weight=0.0)
    assert weights(loss) == {"spectral_global": 0.4}


def test_weights_of_0_add_nothing_and_say_so(align):
    loss, ui = align("custom", 0.0, 0.0, share=0.3)
    assert (weights(loss), loss.spectral_share) == ({}, None)
    assert ui["report"] == ["global weight 0, local weight 0: nothing is added"]


def test_a_share_turns_the_weights_into_a_proportion(align):
    loss, ui = align("custom", share=0.3)
    assert (weights(loss), loss.spectral_share) == (pair(*PAPERS), 0.3)
    assert ui["report"][0].endswith("(the form's own), their proportion only: together scaled to a share of 0.3")


@pytest.mark.parametrize(("name", "value"), [("global_weight", -0.5), ("local_weight", -0.01)])
def test_weights_between_are_refused(align, name, value):
    with pytest.raises(
        ValueError, match=f"{name} is {value}; set it to 0 or above, or to -1 for the form's own weight"
    ):
        align("paper", **{name: value})
