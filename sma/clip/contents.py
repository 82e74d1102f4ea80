"""What a file is, by its contents, where its name says something else."""

from __future__ import annotations

from pathlib import Path

GIF, WEBP = "a GIF", "a WebP"

# First bytes of a file, after any blanks, and what to call it.
_BEGINNINGS = (
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", GIF),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"8BPS", "a Photoshop picture"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"fLaC", "a sound file"),
    (b"ID3", "a sound file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"Rar!", "a rar archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a Git LFS pointer without the file it stands for"),
    (b"#EXTM3U", "a playlist"),
    (b"ffconcat", "a playlist"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML text"),
)
_RIFF = {b"WEBP": WEBP, b"WAVE": "a sound file"}
_STILL_BRANDS = {
    b"avif": "an AVIF picture",
    b"heic": "a HEIC picture",
    b"heix": "a HEIC picture",
    b"mif1": "a HEIC picture",
}
_PROBE = 512  # bytes


def what_it_is(path: Path) -> str:
    """Say in words what a file that is no video holds, such as "a web page"; "" where its first bytes do not tell."""
    with path.open("rb") as file:
        head = file.read(_PROBE)
    if not head:
        return "an empty file"
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS:
        return _STILL_BRANDS[head[8:12]]
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, name in _BEGINNINGS:
        if start[: len(beginning)].lower() == beginning.lower():
            return name
    return "a text file" if _is_text(head) else ""


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else a letter that the probe cuts
            return False
        text = head[: error.start].decode()
    return all(letter.isprintable() or letter in "\t\r\n" for letter in text)
