"""What a node of ours says to its user: passing lines while it works, a report and warnings that stay."""

from __future__ import annotations

import logging

from .progress import say

logger = logging.getLogger(__name__)


class Report:
    """Collects what one run of a node says.

    Args:
        node_id: the node that reports; None reports to the log alone.
    """

    def __init__(self, node_id: str | None) -> None:
        self.node_id = node_id
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def progress(self, text: str) -> None:
        """Shows a line until the next one."""
        say(self.node_id, text)

    def tell(self, text: str) -> None:
        """Shows a line that stays on the node."""
        self.lines.append(text)
        say(self.node_id, text)

    def warn(self, text: str) -> None:
        """Shows a warning that stays on the node, and writes it to the log. The same text is kept once."""
        if text not in self.warnings:
            self.warnings.append(text)
            logger.warning(text)

    def ui(self) -> dict[str, list[str]]:
        """Returns the payload of NodeOutput's ``ui``: ``{"report": [...], "warnings": [...]}``."""
        return {"report": self.lines, "warnings": self.warnings}
