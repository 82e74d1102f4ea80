"""What a node of ours says to its user: passing lines while it works, a report and warnings that stay."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from . import kept_reports
from .progress import say

logger = logging.getLogger(__name__)


class Report:
    """Collects what one run of a node says, and shows it on the node at once; what an earlier run said is taken off.

    The page learns of every line when it is said, by an event of our own: where the user cancels or an error ends the run, the host
    sends no output of the node.

    Args:
        node_id: the node that reports; None reports to the log alone.
    """

    def __init__(self, node_id: str | None) -> None:
        self.node_id = node_id
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.id = uuid.uuid4().hex
        self._show()

    def progress(self, text: str) -> None:
        """Shows a line until the next one."""
        say(self.node_id, text)

    def tell(self, text: str) -> None:
        """Shows a line that stays on the node, and writes it to the log."""
        self.lines.append(text)
        logger.info(text)
        self._show()

    def warn(self, text: str) -> None:
        """Shows a warning that stays on the node, and writes it to the log. The same text is kept once."""
        if text not in self.warnings:
            self.warnings.append(text)
            logger.warning(text)
            self._show()

    def warn_later(self, texts: list[str]) -> None:
        """Shows warnings of what became of the node's result, in place of those shown by an earlier call; [] takes them off.

        May be called when the node's run has ended, while others run. They stay for as long as the host takes the result from its cache.
        """
        for text in texts:
            logger.warning(text)
        if self.node_id is not None and kept_reports.keep_later(self.id, texts):
            self._show(texts)

    def ui(self, preview: Any = None) -> dict[str, Any]:
        """Returns the payload of NodeOutput's ``ui``: ``{"report": [...], "warnings": [...], "report_id": [...]}``, beside those of a preview.

        Args:
            preview: another ``ui`` of the same node, as a dictionary or as one of the host's objects such as ``ui.PreviewVideo``.
        """
        others: Mapping[str, Any] = (
            {} if preview is None else preview if isinstance(preview, Mapping) else preview.as_dict()
        )
        return {**others, **self._payload(), "report_id": [self.id]}

    def _payload(self) -> dict[str, list[str]]:
        return {"report": list(self.lines), "warnings": list(self.warnings)}

    def _show(self, later: list[str] | tuple[str, ...] = ()) -> None:
        if self.node_id is not None:
            payload = self._payload()
            kept_reports.show(self.node_id, {**payload, "warnings": [*payload["warnings"], *later]})
