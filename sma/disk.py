"""Files put on disk whole or not at all, never over a file of another run, and a failing disk in plain words."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

# Files grow in folders of this name beside their place: hidden from pickers, and told from what other programs leave.
_PARTIAL = ".spectral_motion_partial-"
# After that long nobody is still writing, whatever machine or container the folder is from.
_ABANDONED = 24 * 3600.0  # seconds
_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is full",
    errno.EFBIG: "the file is larger than this disk takes",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "the folder may not be written to",
    errno.EPERM: "the folder may not be written to",
    errno.ENOTDIR: "a file stands where the folder should be",
    errno.EEXIST: "a file stands where the folder should be",
    errno.ENOENT: "the folder is gone",
    errno.ENAMETOOLONG: "the name is longer than this disk takes",
    errno.EINVAL: "this disk does not take the name",
    errno.EILSEQ: "this disk does not take the name",
    errno.EIO: "the disk does not answer",
}
_NAME_REFUSED = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}


class DiskError(OSError):
    """A disk that failed; its text says how in plain words and without a path.

    Attributes:
        of_name: the disk works, but does not take this name.
    """

    def __init__(self, error: OSError | SafetensorError) -> None:
        number = error.errno if isinstance(error, OSError) else _os_error(str(error))
        super().__init__(_WORDS.get(number, os.strerror(number) if number else "the file could not be written"))
        self.of_name = number in _NAME_REFUSED


def _os_error(text: str) -> int | None:
    """The error number in a message of safetensors, such as "I/O error: No space left on device (os error 28)"."""
    found = re.search(r"os error (\d+)", text)
    return int(found[1]) if found else None


def put(target: Path | Iterable[Path], write: Callable[[Path], None]) -> Path:
    """Writes a file, which shows up under its name only when it is whole, and returns its path.

    It has the rights that new files of this user have. What earlier, killed writes left in the same folder is swept away.

    Args:
        target: a path, whose old file is replaced; or names in one folder, of which the first free one is taken: then no file is ever
            replaced, also not one that another process writes at the same time.
        write: writes the file to the path it is given.

    Raises:
        DiskError: the disk failed. An old file is whole then.
    """
    replace = isinstance(target, Path)
    names = iter([target] if replace else target)
    try:
        first = next(names)
        first.parent.mkdir(parents=True, exist_ok=True)
        with _partial(first) as partial:
            partial.touch()
            mode = partial.stat().st_mode
            write(partial)
            partial.chmod(mode)  # safetensors makes files that their owner alone can read
            if replace:
                return partial.replace(first)
            while not _moved(partial, first):
                first = next(names)
            return first
    except (OSError, SafetensorError) as error:
        raise DiskError(error) from error


def try_out(names: Iterable[Path]) -> None:
    """Finds out whether a file of the first of these names could be written, by making and removing one beside it.

    Raises:
        DiskError: it could not.
    """
    try:
        path = next(iter(names))
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path) as partial:
            partial.with_name(path.name).touch()
    except OSError as error:
        raise DiskError(error) from error


def _moved(partial: Path, name: Path) -> bool:
    """Gives the file its name unless that is taken."""
    try:
        os.link(partial, name)
    except FileExistsError:
        return False
    except OSError:  # a disk without hard links: the name is taken first, then filled
        try:
            name.touch(exist_ok=False)
        except FileExistsError:
            return False
        partial.replace(name)
    return True


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A path for a file to grow at, on the same disk as its place; gone afterwards."""
    _sweep(path.parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{socket.gethostname()}-{os.getpid()}-", dir=path.parent))
    try:
        yield folder / "partial"
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what failed first is to be heard


def _sweep(folder: Path) -> None:
    for left in folder.glob(f"{_PARTIAL}*"):
        with suppress(OSError):
            if _is_dead(left.name) or time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _is_dead(name: str) -> bool:
    """Whether the process that made such a folder is known to be gone. Of other machines that cannot be told, nor on Windows."""
    host, _, rest = name.removeprefix(_PARTIAL).rpartition("-")[0].rpartition("-")
    if os.name == "nt" or host != socket.gethostname() or not rest.isdigit():
        return False
    try:
        os.kill(int(rest), 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False
