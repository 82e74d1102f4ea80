"""The rule itself: what no user should read is told from a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from rule import LAST_RESORT, REFUSED, WORKED, Hung, judge

BASE = Path("/srv/comfy")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("step"),
        TypeError("execute() missing 1 required positional argument: 'beta'."),
        ValueError("not enough values to unpack (expected 2, got 0)"),
        ValueError("cannot read /srv/comfy/input/a.mp4."),
        ValueError("[Errno 28] No space left on device."),
        ValueError("a.safetensors is damaged (Error while deserializing header: header too large)."),
        ValueError("Two\nlines."),
        ValueError("x" * 401 + "."),
        ValueError(f"fps is {object()!r}; it needs a number."),
        ValueError(""),
        RuntimeError("Load Motion Clip stopped on an unexpected error (KeyError: 'a')."),
        Hung(),
    ],
)
def test_what_is_no_sentence_is_found(error):
    assert judge(error, BASE) not in (WORKED, REFUSED)


def test_sentences_and_silence_pass():
    assert judge(None, BASE) == WORKED
    assert judge(ValueError("fps is nan; it needs a number from 0.1 to 240. Set it on the node."), BASE) == REFUSED
    assert judge("X stopped on an unexpected error (Y: z).", BASE).startswith(LAST_RESORT)
