"""Reports that stay: in the node's output, in the log, and with the server for pages that ask later."""

from __future__ import annotations

import inspect
import logging
import time
import uuid
from types import SimpleNamespace

import pytest
from aiohttp import web
from template import by_type, short_template

TRAINER, CLIP = "SMA_TrainMotionLoRA", "SMA_LoadMotionClip"
UNKNOWN = "The sprites model reads nothing in 'wombat'."


class Page:
    """Queues prompts as a page does that has a workflow of this id open."""

    def __init__(self, server) -> None:
        self.server, self.workflow = server, str(uuid.uuid4())

    def queue(self, graph: dict) -> str:
        extra = {"extra_pnginfo": {"workflow": {"id": self.workflow}}}
        return self.server.post("/prompt", {"prompt": graph, "client_id": uuid.uuid4().hex, "extra_data": extra})[
            "prompt_id"
        ]

    def run(self, graph: dict):
        return self.server.wait(self.queue(graph))

    def reports(self) -> dict:
        return self.server.get(f"/spectral_motion/reports/{self.workflow}")


@pytest.fixture
def page(server) -> Page:
    return Page(server)


@pytest.fixture
def graph() -> dict:
    return short_template()


def node_of(graph: dict, class_type: str) -> str:
    (node,) = [node for node, entry in graph.items() if entry["class_type"] == class_type]
    return node


def test_a_report_stays_with_its_workflow_in_the_output_and_in_the_log(server, page, graph):
    trainer, clip = node_of(graph, TRAINER), node_of(graph, CLIP)
    by_type(graph)[TRAINER].update(save_prefix="stays", seed=11)
    result = page.run(graph)
    assert result.status == "success", result.messages
    said = result.outputs[trainer]["report"]
    assert "modules adapted" in said[0] and any(line.startswith("Saved output/loras/stays_step00003_") for line in said)
    assert result.outputs[trainer]["warnings"] == []
    # The preview of the same node is still there.
    assert result.outputs[clip]["report"][0].startswith("8 frames") and result.outputs[clip]["images"]
    kept = page.reports()
    assert (kept[trainer]["report"], kept[trainer]["type"]) == (said, TRAINER)
    assert Page(server).reports() == {}, "the same node ids in another workflow"
    log = server.log.read_text()
    assert all(line in log for line in said)


def test_what_comes_from_the_cache_says_its_last_report_again(page, graph):
    trainer = node_of(graph, TRAINER)
    by_type(graph)[TRAINER].update(seed=21)
    first = page.run(graph)
    by_type(graph)["KSampler"].update(seed=99)
    again = page.run(graph)
    assert trainer in again.event("execution_cached")["nodes"]
    assert again.outputs[trainer]["report"] == first.outputs[trainer]["report"] == page.reports()[trainer]["report"]


def test_the_report_shown_last_counts_and_not_the_one_said_last(host, monkeypatch):
    """Where the cache holds results of several settings, going back to the first says nothing anew."""
    import execution
    import server
    from comfy_execution.utils import CurrentNodeContext

    kept = host.module("nodes.host.kept_reports")
    queue = execution.PromptQueue(SimpleNamespace(queue_updated=lambda: None))
    monkeypatch.setattr(server.PromptServer.instance, "prompt_queue", queue, raising=False)

    def run(prompt_id: str, lines: list[str], *, said: bool, ends: bool = True) -> None:
        graph = {"1:2": {"class_type": TRAINER, "inputs": {}}}
        queue.put((0, prompt_id, graph, {"extra_pnginfo": {"workflow": {"id": "w"}}}, [], {}))
        _, item = queue.get()
        payload = {"report": lines, "warnings": []}
        if said:
            with CurrentNodeContext(prompt_id, "1:2"):
                kept.show("1:2", payload)
        outputs = {"1:2": payload} if ends else {}
        queue.task_done(item, {"outputs": outputs, "meta": {}}, None, process_item=lambda prompt: prompt[:5])

    def shown() -> list[str]:
        (entry,) = kept.of_workflow("w").values()
        assert (entry["node"], entry["type"]) == ("1:2", TRAINER)
        return entry["report"]

    run("a", ["of a"], said=True)
    run("b", ["of b"], said=True)
    assert shown() == ["of b"]
    run("c", ["of a"], said=False)
    assert shown() == ["of a"]
    run("d", ["cut short"], said=True, ends=False)
    assert shown() == ["cut short"]
    assert kept.of_workflow("another") == {}


