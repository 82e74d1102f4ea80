"""The pack starts with the real host, and nobody notices; test_oldest_host.py does the same on the oldest."""

from __future__ import annotations

import asyncio
import subprocess

import harness
from startup import assert_loaded_in_silence


def test_the_pack_loads_without_a_word(server):
    assert_loaded_in_silence(server)


def test_the_server_knows_every_node_of_the_pack(server, host):
    extension = asyncio.run(host.module("nodes").comfy_entrypoint())
    ids = {node.GET_SCHEMA().node_id for node in asyncio.run(extension.get_node_list())}
    assert ids and all(node_id.startswith("SMA_") for node_id in ids)
    assert {node_id for node_id in server.object_info() if node_id.startswith("SMA_")} == ids


def test_importing_the_pack_leaves_slow_libraries_alone():
    """In a fresh interpreter with the host's own imports done, as at start-up."""
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(harness.find_host())!r})
from comfy.cli_args import args
args.cpu = True
import nodes
before = set(sys.modules)
assert asyncio.run(nodes.load_custom_node({str(harness.ROOT)!r}))
print(*sorted(set(sys.modules) - before))
"""
    python, _ = harness.ensure_environment()
    new = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in new if name.partition(".")[0] in ("diffusers", "transformers")] == []
