"""Still pictures of any kind as plain RGB arrays."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from .contents import GIF, WEBP, what_it_is
from .depth import FLOAT, ORIENTATION, PHOTOMETRIC, UNSIGNED, WHITE_IS_ZERO, levels, tiff_depth
from .limits import MOST_PIXELS
from .tiff import read_tiff

# What Pillow raises for a file that is cut short or damaged.
DAMAGE = (OSError, EOFError, IndexError, SyntaxError, TypeError, ValueError, struct.error, Image.DecompressionBombError)
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF")  # some of Pillow's others start programs
_KINDS = ("a PNG picture", "a JPEG picture", "a TIFF picture", GIF, WEBP)  # in the words of what_it_is
_SUBFILE, _REDUCED = 254, 1  # tag of a tiff's page, and its bit for a smaller copy of another page
_switch = threading.RLock()


class UnreadablePicture(ValueError):
    """A file that is damaged or no picture."""


def read_picture(path: Path) -> np.ndarray:
    """Read an image file as RGB [H, W, 3], float32, 0..1, upright by its EXIF orientation, over black where it is transparent.

    Integers are divided by the white of their depth: 255, 65535, or 4095 of a 12-bit tiff; of the 16 bits of a colour picture
    Pillow gives the upper 8. Float values are taken as they are.

    Raises:
        UnreadablePicture: damaged, or not a picture.
        ValueError: an animation or several pages, or values for which nobody knows what white is. Every message goes on where the
            name of the file ends: "is cut short or damaged. Replace it ..."
    """
    try:
        image, pictures = _loaded(path)
    except UnidentifiedImageError as error:
        samples, orientation = _tiff(path, error)
        return _upright(_over_black(samples), orientation)
    except Image.DecompressionBombError as error:
        raise ValueError(f"has more than {MOST_PIXELS // 10**6} million pixels. Save it smaller.") from error
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:  # the system's; Pillow's have no number
            raise UnreadablePicture(f"cannot be opened: {error.strerror}.") from error
        raise UnreadablePicture(_fault(path)) from error
    if pictures > 1 and image.format == "TIFF":
        raise ValueError(f"holds {pictures} pages. Save each as a file of its own.")
    if pictures > 1:
        raise ValueError(f"is an animation of {pictures} frames, not a single picture. Take it out of the folder.")
    return _upright(_over_black(_samples(image)), _orientation(image))


def opaque(image: Image.Image) -> np.ndarray:
    """A picture with 8 bits a channel, in any mode, as RGB [H, W, 3], float32, 0..1, over black where it is transparent."""
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
    return _over_black(np.asarray(image.convert("RGBA" if transparent else "RGB"), np.float32) / 255)


@contextmanager
def no_half_pictures() -> Iterator[None]:
    """Let Pillow refuse files that are cut short: another pack may have made it fill what is missing with grey."""
    with _switch:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _loaded(path: Path) -> tuple[Image.Image, int]:
    """The first picture of a file, and how many there are; copies in other sizes, as phones and scanners add them, do not count."""
    with no_half_pictures(), path.open("rb") as file:
        image = Image.open(file, formats=_FORMATS)
        count = getattr(image, "n_frames", 1)
        if image.format == "MPO":
            count = 1
        elif count > 1 and image.format == "TIFF":
            pages = range(1, count)
            count = 1 + sum(not _seek(image, page).tag_v2.get(_SUBFILE, 0) & _REDUCED for page in pages)
            _seek(image, 0)
        image.load()
        return image, count


def _tiff(path: Path, unidentified: UnidentifiedImageError) -> tuple[np.ndarray, int]:
    """The samples and the orientation of a tiff that Pillow does not open."""
    try:
        read = read_tiff(path)
    except (av.FFmpegError, OSError, SyntaxError, struct.error, StopIteration) as error:
        raise ValueError("is a tiff that is damaged or of a kind that is not read here. Save it as a png.") from error
    if read is None:
        raise UnreadablePicture(_fault(path)) from unidentified
    return read


def _seek(image: Image.Image, page: int) -> Image.Image:
    image.seek(page)
    return image


def _samples(image: Image.Image) -> np.ndarray:
    """The samples [H, W, C] of a loaded picture, 0..1: grey, RGB or RGBA."""
    if image.mode == "LAB":
        raise ValueError("has LAB colours, which are not read here. Save it as RGB.")
    if image.mode != "F" and not image.mode.startswith("I"):
        return opaque(image)
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits, sample_format = tiff_depth(tags) if tags else (32, FLOAT) if image.mode == "F" else (16, UNSIGNED)
    if bits == 32 and sample_format == UNSIGNED:
        values = values.view(np.uint32)  # Pillow knows 32 bits with a sign only
    grey = levels(values, bits, sample_format)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 1 - grey
    if isinstance(clear := image.info.get("transparency"), int):  # the one grey value of a png that is transparent
        grey = np.where(values == clear, np.float32(0), grey)
    return grey[..., None]


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # which Pillow turns itself
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except DAMAGE:  # of the EXIF alone: viewers show such a picture as it is stored
        return 1


def _over_black(samples: np.ndarray) -> np.ndarray:
    """RGB of samples [H, W, C] that are grey, grey with alpha, RGB or RGBA."""
    channels = samples.shape[-1]
    if channels in (2, 4):
        samples = samples[..., :-1] * samples[..., -1:]
    return np.ascontiguousarray(np.broadcast_to(samples, (*samples.shape[:2], 3)))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A picture turned as its EXIF orientation, 1 to 8, says; others are no orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _fault(path: Path) -> str:
    """What to say of a file that cannot be read as a picture."""
    what = what_it_is(path)
    if what and what not in _KINDS:
        return f"is {what}, which cannot be read as a picture. Replace it, or take it out of the folder."
    return "is cut short or damaged. Replace it, or take it out of the folder."
