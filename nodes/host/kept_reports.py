"""The last report of every node, kept by the server: a page that is reloaded or opened later asks for those of its workflow.

Neither the host nor the page keeps them all. The host's history lacks nodes that were cancelled or failed, and what a run in progress has
said; a page keeps nothing over a reload. A node is known by the id of its workflow, which the page sends with every prompt, and by its
own execution id ("1:2" inside a subgraph): the same node ids occur in every workflow.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Any

from aiohttp import web
from comfy_execution.utils import get_executing_context
from server import PromptServer

logger = logging.getLogger(__name__)

EVENT = "spectral_motion.report"
ROUTE = "/spectral_motion/reports/{workflow}"
# A few hundred bytes each.
_MOST = 1000

_kept: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
_later: OrderedDict[str, list[str]] = OrderedDict()
_lock = threading.Lock()


def show(node_id: str, payload: dict[str, list[str]]) -> None:
    """Sends a node's report so far to every open page, and keeps it.

    Args:
        node_id: execution id of the node.
        payload: ``{"report": [...], "warnings": [...]}``.
    """
    server = PromptServer.instance
    prompt_id, workflow, node = _running(server, node_id)
    entry = {"node": node_id, **_about(node), "prompt": prompt_id, "workflow": workflow, **payload}
    if workflow is not None:
        with _lock:
            _kept[workflow, node_id] = entry
            _kept.move_to_end((workflow, node_id))
            while len(_kept) > _MOST:
                _kept.popitem(last=False)
    # To all pages: one that was opened during the run is not the client that queued it.
    server.send_sync(EVENT, entry)


def keep_later(report_id: str, warnings: list[str]) -> bool:
    """Keeps warnings of a node's result that come after its run, in place of earlier ones; whether that changes anything.

    The host's cache holds what the node said during its run; these are added to that wherever it is shown again.

    Args:
        report_id: as in the node's output.
    """
    with _lock:
        if _later.get(report_id, []) == warnings:
            return False
        _later[report_id] = list(warnings)
        _later.move_to_end(report_id)
        while len(_later) > _MOST:
            _later.popitem(last=False)
    return True


def of_workflow(workflow: str) -> dict[str, dict[str, Any]]:
    """The last reports of a workflow's nodes: node id -> entry as the event has it.

    A node whose result came from the host's cache said nothing anew; the host's history holds the report that was shown again.
    """
    with _lock:
        kept = {node: entry for (owner, node), entry in _kept.items() if owner == workflow}
    last: dict[str, dict[str, Any]] = {}
    done = set()
    for prompt_id, job in PromptServer.instance.prompt_queue.get_history(map_function=_job).items():
        if job["workflow"] != workflow:
            continue
        done.add(prompt_id)
        last |= {node: entry for node, entry in kept.items() if entry["prompt"] == prompt_id}
        for node, output in job["outputs"].items():
            if "report" in output and "warnings" in output and node in job["nodes"]:
                later = [text for report_id in output.get("report_id", ()) for text in _later.get(report_id, ())]
                said = {"report": output["report"], "warnings": [*output["warnings"], *later]}
                about = _about(job["nodes"][node])
                last[node] = {"node": node, **about, "prompt": prompt_id, "workflow": workflow, **said}
    return last | {node: entry for node, entry in kept.items() if entry["prompt"] not in done}


def add_route() -> None:
    """Lets pages ask for the reports of a workflow by ROUTE; called once, while the host loads its nodes.

    Nothing is done where the pack is loaded without a server. Where another copy of the pack has added the route,
    its answer stays: with two of one path the host does not start.
    """
    routes = getattr(getattr(PromptServer, "instance", None), "routes", None)
    if routes is None:
        return
    if any(route.path == ROUTE for route in routes):
        logger.warning("Spectral Motion is installed twice; remove one of its folders from custom_nodes.")
        return

    @routes.get(ROUTE)
    async def reports(request: web.Request) -> web.Response:
        return web.json_response(of_workflow(request.match_info["workflow"]))


def _running(server: PromptServer, node_id: str) -> tuple[str | None, str | None, dict[str, Any]]:
    """Prompt id, workflow id and entry in the prompt of the node that is being executed; None and {} where the host does not know."""
    context = get_executing_context()
    queue = getattr(server, "prompt_queue", None)
    if context is None or queue is None:
        return None, None, {}
    for _, prompt_id, prompt, extra_data, *_ in queue.get_current_queue_volatile()[0]:
        if prompt_id == context.prompt_id:
            return prompt_id, _workflow_id(extra_data), prompt.get(node_id, {})
    return context.prompt_id, None, {}


def _about(node: dict[str, Any]) -> dict[str, Any]:
    """Type and values of a node of a prompt: what the page compares with the node it has, which may have been changed since."""
    values = {name: value for name, value in node.get("inputs", {}).items() if not isinstance(value, list)}
    return {"type": node.get("class_type", ""), "values": values}


def _workflow_id(extra_data: dict[str, Any]) -> str | None:
    # A prompt sent by a script has no workflow, and whatever it says of it need not be of the page's form.
    found: Any = extra_data
    for key in ("extra_pnginfo", "workflow", "id"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None


def _job(entry: dict[str, Any]) -> dict[str, Any]:
    _, _, prompt, extra_data, *_ = entry["prompt"]
    return {"workflow": _workflow_id(extra_data), "outputs": entry["outputs"], "nodes": prompt}
