"""What every node of the pack promises to a user who hovers over it, and to workflows saved with it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def schemas(host):
    extension = asyncio.run(host.module("nodes").comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    schemas = [node.GET_SCHEMA() for node in nodes]
    return {schema.node_id: schema for schema in schemas}


def widgets(inputs):
    """Every input, and those that an option of a DynamicCombo brings along."""
    for item in inputs:
        yield item
        for option in getattr(item, "options", None) or []:
            yield from widgets(getattr(option, "inputs", []))


def test_ids_are_prefixed_and_unique(host, schemas):
    extension = asyncio.run(host.module("nodes").comfy_entrypoint())
    assert len(asyncio.run(extension.get_node_list())) == len(schemas) >= 8
    assert all(node_id.startswith("SMA_") for node_id in schemas)


def test_everything_explains_itself(schemas):
    for node_id, schema in schemas.items():
        assert schema.description and schema.display_name and schema.search_aliases, node_id
        assert schema.category.startswith("Spectral Motion/"), node_id
        for item in (*widgets(schema.inputs), *schema.outputs):
            assert item.tooltip, f"{node_id}: {item.id or item.display_name} has no tooltip"


def test_no_workflow_uses_more_than_five_of_our_nodes_and_two_more_for_its_noise(schemas):
    for path in (ROOT / "workflows").glob("*.json"):
        types = [node["type"] for node in json.loads(path.read_text())["nodes"]]
        ours = [name for name in types if name.startswith("SMA_")]
        noise = [name for name in ours if name in ("SMA_InvertClip", "SMA_MotionNoise")]
        assert len(noise) in (0, 2) and 0 < len(ours) - len(noise) <= 5, path.name
        assert set(ours) <= set(schemas), path.name
        assert path.with_suffix(".jpg").is_file(), f"{path.name} has no thumbnail"


def test_sizes_of_integers_and_floats_are_bounded(schemas):
    for node_id, schema in schemas.items():
        for item in widgets(schema.inputs):
            if item.io_type in ("INT", "FLOAT"):
                assert item.min is not None and item.max is not None, f"{node_id}: {item.id}"
                assert item.min <= item.default <= item.max, f"{node_id}: {item.id}"


def test_no_seed_changes_by_itself(schemas):
    """A run after a run with nothing changed must find everything in the cache."""
    seeds = {
        node_id: item
        for node_id, schema in schemas.items()
        for item in widgets(schema.inputs)
        if item.io_type == "INT" and (getattr(item, "control_after_generate", None) or "seed" in item.id)
    }
    assert set(seeds) == {"SMA_TrainMotionLoRA", "SMA_MotionNoise"}
    for node_id, seed in seeds.items():
        assert getattr(seed.control_after_generate, "value", seed.control_after_generate) == "fixed", node_id


def test_no_template_holds_a_seed_that_changes_by_itself():
    """The page keeps what becomes of a seed as the widget value behind it."""
    held = [
        (path.name, node["type"], value)
        for path in (ROOT / "workflows").glob("*.json")
        for node in json.loads(path.read_text())["nodes"]
        for value in node.get("widgets_values") or ()
        if value in ("fixed", "randomize", "increment", "decrement")
    ]
    assert len(held) >= 2 * len(list((ROOT / "workflows").glob("*.json")))
    assert {value for *_, value in held} == {"fixed"}


def test_templates_leave_weights_to_the_form_and_the_noise_bias_to_the_model():
    """But where a method's authors drew all noise levels alike."""
    for path in (ROOT / "tests" / "workflows").glob("*.json"):
        for node in json.loads(path.read_text()).values():
            if node["class_type"] == "SMA_SpectralLoss":
                assert (node["inputs"]["global_weight"], node["inputs"]["local_weight"]) == (-1, -1), path.name
            if node["class_type"] == "SMA_TrainMotionLoRA":
                published = path.name in ("zeroscope-vmc.api.json", "zeroscope-motiondirector.api.json")
                assert node["inputs"]["noise_bias"] == (1 if published else 0), path.name


def test_help_pages_belong_to_nodes(schemas):
    pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
    assert "SMA_TrainMotionLoRA" in pages <= set(schemas)


