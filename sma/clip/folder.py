"""Folders of images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ..checks import check_regular
from .film import Check, Damaged, Film, Shot, counted, fraction, rate_text, seconds_text
from .formats import IMAGE_SUFFIXES
from .numbering import numbering_notes
from .picture import UnreadablePicture, read_picture

_LISTED = 4  # images passed over that are named


def natural_key(name: str) -> list[str | int]:
    """Sort key that puts "frame2" before "frame10"."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name.casefold()))]


def is_image(entry: Path) -> bool:
    """Whether a folder's entry is a frame by its name: programs hide files of their own beside them (._1.png, .thumb.png)."""
    return entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file()


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order; other files, hidden ones and folders in it are passed over."""
    return sorted(filter(is_image, folder.iterdir()), key=lambda file: (natural_key(file.name), file.name))


@contextmanager
def open_folder(path: Path, fps: float, damaged: Damaged, check: Check) -> Iterator[Film]:
    """Open a folder of images as a film.

    Args:
        fps: images per second.
        damaged: "refuse" raises at an image that cannot be read, "skip" passes it over and tells; the others keep their moments.
        check: called for every image that is read.
    """
    files = image_files(path)
    if not files:
        raise ValueError(f"The folder {path.name} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    rate = fraction(fps)
    sizes: dict[tuple[int, int], str] = {}  # with the first image of each

    def load(i: int) -> np.ndarray:
        file = files[i]
        check()
        check_regular(file)
        try:
            picture = read_picture(file)
        except ValueError as error:
            place = f"image {i + 1} of {len(files)}, {seconds_text(i / rate)} s"
            raise ValueError(f"{file.name} in {path.name} ({place}) {error}") from error
        height, width, _ = picture.shape
        sizes.setdefault((width, height), file.name)
        if len(sizes) > 1:
            (a, first), (b, other) = sizes.items()
            raise ValueError(
                f"The images of {path.name} differ in size: {first} is {a[0]}x{a[1]}, {other} {b[0]}x{b[1]}. "
                "Use images of one size."
            )
        return picture

    notes = dict.fromkeys(numbering_notes([file.name for file in files]))
    film = Film(iter(()), rate, f"{counted(len(files), 'image')} at {rate_text(rate)} fps", notes, dict(notes))
    taken = range(len(files)) if damaged == "refuse" else _readable(files, film, check)
    yield replace(film, shots=(Shot(i / rate, partial(load, i)) for i in taken))


def _readable(files: list[Path], film: Film, check: Check) -> Iterator[int]:
    """The places of the images that can be read; the film tells of the others."""
    passed: list[str] = []
    told = ""
    for i, file in enumerate(files):
        check()
        try:
            read_picture(file)
        except UnreadablePicture:
            passed.append(file.name)
            names = ", ".join(passed[:_LISTED]) + (f" and {len(passed) - _LISTED} more" if passed[_LISTED:] else "")
            for words in (film.notes, film.warnings):
                words.pop(told, None)
                words[f"{counted(len(passed), 'damaged image')} passed over: {names}"] = None
            told = next(reversed(film.notes))
        except ValueError:  # said when it is loaded
            yield i
        else:
            yield i
