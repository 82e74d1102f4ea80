"""What a server's log says of the pack while the host starts."""

from __future__ import annotations

import re

import harness


def assert_loaded_in_silence(server: harness.Client, pack: str = "spectral-motion") -> None:
    """The host lists the pack among those it imported, and its log names the pack nowhere else: no warning, no traceback."""
    # Up to here it starts; later tests use the same server and make it complain.
    log, started, _ = server.log.read_text().partition("To see the GUI go to")
    assert started
    naming = [line for line in log.splitlines() if pack in line]
    assert len(naming) == 1 and re.search(rf"\d seconds: .*{pack}", naming[0]), naming