def test_warnings_that_come_after_a_nodes_run_stay_with_its_result(host, monkeypatch):
    """A LoRA's node has long ended when the sampler finds that it changed nothing; the host's cache knows only what the node said itself."""
    import execution
    import server
    from comfy_execution.utils import CurrentNodeContext

    kept, report_class = host.module("nodes.host.kept_reports"), host.module("nodes.host.report").Report
    queue, sent = execution.PromptQueue(SimpleNamespace(queue_updated=lambda: None)), []
    instance = server.PromptServer.instance
    monkeypatch.setattr(instance, "prompt_queue", queue, raising=False)
    monkeypatch.setattr(instance, "send_sync", lambda event, data, sid=None: sent.append(data))
    graph = {"1": {"class_type": "SMA_LoadMotionLoRA", "inputs": {}}, "2": {"class_type": "KSampler", "inputs": {}}}

    def run(prompt_id, node, sampled):
        queue.put((0, prompt_id, graph, {"extra_pnginfo": {"workflow": {"id": "later"}}}, [], {}))
        _, item = queue.get()
        with CurrentNodeContext(prompt_id, "1", 0):
            ui = node()
        with CurrentNodeContext(prompt_id, "2", 0):
            sampled()
        queue.task_done(item, {"outputs": {"1": ui}, "meta": {}}, None, process_item=lambda prompt: prompt[:5])
        return ui

    def node():
        reports.append(report_class("1"))
        reports[0].tell("16 of 16 keys applied")
        return reports[0].ui()

    def shown():
        entry = kept.of_workflow("later")["1"]
        return entry["report"], entry["warnings"], entry["prompt"]

    reports = []
    said = run("a", node, lambda: reports[0].warn_later(["It changed nothing."]))
    assert sent[-1]["warnings"] == ["It changed nothing."] and sent[-1]["node"] == "1" and sent[-1]["prompt"] == "a"
    assert shown() == (["16 of 16 keys applied"], ["It changed nothing."], "a")
    # All of it from the cache; then a sampling of which the same is to be said, and one that is right.
    run("b", lambda: said, lambda: None)
    assert shown() == (["16 of 16 keys applied"], ["It changed nothing."], "b")
    run("c", lambda: said, lambda: reports[0].warn_later(["It changed nothing."]))
    assert shown() == (["16 of 16 keys applied"], ["It changed nothing."], "c")
    run("d", lambda: said, lambda: reports[0].warn_later([]))
    assert sent[-1]["warnings"] == [] and shown() == (["16 of 16 keys applied"], [], "d")


@pytest.mark.parametrize("extra", [{"extra_pnginfo": [1]}, {"extra_pnginfo": {"workflow": {"id": ["w"]}}}])
def test_a_script_may_send_any_notes_with_its_prompt(host, monkeypatch, extra):
    """They cost neither its own nodes nor the pages of others their reports."""
    import execution
    import server
    from comfy_execution.utils import CurrentNodeContext

    kept = host.module("nodes.host.kept_reports")
    monkeypatch.setattr(kept, "_kept", type(kept._kept)())
    queue = execution.PromptQueue(SimpleNamespace(queue_updated=lambda: None))
    monkeypatch.setattr(server.PromptServer.instance, "prompt_queue", queue, raising=False)
    queue.put((0, "odd", {"1": {"class_type": TRAINER, "inputs": {}}}, extra, [], {}))
    _, item = queue.get()
    with CurrentNodeContext("odd", "1"):
        kept.show("1", {"report": ["of a script"], "warnings": []})
    queue.task_done(item, {"outputs": {}, "meta": {}}, None, process_item=lambda prompt: prompt[:5])
    assert kept.of_workflow("w") == {}


def test_a_host_with_two_copies_of_the_pack_starts(host, monkeypatch, caplog):
    import server

    kept = host.module("nodes.host.kept_reports")
    routes = web.RouteTableDef()
    monkeypatch.setattr(server.PromptServer.instance, "routes", routes)
    for _ in range(2):
        kept.add_route()
    web.Application().add_routes(routes)
    assert "installed twice" in caplog.text


def test_cancel_and_the_run_before_it_leave_their_reports(server, page, graph):
    trainer, clip = node_of(graph, TRAINER), node_of(graph, CLIP)
    page.run(graph)
    by_type(graph)[TRAINER].update(steps=50_000, seed=31)
    (prompt,) = [node for node, entry in graph.items() if entry["_meta"]["title"] == "Training prompt"]
    graph[prompt]["inputs"]["text"] = "red wombat on plain"
    prompt_id = page.queue(graph)
    deadline = time.monotonic() + 120
    while len(page.reports()[trainer]["report"]) != 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    live = page.reports()[trainer]
    assert "modules adapted" in live["report"][0]
    assert live["warnings"] == [page.reports()[prompt]["warnings"][0]] and live["warnings"][0].startswith(UNKNOWN)
    time.sleep(3)
    server.interrupt()
    assert server.wait(prompt_id).event("execution_interrupted")["node_id"] == trainer
    stopped = page.reports()
    assert stopped[trainer]["report"] == live["report"] and stopped[clip]["report"]
    (warning,) = stopped[trainer]["warnings"][1:]
    assert warning.startswith("Stopped at step ") and warning in server.log.read_text()


def test_a_report_holds_every_line_and_every_warning_once(host, said, caplog):
    Report = host.module("nodes.host.report").Report
    with caplog.at_level(logging.INFO):
        report = Report("5")
        report.progress("step 1")
        report.tell("done")
        report.warn("too small")
        report.warn("too small")
    assert report.ui() == {"report": ["done"], "warnings": ["too small"], "report_id": [report.id]}
    assert report.ui({"text": ("a",)}) == {"text": ("a",), **report.ui()}
    assert said == ["step 1", "done", "too small"]
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "done"),
        ("WARNING", "too small"),
    ]


def test_every_node_that_reports_is_sent_again_from_the_cache(host):
    import nodes

    ours = [node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("SMA_")]
    reporting = [node for node in ours if "Report(cls.hidden.unique_id)" in inspect.getsource(node)]
    assert len(reporting) >= 9
    for node in reporting:
        schema = node.GET_SCHEMA()
        assert schema.has_intermediate_output or schema.is_output_node, node.__name__
