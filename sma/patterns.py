"""Regular expressions of users and files over layer names, which no pattern can turn into a standstill."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

MOST_CHARACTERS = 2000
# For all the names that patterns are asked about. Ordinary ones take some microseconds a name; a hostile one, such as ``(a+)+!``, may try
# more ways than there is time, and Python's own ``re`` cannot be stopped.
MOST_SECONDS = 5.0


@dataclass
class TimeLimit:
    """Seconds that one or several patterns may still take."""

    left: float = field(default_factory=lambda: MOST_SECONDS)


class NamePattern:
    """A regular expression that a whole name has to match, as ``re.fullmatch`` has it.

    Args:
        limit: shared with other patterns; None is one for this pattern alone.

    Raises:
        ValueError: it is no regular expression, or too long.
    """

    def __init__(self, pattern: str, limit: TimeLimit | None = None) -> None:
        import regex  # comes with every host, by way of transformers; a moment that not every run needs

        shown = pattern if len(pattern) <= 100 else f"{pattern[:100]}..."
        if len(pattern) > MOST_CHARACTERS:
            raise ValueError(
                f"The pattern has {len(pattern)} characters; {MOST_CHARACTERS} at most are taken. Shorten it."
            )
        try:
            self._compiled = regex.compile(pattern, regex.VERSION0)
        except (regex.error, OverflowError, RecursionError, ValueError) as error:
            raise ValueError(f"{shown!r} is not a regular expression that can be read. Correct it.") from error
        self._shown = shown
        self._limit = limit or TimeLimit()

    def matches(self, name: str) -> bool:
        """Whether the whole of a name matches.

        Raises:
            ValueError: over all names asked about so far, that took too long.
        """
        started = time.monotonic()
        try:
            found = self._compiled.fullmatch(name, timeout=max(self._limit.left, 1e-3)) is not None
            self._limit.left -= time.monotonic() - started
            timed_out = self._limit.left < 0
        except TimeoutError:
            timed_out = True
        if timed_out:
            raise ValueError(f"The pattern {self._shown!r} takes too long to compare with all names. Simplify it.")
        return found
