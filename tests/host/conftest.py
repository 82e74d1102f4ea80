"""Fixtures for tests against a real ComfyUI: `server` is a process of its own, `host` lives in this one."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The host owns a top-level module called `nodes`; with the repository on the path ours would be found instead.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
sys.path += [str(ROOT / "scripts"), str(Path(__file__).parent)]

import harness  # noqa: E402
from listening import listen  # noqa: E402


@pytest.fixture(scope="session")
def server() -> Iterator[harness.Client]:
    """A running ComfyUI with the pack installed as a user has it; the value is its client (`run`, `queue`, ...)."""
    python, host = harness.ensure_environment()
    with harness.serve(python, host) as client:
        yield client


class Host:
    """The host's modules and the pack, imported into this process as the host itself imports them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.pack_name = str(ROOT).replace(".", "_x_")

    def node(self, node_id: str) -> type:
        """A node class by id, the host's own or ours."""
        import nodes

        return nodes.NODE_CLASS_MAPPINGS[node_id]

    def module(self, name: str) -> ModuleType:
        """A module of the pack, such as module("sma.training"): the very one its nodes use."""
        return importlib.import_module(f"{self.pack_name}.{name}")

    def call(self, node: str | type, **inputs: Any) -> tuple:
        """Run a node, given by id or class, as the host does: locked clone, inference mode. Returns its outputs."""
        import torch
        from comfy_api.internal import make_locked_method_func
        from comfy_api.latest import io
        from comfy_execution.utils import CurrentNodeContext

        node_class = self.node(node) if isinstance(node, str) else node
        with torch.inference_mode(), CurrentNodeContext("prompt", "1", 0):
            if not hasattr(node_class, "PREPARE_CLASS_CLONE"):
                return getattr(node_class(), node_class.FUNCTION)(**inputs)
            node_class.VALIDATE_CLASS()
            clone = node_class.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "1"}})
            output = make_locked_method_func(node_class, node_class.FUNCTION, clone)(**inputs)
            if inspect.isawaitable(output):
                output = asyncio.run(_awaited(output))
        return output.result or ()


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _fake_server() -> SimpleNamespace:
    """What nodes reach through PromptServer.instance, doing nothing."""
    from aiohttp import web

    return SimpleNamespace(
        routes=web.RouteTableDef(),
        client_id=None,
        last_node_id=None,
        last_prompt_id=None,
        sockets_metadata={},
        send_sync=lambda *args, **kwargs: None,
        send_progress_text=lambda *args, **kwargs: None,
    )


@pytest.fixture
def said(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines that nodes write under themselves while a test runs, newest last."""
    return listen(monkeypatch)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The real host on CPU in this process, without a web server, with the pack loaded from this checkout."""
    return load_host(tmp_path_factory.mktemp("base"))


def load_host(base: Path) -> Host:
    """Imports the host with this base directory and the pack; once in a process."""
    for name in ("custom_nodes", "models", "input", "output", "user"):
        (base / name).mkdir(exist_ok=True)
    sys.path.insert(0, str(harness.find_host()))
    from comfy.cli_args import args

    # Read by the host while it is imported: they must be set before folder_paths and model_management are.
    args.cpu, args.base_directory, args.use_pytorch_cross_attention = True, str(base), True

    import server

    import nodes

    server.PromptServer.instance = _fake_server()
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    assert asyncio.run(nodes.load_custom_node(str(ROOT))), "the host could not load the pack; see the log above"
    return Host(base)
