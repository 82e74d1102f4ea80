"""What is to be read of a video, and what the reading finds on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from .film import Film, counted, seconds_text


@dataclass
class Reading:
    """What to read of a film, and where to tell what was found.

    Fields:
        start: seconds of the first frame that is wanted.
        skip: pass over damaged frames instead of refusing them.
        film: takes the notes and warnings.
    """

    path: Path
    start: Fraction
    skip: bool
    film: Film
    _lost: list[Fraction] = field(default_factory=list)
    _doubled: list[Fraction] = field(default_factory=list)
    _told: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_damaged(self) -> bool:
        return bool(self._lost)

    def start_over(self) -> None:
        self._lost.clear()
        self._doubled.clear()
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
        self._lost.append(moment)
        self._tell_damage()

    def leave_out(self, moment: Fraction) -> None:
        """Say that a second frame has the same moment as the one before, which is shown."""
        self._doubled.append(moment)
        self._tell_doubles()

    def _tell_damage(self) -> None:
        text = f"{counted(len(self._lost), 'damaged frame')} passed over {_where(self._lost)}" if self._lost else ""
        self.film.warnings.pop(self._told.get("damage", ""), None)
        if text:
            self.film.warnings[text] = None
        self._retell("damage", text)

    def _tell_doubles(self) -> None:
        number = counted(len(self._doubled), "frame")
        self._retell(
            "doubles", f"{number} at another's moment left out {_where(self._doubled)}" if self._doubled else ""
        )

    def _retell(self, topic: str, text: str) -> None:
        self.film.notes.pop(self._told.pop(topic, ""), None)
        if text:
            self.film.notes[text] = None
            self._told[topic] = text


def _where(moments: list[Fraction]) -> str:
    first, last = seconds_text(min(moments)), seconds_text(max(moments))
    return f"at {first} s" if first == last else f"between {first} and {last} s"
