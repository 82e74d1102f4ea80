"""What nodes report and warn of stands on them as text, in both renderers, and stays there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import harness  # noqa: E402
import page  # noqa: E402

TRAINER, CLIP, LOSS, PROMPT = "SMA_TrainMotionLoRA", "SMA_LoadMotionClip", "SMA_SpectralLoss", "CLIPTextEncode"
MOMENTS = ["after", "again", "opened_during_the_run", "cancelled", "reloaded"]


@pytest.fixture(scope="module", params=["classic", "nodes_2"])
def session(tmp_path_factory: pytest.TempPathFactory, request) -> dict:
    """A server for each renderer: a template that is opened again is the same workflow, and shows its last reports."""
    reason = page.missing_tools()
    if reason:
        (pytest.fail if os.environ.get("SPECTRAL_MOTION_NO_SKIP") else pytest.skip)(reason)
    python, host = harness.ensure_environment()
    with harness.serve(python, host, base=tmp_path_factory.mktemp("base")) as client:
        folder = page.SCREENSHOTS / f"reports_{request.param}"
        return page.reports_of_template(client, "sprites-motion-transfer", folder, vue=request.param == "nodes_2")


def test_the_runs_end_as_meant_and_the_page_complains_of_nothing(session):
    outcome = (session["events"], session["problems"])
    assert outcome == (["execution_success", "execution_success", "execution_interrupted"], []), json.dumps(
        session, indent=1
    )


def test_a_node_without_a_report_looks_as_before(session):
    assert session["seen"]["before"] == {}
    assert all(set(session["seen"][moment]) == {TRAINER, CLIP, LOSS, PROMPT} for moment in MOMENTS)


def test_reports_and_warnings_can_be_read_and_stay_small(session):
    for moment in MOMENTS:
        shown = session["seen"][moment]
        assert all(node["seen"] and node["inside"] and 20 < node["height"] < 250 for node in shown.values()), (
            moment,
            shown,
        )
        assert shown[CLIP]["report"][0].startswith("8 frames at 8 fps") and shown[CLIP]["warnings"] == []
        for node in (TRAINER, PROMPT):
            assert shown[node]["warnings"][0].startswith("The sprites model reads nothing in 'wombat'."), moment


def test_a_finished_training_says_where_its_lora_is_and_says_it_again_from_the_cache(session):
    report = session["seen"]["after"][TRAINER]["report"]
    assert "modules adapted" in report[0] and any(line.startswith("Saved output/loras/") for line in report)
    assert any(line.startswith("Saved output/loras/") for line in session["seen"]["again"][TRAINER]["report"])


def test_what_was_said_before_a_cancel_stays_also_after_a_reload(session):
    live, cancelled, reloaded = (session["seen"][moment][TRAINER] for moment in MOMENTS[2:])
    assert live["report"] == cancelled["report"] == reloaded["report"]
    assert len(live["report"]) == 1 and "modules adapted" in live["report"][0]
    assert cancelled["warnings"] == reloaded["warnings"]
    assert cancelled["warnings"][-1].startswith("Stopped at step ")


def test_a_report_pales_where_values_of_its_node_were_changed_since(session):
    pale = {
        moment: {node for node, shown in session["seen"][moment].items() if shown["outdated"]} for moment in MOMENTS
    }
    assert pale == dict.fromkeys(MOMENTS, set())
    other = session["seen"]["other_values"]
    assert {node for node, shown in other.items() if shown["outdated"]} == {TRAINER}
    assert other[TRAINER]["report"] == session["seen"]["again"][TRAINER]["report"]


def test_a_graph_that_is_opened_with_other_values_shows_nothing_of_what_was_said_of_these(session):
    changed = session["seen"]["changed"]
    assert TRAINER not in changed and changed[CLIP] == session["seen"]["reloaded"][CLIP]


def test_another_workflow_with_the_same_node_ids_shows_nothing(session):
    assert session["seen"]["another_workflow"] == {}


def test_nothing_of_it_enters_the_prompt_or_moves_a_saved_value(session):
    before, after = session["before"], session["after"]
    # The host's own Save Video puts its preview into the prompt.
    ours = {str(id) for id, kind, _ in before["values"] if kind.startswith("SMA_")}
    assert all(after["inputs"][id] == before["inputs"][id] for id in ours)
    for (id, kind, values), (_, _, later) in zip(before["values"], after["values"], strict=True):
        if kind == "KSampler":
            values[0] = 7  # the seed that the second run has
        # A preview's empty value comes behind all others.
        assert later[: len(values)] == values and not any(later[len(values) :]), (id, kind)
    # A widget that the node's own choice brings keeps the place it has without a report.
    assert session["chosen"]["with"] == session["chosen"]["without"]
    assert ".*attn.*" in session["chosen"]["with"]
