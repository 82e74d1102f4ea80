"""Lists that pickers offer. The host asks for them whenever it looks at a node, also in the midst of a prompt, and an error there would
end its prompt worker or take the node out of its list."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import folder_paths

from ...sma.checks import shown

logger = logging.getLogger(__name__)

# What reading a folder, or a file in it that decides what belongs to the list, may raise.
_UNREADABLE = (OSError, ValueError, RecursionError, MemoryError)
_said: set[str] = set()


class Offered(list[str]):
    """Choices that change with what lies on disk: a prompt may name one that is not among them any more, or not yet."""


def offered(
    place: str,
    find: Callable[[], Iterable[str]],
    *,
    folders: Callable[[], Sequence[str]] = tuple,
    always: Iterable[str] = (),
    hint: bool = True,
) -> Offered:
    """Makes the choices of a picker. Never raises: where they cannot be found, a choice says why, and so does the log, once.

    Args:
        place: where the choices lie, as the user knows it, such as "output/loras".
        find: finds them.
        folders: the folders that ``find`` looks into; where it finds nothing, one of them that may not be read is the reason.
        always: choices there are in any case, last.
        hint: say so where nothing is found; an empty list would say nothing.
    """
    always = list(always)
    try:
        found = list(find())
        reason = "" if found else _obstacle(folders())
    except _UNREADABLE as error:
        found, reason = [], _reason(error)
        _log_once(place, error)
    if reason:
        return Offered([*always, f"{place} cannot be read ({reason})"])
    return Offered([*found, *always] or ([f"nothing found in {place}"] if hint else []))


def host_files(kind: str) -> list[str]:
    """The host's own list of the files in its model folders of a kind, such as "loras"."""
    try:
        return folder_paths.get_filename_list(kind)
    except OSError:
        # It remembers folders by their times, and fails for good once one of them is gone.
        folder_paths.filename_list_cache.pop(folder_paths.map_legacy(kind), None)
        return folder_paths.get_filename_list(kind)


def host_file(kind: str, name: str) -> Path:
    """The file that :func:`host_files` lists under this name.

    Raises:
        ValueError: there is none.
    """
    try:
        return Path(folder_paths.get_full_path_or_raise(kind, name))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"There is no file {shown(name)} among the {kind}. Choose one from the list; R refreshes it."
        ) from error


def offered_host_files(kind: str) -> Offered:
    """:func:`offered` of :func:`host_files`."""
    return offered(f"models/{kind}", lambda: host_files(kind), folders=lambda: folder_paths.get_folder_paths(kind))


def folders_with(file: str, bases: Iterable[str], *, nested: bool = True) -> dict[str, Path]:
    """Folders that hold a file of this name, by their names relative to the bases that they lie at or below.

    nested: look also below folders that hold it. Links are followed, but not in circles.

    Raises:
        OSError: a base may not be read; folders below it that may not are passed over.
    """
    found: dict[str, Path] = {}
    for base in map(Path, bases):
        if base.is_dir():
            for folder in _holding(file, base, nested, frozenset()):
                found.setdefault(folder.relative_to(base).as_posix(), folder)
    return found


def _holding(file: str, folder: Path, nested: bool, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    try:
        place = folder.stat()
        entries = sorted(folder.iterdir())
    except OSError:
        if not above:
            raise
        return
    here = (place.st_dev, place.st_ino)
    if here in above:
        return
    if holds := folder / file in entries:
        yield folder
    if nested or not holds:
        for entry in entries:
            if entry.is_dir():
                yield from _holding(file, entry, nested, above | {here})


def _obstacle(folders: Iterable[str]) -> str:
    """Why nothing may have been found in some folders; "" where they can be read or are not there."""
    for folder in map(Path, folders):
        if folder.exists() and not folder.is_dir():
            return "a file is in its place"
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
            return "permission denied"
    return ""


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or "a file in it is damaged").lower()


def _log_once(place: str, error: BaseException) -> None:
    text = f"{place} cannot be read ({_reason(error)}); its list on the nodes says so."
    if text not in _said:
        _said.add(text)
        logger.warning(text, exc_info=error)
