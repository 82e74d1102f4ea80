"""The kinds of file that hold a film, by the end of their names. Pickers offer what readers read."""

from __future__ import annotations

# Suffix -> FFmpeg's reader. FFmpeg looks at contents, not names, and some of its readers open other files: playlists (hls, dash,
# concat, sdp) and numbered images (image2). Only readers that stay inside their own file may stand here.
VIDEO_READERS = {
    ".mp4": "mov",
    ".m4v": "mov",
    ".mov": "mov",
    ".qt": "mov",
    ".3gp": "mov",
    ".3g2": "mov",
    ".f4v": "mov",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
    ".flv": "flv",
    ".wmv": "asf",
    ".asf": "asf",
    ".mpg": "mpeg",
    ".mpeg": "mpeg",
    ".vob": "mpeg",
    ".ts": "mpegts",
    ".mts": "mpegts",
    ".m2ts": "mpegts",
    ".ogv": "ogg",
    ".mxf": "mxf",
    ".y4m": "yuv4mpegpipe",
    ".apng": "apng",
}
ANIMATION_SUFFIXES = frozenset({".gif", ".webp"})
FILM_SUFFIXES = frozenset(VIDEO_READERS) | ANIMATION_SUFFIXES
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})

FFMPEG_READERS = ",".join(sorted(set(VIDEO_READERS.values())))  # for its option format_whitelist
WHAT_IS_A_CLIP = "a video, an animated gif or webp, or a folder of pictures"
