"""What nobody foresaw ends in one line, with the details in the log alone; what the host handles reaches it as it is."""

from __future__ import annotations

import json
import re

import pytest
import torch
from harness import ROOT


@pytest.fixture
def failing(host):
    """Runs a node of the pack whose execute raises an error, or calls what raises it."""
    from comfy_api.latest import io

    def run(raiser):
        class Node(io.ComfyNode):
            @classmethod
            def define_schema(cls):
                return io.Schema(node_id="SMA_Failing", display_name="Failing Node", inputs=[])

            @classmethod
            def execute(cls):
                return raiser()

        host.call(host.module("nodes.host.checked").checked(Node))

    return run


def _raise(error):
    def raiser():
        raise error

    return raiser


def test_an_error_of_any_kind_becomes_one_line_and_its_traceback_goes_to_the_log(host, failing, caplog):
    checked = host.module("nodes.host.checked")
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    with pytest.raises(RuntimeError) as caught:
        failing(_raise(TypeError("no '/srv/my models/a b.pt' and\n/srv/comfy/models/x.pt: C:\\comfy\\models\\y.pt")))
    assert str(caught.value) == (
        "Failing Node stopped on an unexpected error (TypeError: no 'a b.pt' and x.pt: y.pt). The log has the details; please report "
        f"them at {checked.REPORT_AT} (Spectral Motion {version})."
    )
    assert "in raiser" in caplog.text
    # What held the first error would hold the model that its traceback leads to.
    assert caught.value.__context__ is None and not any(record.exc_info for record in caplog.records)


def test_the_address_is_that_of_the_repository(host):
    repository = re.search(r'^Repository = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert host.module("nodes.host.checked").REPORT_AT == f"{repository}/issues"


@pytest.mark.parametrize(
    ("raiser", "said"),
    [
        (lambda: json.loads("{"), "unexpected error .JSONDecodeError: Expecting"),
        (lambda: torch.zeros(2) @ torch.zeros(3), "unexpected error .RuntimeError"),
        (lambda: {}["key"], "unexpected error .KeyError: 'key'"),
        (lambda: b"\xff".decode(), "unexpected error .UnicodeDecodeError"),
        (lambda: (ROOT / "a\0b").open(), "unexpected error .ValueError: embedded null byte"),
        (
            lambda: (ROOT / "nothing.pt").open(),
            r"^Failing Node could not use 'nothing.pt' .no such file or directory.\. Look at",
        ),
        (
            _raise(OSError(28, "No space left on device")),
            r"^Failing Node could not use a file .no space left on device.\.",
        ),
        (_raise(RuntimeError("x" * 5000)), "x{180}"),
    ],
)
def test_libraries_do_not_speak_for_the_pack(failing, raiser, said):
    with pytest.raises(RuntimeError, match=said) as caught:
        failing(raiser)
    text = str(caught.value)
    assert "\n" not in text and "Errno" not in text and str(ROOT) not in text and len(text) < 500


def test_the_packs_own_sentences_stay_as_they_are(host, failing):
    checks, requirement = host.module("sma.checks"), host.module("sma.networks.requirement")
    with pytest.raises(ValueError, match="^x is 1; it must be at least 2.$"):
        failing(lambda: checks.check_whole("x", 1, 2))
    with pytest.raises(ImportError, match="nothing_like_it"):
        requirement._OLDEST["nothing_like_it"] = "1.0"
        try:
            failing(lambda: requirement.require("nothing_like_it.x", "AnimateDiff"))
        finally:
            del requirement._OLDEST["nothing_like_it"]
    with pytest.raises(host.module("sma.training").NonFiniteLoss, match="^The loss is nan.$"):
        failing(_raise(host.module("sma.training").NonFiniteLoss("The loss is nan.")))


def test_the_hosts_cancel_and_a_full_device_reach_the_host(failing):
    import comfy.model_management as management

    with pytest.raises(management.InterruptProcessingException):
        failing(_raise(management.InterruptProcessingException()))
    with pytest.raises(management.OOM_EXCEPTION, match="^full$"):
        failing(_raise(management.OOM_EXCEPTION("full")))


def test_a_full_memory_is_named(failing):
    for raiser in (_raise(MemoryError()), lambda: torch.empty(2**58)):
        with pytest.raises(
            MemoryError, match="^Failing Node needs more memory than there is. Use fewer frames or pixels, or a sm"
        ):
            failing(raiser)


def test_python_itself_does_not_speak_for_the_pack(host, failing):
    """As where our code unpacks a shape of another length: the error is raised in our file, but has no sentence."""
    mask = host.module("sma.noise").frequency_mask
    with pytest.raises(
        RuntimeError, match=r"^Failing Node stopped on an unexpected error \(ValueError: not enough values"
    ):
        failing(lambda: mask((1,), "gaussian", 0.5, 0.5))
