"""What is to be read of a video, and what the reading finds on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from .film import Check, Film, counted, seconds_text


@dataclass
class _Passed:
    """How many frames were not shown, and when the first and the last of them would have been: films may hold thousands."""

    number: int = 0
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)

    def add(self, moment: Fraction) -> None:
        self.first, self.last = (min(self.first, moment), max(self.last, moment)) if self.number else (moment, moment)
        self.number += 1

    @property
    def where(self) -> str:
        first, last = seconds_text(self.first), seconds_text(self.last)
        return f"at {first} s" if first == last else f"between {first} and {last} s"


@dataclass
class Reading:
    """What to read of a film, and where to tell what was found.

    Fields:
        start: seconds of the first frame that is wanted.
        skip: pass over damaged frames instead of refusing them.
        film: takes the notes and warnings.
        check: to be called for every packet.
    """

    path: Path
    start: Fraction
    skip: bool
    film: Film
    check: Check
    _lost: _Passed = field(default_factory=_Passed)
    _doubled: _Passed = field(default_factory=_Passed)
    _told: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_damaged(self) -> bool:
        return self._lost.number > 0

    def start_over(self) -> None:
        self._lost, self._doubled = _Passed(), _Passed()
        self._tell_damage()
        self._tell_doubles()

    def note(self, text: str) -> None:
        self.film.notes[text] = None

    def warn(self, text: str) -> None:
        self.note(text)
        self.film.warnings[text] = None

    def lose(self, moment: Fraction, error: Exception | None = None) -> None:
        """Pass over the damaged frame of that moment and say so, or refuse it."""
        if not self.skip:
            raise ValueError(
                f"{self.name} cannot be read at {seconds_text(moment)} s: its frame there is damaged. "
                "Take frames before or after it, connect true to skip_damaged, or pick another file."
            ) from error
        self._lost.add(moment)
        self._tell_damage()

    def leave_out(self, moment: Fraction) -> None:
        """Say that a second frame has the same moment as the one before, which is shown."""
        self._doubled.add(moment)
        self._tell_doubles()

    def _tell_damage(self) -> None:
        lost = self._lost
        text = f"{counted(lost.number, 'damaged frame')} passed over {lost.where}" if lost.number else ""
        self.film.warnings.pop(self._told.get("damage", ""), None)
        if text:
            self.film.warnings[text] = None
        self._retell("damage", text)

    def _tell_doubles(self) -> None:
        doubled = self._doubled
        text = f"{counted(doubled.number, 'frame')} at another's moment left out {doubled.where}"
        self._retell("doubles", text if doubled.number else "")

    def _retell(self, topic: str, text: str) -> None:
        self.film.notes.pop(self._told.pop(topic, ""), None)
        if text:
            self.film.notes[text] = None
            self._told[topic] = text
