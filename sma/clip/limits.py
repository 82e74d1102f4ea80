"""What a clip may ask of the memory, said before it is asked."""

from __future__ import annotations

from ..checks import size_text

# Pixels of one picture; Pillow itself refuses twice what it warns of, which is as many.
MOST_PIXELS = 178_956_970
# A clip is 32-bit numbers, and while it is made and shown there are about three of it.
_BYTES_PER_PIXEL = 3 * 4 * 3


def check_memory(frames: int, width: int, height: int, free: float) -> None:
    """Refuse a clip that does not fit.

    Args:
        frames, width, height: of the clip, pixels.
        free: bytes that may be taken.

    Raises:
        ValueError: names the size, the need and what is free.
    """
    need = frames * width * height * _BYTES_PER_PIXEL
    if need > free:
        raise ValueError(
            f"{frames} frames of {width}x{height} pixels take {size_text(need)} of memory while they are read, and {size_text(free)} are "
            "free. Lower frame_count, width or height."
        )


def check_picture(name: str, width: int, height: int) -> None:
    """Refuse pictures whose size alone would fill the memory; name: of their file.

    Raises:
        ValueError: names the size and the limit.
    """
    if width * height > MOST_PIXELS:
        raise too_large(name, f"{width}x{height} pixels")


def too_large(name: str, size: str) -> ValueError:
    return ValueError(
        f"{name} has pictures of {size}; {MOST_PIXELS // 10**6} million pixels are the most. Make them smaller."
    )
