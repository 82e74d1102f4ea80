"""The pack starts with the real host, the newest tested and the oldest supported one, and nobody notices."""

from __future__ import annotations

import asyncio
import re
import subprocess

import harness

PROBLEM = re.compile(r"WARNING|ERROR|Traceback|Exception|IMPORT FAILED")


def complaints(log: str) -> list[str]:
    """The records of a server log that report a problem and name the pack. A record may span lines (a traceback)."""
    records = re.split(r"\n(?=\S*\[(?:INFO|WARNING|ERROR)\])", log)
    return [record for record in records if "spectral-motion" in record and PROBLEM.search(record)]


def test_the_pack_loads_without_a_word(server):
    # Up to here it starts; later tests use the same server and make it complain.
    log, started, _ = server.log.read_text().partition("To see the GUI go to")
    assert started
    assert re.search(r"seconds: .*spectral-motion", log), "the host's list of import times does not name the pack"
    assert complaints(log) == []


def test_the_server_knows_every_node_of_the_pack(server, host):
    extension = asyncio.run(host.module("nodes").comfy_entrypoint())
    ids = {node.GET_SCHEMA().node_id for node in asyncio.run(extension.get_node_list())}
    assert ids and all(node_id.startswith("SMA_") for node_id in ids)
    assert {node_id for node_id in server.object_info() if node_id.startswith("SMA_")} == ids


def test_the_oldest_supported_host_loads_the_pack():
    project = (harness.ROOT / "pyproject.toml").read_text()
    oldest = re.search(r'^requires-comfyui = ">=(.*)"$', project, re.MULTILINE)[1]
    python, _ = harness.ensure_environment()
    with harness.serve(python, harness.find_host(oldest)) as client:
        assert client.get("/system_stats")["system"]["comfyui_version"] == oldest
        assert any(node_id.startswith("SMA_") for node_id in client.object_info())
        assert complaints(client.log.read_text()) == []


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
