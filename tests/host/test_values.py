"""Every widget of every node takes only what it says that it takes, also where the value is linked."""

from __future__ import annotations

import asyncio
import math
import re

import pytest


@pytest.fixture(scope="module")
def schemas(host):
    extension = asyncio.run(host.module("nodes").comfy_entrypoint())
    return [node.GET_SCHEMA() for node in asyncio.run(extension.get_node_list())]


def _value(item):
    """One that an input takes, as far as its widget says."""
    if item.io_type == "COMFY_DYNAMICCOMBO_V3":
        return _chosen(item, item.options[0])
    options = getattr(item, "options", None)
    kinds = {"BOOLEAN": True, "STRING": "text"}
    default = getattr(item, "default", None)
    return options[0] if options else kinds.get(item.io_type, item.io_type) if default is None else default


def _chosen(item, option):
    return {item.id: option.key} | {inner.id: _value(inner) for inner in option.inputs}


def _all(schema):
    """Every input in force under some choice: what the node is given, where in it the input's value stands, and the input."""
    base = {item.id: _value(item) for item in schema.inputs}
    for item in schema.inputs:
        if item.io_type == "COMFY_DYNAMICCOMBO_V3":
            for option in item.options:
                for inner in option.inputs:
                    given = base | {item.id: _chosen(item, option)}
                    yield given, given[item.id], inner, f"{item.id}.{inner.id}"
        else:
            given = dict(base)
            yield given, given, item, item.id


def _refused(host, schema, given, name):
    with pytest.raises(ValueError) as caught:
        host.call(schema.node_id, **given)
    said = str(caught.value)
    assert said.startswith(f"{name} ") and "\n" not in said and len(said) < 400, said
    return said


def test_numbers_out_of_range_and_of_another_kind_are_refused_by_name(host, schemas):
    seen = 0
    for schema in schemas:
        for given, place, item, name in _all(schema):
            if item.io_type not in ("INT", "FLOAT"):
                continue
            step = 1 if item.io_type == "INT" else 0.5
            wrong = [math.nan, math.inf, -math.inf, item.min - step, item.max + step, 10**5000, True, "8", [1], {}, 1j]
            for value in (*wrong, *([1.5, 2.0**70] if item.io_type == "INT" else [])):
                place[item.id] = value
                said = _refused(host, schema, given, item.display_name or name)
                assert re.search(
                    r"; it needs a (whole )?number from -?[\d.e-]+ to [\d.]+\. Set it on the node\.$", said
                )
            seen += 1
    assert seen >= 50


def test_a_value_is_needed_where_one_is_required(host, schemas):
    seen = 0
    for schema in schemas:
        for given, place, item, name in _all(schema):
            if item.optional and item.io_type not in ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO"):
                continue
            place[item.id] = None
            said = _refused(host, schema, given, getattr(item, "display_name", None) or name)
            assert "has no value; it needs one" in said
            seen += 1
    assert seen > 90


def test_other_widgets_take_only_their_own_kind(host, schemas):
    for schema in schemas:
        for given, place, item, name in _all(schema):
            wrong = {"BOOLEAN": "yes", "STRING": 5, "COMBO": ["a"]}.get(item.io_type)
            if wrong is not None:
                place[item.id] = wrong
                _refused(host, schema, given, getattr(item, "display_name", None) or name)
    with pytest.raises(ValueError, match="^crop is 'left'; the choices are 'centre', 'stretch'. Choose one of them.$"):
        host.call(
            "SMA_LoadMotionClip",
            file="x.mp4",
            start=0.0,
            frame_count=8,
            timing={"timing": "fps", "fps": 8.0},
            width=32,
            height=32,
            crop="left",
            folder_fps=8.0,
        )


def test_text_has_bounds(host, schemas):
    seen = 0
    for schema in schemas:
        for given, place, item, name in _all(schema):
            if item.io_type in ("STRING", "COMBO"):
                place[item.id] = "x" * 20_001
                assert "20001 characters; 20000 are the most" in _refused(
                    host, schema, given, getattr(item, "display_name", None) or name
                )
                seen += 1
                place[item.id] = "a\0b"
                if item.io_type == "COMBO":
                    _refused(host, schema, given, getattr(item, "display_name", None) or name)
            if item.io_type == "STRING":
                place[item.id] = "half \udcff"
                assert "with half a character in it" in _refused(host, schema, given, name)
    assert seen > 20


def test_links_of_any_type_are_looked_at(host, schemas):
    seen = set()
    for schema in schemas:
        for given, place, item, _ in _all(schema):
            if item.io_type in (
                "MODEL",
                "VAE",
                "LATENT",
                "CONDITIONING",
                "LORA_MODEL",
                "MOTION_LOSS",
                "COMFY_MATCHTYPE_V3",
            ):
                others = ("samples", "text", {}, [], [["a", "b"]], {"samples": None}, 3, object())
                for value in others:
                    place[item.id] = value
                    with pytest.raises(
                        ValueError, match=r"^[\w.]+ is no [A-Z_]+[\w ]*\. Link a node that gives one\.$"
                    ):
                        host.call(schema.node_id, **given)
                seen.add(item.io_type)
    assert len(seen) == 7


def test_numbers_of_other_libraries_are_numbers(host):
    import numpy

    loss = host.call("SMA_AlignmentLoss", method={"method": "debiased (MotionDirector)", "beta": numpy.float32(2)})[0]
    assert loss.terms[1].term.beta == 2