def test_an_unknown_choice_is_refused_in_a_sentence(host, schemas):
    """The host drops what it does not know of a DynamicCombo, and runs the node without it."""
    from comfy_api.latest import io

    def given(item, key):
        """What the host makes of a choice, with all that belongs to it."""
        (option,) = [option for option in item.options if option.key == key]
        inner = {i.id: given(i, i.options[0].key) if isinstance(i, io.DynamicCombo.Input) else 1 for i in option.inputs}
        return {item.id: key} | inner

    seen = 0
    for node_id, schema in schemas.items():
        combos = [item for item in schema.inputs if isinstance(item, io.DynamicCombo.Input)]
        for item in combos:
            others = {other.id: given(other, other.options[0].key) for other in combos if other is not item}
            keys = [option.key for option in item.options]
            wrong = [{}, {item.id: {item.id: None}}, {item.id: {item.id: "foo"}}]
            for group in wrong:
                choose = re.escape(f"; the choices are {', '.join(map(repr, keys))}. Choose one of them.")
                with pytest.raises(ValueError, match=f"^{item.id} .*{choose}$"):
                    host.call(node_id, **others, **group)
            with pytest.raises(ValueError, match=f"^{item.id} is linked, .* Choose it on the node.$"):
                host.call(node_id, **others, **{item.id: keys[0]})
            for option in item.options:
                for inner in option.inputs:
                    lacking = given(item, option.key)
                    del lacking[inner.id]
                    with pytest.raises(ValueError, match=f"lacks {inner.id}. Give {item.id}.{inner.id} a value.$"):
                        host.call(node_id, **others, **{item.id: lacking})
            seen += 1
    assert seen >= 8


def test_losses_come_out_as_asked(host):
    def loss(**method):
        return host.call("SMA_AlignmentLoss", method=method)[0]

    def terms(motion_loss):
        return {term.name: (term.weight, term.term) for term in motion_loss.terms}

    losses, spectral = host.module("sma.losses"), host.module("sma.spectral")
    assert terms(loss(method="denoising")) == {"denoising": (1.0, losses.Denoising())}
    debiased = terms(loss(method="debiased (MotionDirector)", beta=2.0))
    assert debiased == {"denoising": (1.0, losses.Denoising()), "debiased": (1.0, losses.Debiased(2.0))}
    vmc = dict(method="residual cosine (VMC)", denoising_weight=0.0, compare="noise", form="code")
    cosine = losses.ResidualCosine(absolute=True, over="frames", space="noise")
    assert terms(loss(**vmc)) == {"residual_cosine": (1.0, cosine)}
    cosine = losses.ResidualCosine(absolute=False, over="pixels", space="output")
    vmc = vmc | {"denoising_weight": 0.5, "compare": "network output", "form": "paper"}
    assert terms(loss(**vmc)) == {"residual_cosine": (1.0, cosine), "denoising": (0.5, losses.Denoising())}

    shares = []

    def aligned(**form):
        plain = loss(method="denoising")
        (result,) = host.call("SMA_SpectralLoss", motion_loss=plain, global_weight=0.3, local_weight=0.1, form=form)
        shares.append(result.spectral_share)
        return result.terms[1].term.settings

    weights = {"global_weight": 0.3, "local_weight": 0.1}
    from dataclasses import replace

    assert aligned(form="network output") == replace(spectral.OUTPUT, **weights)
    assert aligned(form="repaired") == replace(spectral.REPAIRED, **weights)
    assert aligned(form="paper") == replace(spectral.PAPER, **weights)
    assert aligned(form="official code") == replace(spectral.OFFICIAL, **weights)
    custom = {
        "wave": " db2 ",
        "levels": 2,
        "level_weights": "1, 0.5,2",
        "residual": "absolute",
        "phase": "raw",
        "norm": "backward",
        "delta": 0.2,
        "base": 0.5,
        "zero_border": True,
        "relative": False,
        "extra_levels": 3,
        "space": "output",
        "sigma_weight": "signal",
        "bands": "low",
        "share": 0.3,
    }
    settings = aligned(form="custom", **custom)
    assert (settings.wave, settings.levels, settings.level_weights) == ("db2", 2, (1.0, 0.5, 2.0))
    assert (settings.residual, settings.phase, settings.norm) == ("absolute", "raw", "backward")
    assert (settings.delta, settings.base, settings.zero_border) == (0.2, 0.5, True)
    assert (settings.relative, settings.extra_levels) == (False, 3)
    assert (settings.space, settings.sigma_weight, settings.bands) == ("output", "signal", "low")
    assert shares == [None, None, None, None, 0.3]
    none = {"motion_loss": loss(method="denoising"), "global_weight": 0.0, "local_weight": 0.0}
    (without,) = host.call("SMA_SpectralLoss", **none, form={"form": "custom"} | custom)
    assert without.spectral_share is None
    (form,) = [item for item in host.node("SMA_SpectralLoss").GET_SCHEMA().inputs if item.id == "form"]
    untouched = {item.id: item.default for item in form.options[-1].inputs}
    combos = {item.id: item.options for item in form.options[-1].inputs if hasattr(item, "options")}
    assert aligned(form="custom", **untouched | {name: options[0] for name, options in combos.items()}) == replace(
        spectral.REPAIRED, **weights
    )
    assert shares[-1] is None
    with pytest.raises(ValueError, match="numbers with commas"):
        aligned(form="custom", **custom | {"level_weights": "1; 2"})
    with pytest.raises(ValueError, match="nonsense"):
        aligned(form="custom", **custom | {"wave": "nonsense"})
