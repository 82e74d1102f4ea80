"""The roles of sma/roles.py on the host's own networks."""

from __future__ import annotations

import pytest

NATIVE = {"wan": "Wan", "wan_i2v": "Wan", "wan_5b": "Wan", "ltx": "LTX-Video", "hunyuan": "HunyuanVideo"}


@pytest.mark.parametrize("family", NATIVE)
def test_every_role_of_the_family_finds_its_layers(load, family):
    case = load(family)
    roles = case.host.module("sma.roles")

    def job(denoiser):
        network = denoiser.network
        found = roles.family_of(network)
        return found, {role: roles.layers_of(network, role) for role in (*found.roles, "motion", "everything")}

    found, layers = case.inside(job)
    assert found.name == NATIVE[family]
    assert sum(len(layers[role]) for role in found.roles) == len(layers["everything"])
    assert set(layers["motion"]) == {name for role in found.motion for name in layers[role]}
    assert all(layers.values())
