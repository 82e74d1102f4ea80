"""The clip: a few frames of a film, retimed, cropped and resized, with a plain account of what was taken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from ..checks import check_option
from .film import Check, Damaged, Film, Shot, fraction, no_check, rate_text, seconds_text
from .fit import Crop, fitted
from .limits import check_memory
from .sources import open_film

MIN_FPS = 0.01
OPEN_END_LIMIT = 512  # frames that frame_count 0 takes at most: a long film would fill the memory
_CROP_WORDS = {"centre": "centre crop", "stretch": "stretched"}


@dataclass(frozen=True)
class ClipRequest:
    """What to take from a film.

    Fields:
        width, height: size of the frames, pixels.
        start: seconds after the film's first frame.
        frame_count: frames to take, 2 or more; 0 takes all to the end (at most OPEN_END_LIMIT).
        fps: retime to this rate by taking the source frame nearest to each moment; None takes every `stride`-th.
        stride: take every n-th source frame; must be 1 where fps is given.
        crop: "centre" keeps the aspect ratio and cuts the longer side, "stretch" keeps everything and distorts.
        folder_fps: rate of a folder of images, which has none of its own.
        memory: bytes that making the clip may take.
        damaged: "refuse" raises at a damaged frame or image, "skip" passes it over and says so in the report and the warnings.
    """

    width: int
    height: int
    start: float = 0.0
    frame_count: int = 16
    fps: float | None = None
    stride: int = 1
    crop: Crop = "centre"
    folder_fps: float = 8.0
    memory: float = math.inf
    damaged: Damaged = "refuse"

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"The clip size is {self.width}x{self.height}; both sides need at least 1 pixel.")
        for name in ("start", "fps", "folder_fps"):  # a linked number may be anything
            if not math.isfinite(getattr(self, name) or 0):
                raise ValueError(f"{name} is {getattr(self, name)}; it needs to be a number.")
        if self.start < 0:
            raise ValueError(f"start is {self.start} s; it counts from the first frame, so use 0 or more.")
        if self.frame_count < 0 or self.frame_count == 1:
            raise ValueError(f"frame_count is {self.frame_count}; motion needs at least 2 frames (0 takes all).")
        if (self.fps is not None and self.fps < MIN_FPS) or self.folder_fps < MIN_FPS:
            raise ValueError(f"fps is {self.fps} and folder_fps {self.folder_fps}; both need at least {MIN_FPS}.")
        if self.stride < 1 or (self.fps is not None and self.stride != 1):
            raise ValueError(f"stride is {self.stride}; use 1 or more, and 1 where fps is given.")
        check_option("crop", self.crop, Crop)
        check_option("damaged", self.damaged, Damaged)


@dataclass(frozen=True)
class Clip:
    """Frames as the model will see them.

    Fields:
        frames: [F, H, W, 3], float32, 0..1.
        fps: frames per second of `frames`.
        timestamps: seconds of each frame after the film's first, as the film has them.
        report: one line, such as "91 frames at 29.97 fps → 16 at 8 fps, 0.0-2.0 s, 718x718 → 256x256 centre crop".
        warnings: parts of the report that a user needs to see, such as "1 damaged frame passed over at 3.2 s".
    """

    frames: Tensor
    fps: float
    timestamps: tuple[float, ...]
    report: str
    warnings: tuple[str, ...] = ()


def read_clip(path: Path, request: ClipRequest, check: Check = no_check) -> Clip:
    """Read a clip from a video, an animated gif or webp, or a folder of images in natural order.

    Streams: no more is decoded than from the key frame before `start` (gif, webp and avi with B frames: from the first
    frame) to the frame after the last one taken (interlaced: two), and only the taken frames are kept. Frames are never repeated, and
    ordered and timed by presentation, whatever the container.

    Pictures are as a person sees them: in images and videos alike transparent parts become black; films are turned upright
    and mirrored as they say, pixels that are not square are widened or heightened, HDR and wide colours become ordinary
    ones, interlaced frames are deinterlaced. The report names what was done of the last three.

    Args:
        check: called for every packet and picture; what it raises, such as a cancel, ends the reading.

    Raises:
        ValueError: unreadable file, folder without images, images or frames of several sizes, film too short, fps above
            what the film has frames for, a damaged frame where they are refused, or frames that cannot be put in order.
    """
    if not path.exists():
        raise ValueError(f"There is no clip {path.name!r}. Pick or upload one.")
    try:
        with open_film(
            path, start=request.start, folder_fps=request.folder_fps, damaged=request.damaged, check=check
        ) as film:
            return _take(path.name, film, request)
    except av.FFmpegError as error:
        raise ValueError(
            f"{path.name} cannot be read as a clip: it is incomplete, or no film. Pick another."
        ) from error
    except OSError as error:
        reason = (error.strerror or "it is damaged").lower()
        raise ValueError(f"{path.name} cannot be read as a clip: {reason}. Pick another.") from error


def write_video(frames: Tensor, fps: float, path: Path) -> None:
    """Write frames [F, H, W, 3], 0..1, as an H.264 mp4 of visually lossless quality.

    Raises:
        ValueError: a side is odd, which the 4:2:0 format of players cannot hold.
    """
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"An mp4 needs even sides, these frames are {width}x{height}. Crop or resize them.")
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fraction(fps), options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in frames.detach():  # one by one: a long clip fills the memory without copies
            pixels = (picture.cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _take(name: str, film: Film, request: ClipRequest) -> Clip:
    rate = fraction(request.fps) if request.fps else film.rate / request.stride
    pictures, times, size = [], [], (0, 0)
    check_memory(request.frame_count or 2, request.width, request.height, request.memory)
    for shot in islice(_picked(name, film, request, rate), request.frame_count or OPEN_END_LIMIT + 1):
        check_memory(len(pictures) + 1, request.width, request.height, request.memory)
        picture = shot.load()
        before, size = size, (picture.shape[1], picture.shape[0])
        if times and size != before:
            raise ValueError(
                f"{name} changes its size at {seconds_text(shot.time)} s, from {before[0]}x{before[1]} to "
                f"{size[0]}x{size[1]} pixels. Take frames before or after that moment."
            )
        pictures.append(fitted(picture, request.width, request.height, request.crop))
        times.append(shot.time)
    if not request.frame_count and len(pictures) > OPEN_END_LIMIT:
        raise ValueError(
            f"{name} has more than {OPEN_END_LIMIT} frames from {seconds_text(request.start)} s, the most that "
            "frame_count 0 takes. Set frame_count, or take fewer with a lower fps or a larger stride."
        )
    if len(pictures) < 2:
        raise ValueError(
            f"{name} has {film.holds}, {len(pictures)} of them from {seconds_text(request.start)} s on; "
            "motion needs at least 2. Lower start or pick a longer clip."
        )
    pace = f"{rate_text(rate)} fps"
    if request.fps is None:
        gaps = [later - earlier for earlier, later in pairwise(times)]
        if max(gaps) > Fraction(5, 4) / rate or min(gaps) < Fraction(3, 4) / rate:
            rate = len(gaps) / sum(gaps)
            apart = f"{seconds_text(min(gaps))} to {seconds_text(max(gaps))} s apart"
            pace = f"{rate_text(rate)} fps on average (uneven, {apart})"
        if request.stride > 1:
            pace += f" (stride {request.stride})"
    else:
        away = max(abs(time - fraction(request.start) - place / rate) for place, time in enumerate(times))
        if away > 1 / film.rate:
            pace += f" (uneven, up to {seconds_text(away)} s off)"
    span = f"{seconds_text(times[0])}-{seconds_text(times[0] + len(times) / rate)} s"
    report = f"{film.holds} → {len(times)} at {pace}, {span}, {_resizing(size, request)}"
    frames = torch.from_numpy(np.stack(pictures))
    seconds = tuple(float(time) for time in times)
    return Clip(frames, float(rate), seconds, "; ".join([report, *film.notes]), tuple(film.warnings))


def _picked(name: str, film: Film, request: ClipRequest, rate: Fraction) -> Iterator[Shot]:
    """The shots nearest to start, start + 1/fps, ..., or every stride-th from the one nearest to start.

    Runs to the end of the film only where that is asked for (frame_count 0) or the film is too short.
    """
    start = moment = fraction(request.start)
    passed, end = 0, Fraction(0)
    for shot, until in _spans(film):
        end = shot.time + 1 / film.rate
        if request.fps is None:
            if until >= start:
                if passed % request.stride == 0:
                    yield shot
                passed += 1
            continue
        if moment <= until:
            yield shot
            moment += 1 / rate
        if moment <= until:
            raise ValueError(
                f"{name} has {_contents(film)}, too few for {rate_text(rate)} fps: its frame at "
                f"{seconds_text(shot.time)} s would be repeated. Lower fps or use a stride."
            )
    if start >= end:
        raise ValueError(
            f"{name} has {_contents(film)} and ends at {seconds_text(end)} s; start is {seconds_text(start)} s. Lower start."
        )
    if request.frame_count:
        need, left = seconds_text(request.frame_count / rate), seconds_text(end - start)
        lower = "Lower start or frame_count" if start else "Lower frame_count"
        quicker = " or stride" if request.stride > 1 else ", or raise fps" if rate < film.rate else ""
        raise ValueError(
            f"{name} has {_contents(film)}; {request.frame_count} frames at {rate_text(rate)} fps need {need} s "
            f"from {seconds_text(start)} s, it has {left} s. {lower}{quicker}."
        )


def _contents(film: Film) -> str:
    """What a film holds, and what of it could not be taken."""
    return f"{film.holds} ({'; '.join(film.warnings)})" if film.warnings else film.holds


def _spans(film: Film) -> Iterator[tuple[Shot, Fraction]]:
    """Each shot with the last moment that lies nearer to it than to the next."""
    before = None
    for shot in film.shots:
        if before:
            yield before, (before.time + shot.time) / 2
        before = shot
    if before:
        yield before, before.time + 1 / (2 * film.rate)


def _resizing(size: tuple[int, int], request: ClipRequest) -> str:
    before, after = f"{size[0]}x{size[1]}", f"{request.width}x{request.height}"
    return before if before == after else f"{before} → {after} {_CROP_WORDS[request.crop]}"
