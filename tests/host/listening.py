"""Hearing what nodes say to the page, where there is no page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def listen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes say under their widgets from now on, newest last: passing lines, lines and warnings that stay."""
    import server

    lines: list[str] = []

    def on_event(event: str, data: Any, sid: str | None = None) -> None:
        if event == "spectral_motion.report" and (said := data["report"] + data["warnings"]):
            # Every event holds all that was said so far.
            lines.extend(text for text in said if text not in reports[-1])
            reports[-1] = said
        elif event == "spectral_motion.report":
            reports.append([])

    reports: list[list[str]] = [[]]
    instance = server.PromptServer.instance
    monkeypatch.setattr(instance, "send_progress_text", lambda text, node: lines.append(text))
    monkeypatch.setattr(instance, "send_sync", on_event)
    return lines


def is_one_plain_line(message: str, base: Path) -> bool:
    """Whether what the page shows of an error is one line without a path of the server and without the words of a library's error."""
    text = message.strip()
    return (
        bool(text)
        and "\n" not in text
        and str(base) not in text
        and "Errno" not in text
        and "unexpected error" not in text
    )
