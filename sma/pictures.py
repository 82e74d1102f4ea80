"""Pictures of motion: residual energy, signed residual maps, wavelet bands, spectra, contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .plot import BLUE, DIVERGING, FAINT, GREY, INK, ORANGE, SEQUENTIAL, Plot, colours
from .spectral import default_levels, frequency_weight
from .wavelets import temporal_dwt

SIZE = (840, 525)  # pixels of every plot
_MAPS = 12  # more would be too small to read
_SHEET_FRAMES = 8


def residual_pictures(residual: Tensor) -> list[Image.Image]:
    """Energy per frame, signed maps, wavelet bands over time, amplitude spectrum with the frequency weight.

    Args:
        residual: [C, T, H, W], signed, T = frames - 1, of pixels or latents.
    """
    residual = residual.detach().cpu().float()
    return [f(residual) for f in (energy_picture, maps_picture, wavelet_picture, spectrum_picture)]


def to_images(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as [N, H, W, 3], float32, 0..1."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).float() / 255


def energy_picture(residual: Tensor) -> Image.Image:
    """Mean square of each frame residual [C, T, H, W]."""
    energy = residual.square().mean(dim=(0, 2, 3)).tolist()
    top = max(energy) or 1.0
    mean = sum(energy) / len(energy)
    plot = Plot(
        *SIZE, "Residual energy", f"how much changes from each frame to the next; the line is the mean, {mean:.3g}"
    )
    box = left, upper, right, lower = 116, 100, SIZE[0] - 30, SIZE[1] - 76
    plot.value_axis(0.0, top, box)
    pitch = (right - left) / len(energy)
    for i, value in enumerate(energy):
        x = left + (i + 0.14) * pitch
        plot.box((x, lower - value / top * (lower - upper), x + 0.72 * pitch, lower), BLUE)
    y = lower - mean / top * (lower - upper)
    plot.line([(left, y), (right, y)], ORANGE, 2)
    plot.line([(left, lower), (right, lower)], INK)
    plot.time_axis(len(energy), box)
    plot.upright_text((28, (upper + lower) / 2), "mean squared difference of frames")
    return plot.finish()


def maps_picture(residual: Tensor) -> Image.Image:
    """Maps of signed residuals [C, T, H, W], mean over channels; at most 12, evenly spread over time."""
    _, steps, height, width = residual.shape
    maps = residual.mean(dim=0).numpy()
    shown = np.unique(np.linspace(0, steps - 1, min(steps, _MAPS)).round().astype(int))
    limit = float(np.quantile(np.abs(maps), 0.999)) or 1.0
    some = f", {len(shown)} of {steps} frame pairs" if len(shown) < steps else ""
    plot = Plot(*SIZE, "Signed frame residuals", f"red: values rise, blue: they fall; mean over channels{some}")
    left, upper, right, lower = 24, 88, SIZE[0] - 104, SIZE[1] - 18
    room = 24  # above each map, for its label

    def map_width(columns: int) -> float:
        rows = ceil(len(shown) / columns)
        return min((right - left) / columns - 10, ((lower - upper) / rows - room) * width / height)

    columns = max(range(1, len(shown) + 1), key=map_width)
    rows, across = ceil(len(shown) / columns), map_width(columns)
    down = across * height / width
    margin = ((right - left) - columns * (across + 10)) / 2
    for place, step in enumerate(shown):
        row, column = divmod(place, columns)
        x = left + margin + column * (across + 10)
        y = upper + row * (lower - upper) / rows + room
        plot.text((x + across / 2, y - 11), f"{step + 1}-{step + 2}", anchor="mm", size=14)
        plot.picture(colours(DIVERGING, (maps[step] / limit + 1) / 2), (x, y, x + across, y + down))
    plot.colour_bar(DIVERGING, (right + 16, upper + room, right + 34, lower - 10), (-limit, limit))
    return plot.finish()


def wavelet_picture(residual: Tensor, wave: str = "haar", levels: int | None = None) -> Image.Image:
    """Strength of each temporal wavelet band of residuals [C, T, H, W] over time, as the global loss sees them.

    Args:
        wave, levels: as in `global_loss`.
    """
    steps = residual.shape[1]
    levels = levels or default_levels(steps + 1)
    approximation, details = temporal_dwt(residual[None], wave, levels)
    bands = [*((f"detail {j}", 2**j, d) for j, d in enumerate(details, 1)), ("approximation", 2**levels, approximation)]
    squares = [band[0].square().mean(dim=(0, 2, 3)) for _, _, band in bands]
    total = float(sum(band.sum() for band in squares)) or 1.0
    top = float(max(band.max() for band in squares)) ** 0.5 or 1.0
    plot = Plot(*SIZE, "Wavelet bands over time", f"{wave}; fast changes above, the motion of the whole clip below")
    box = left, upper, right, lower = 178, 116, SIZE[0] - 208, SIZE[1] - 76
    pitch, unit = (lower - upper) / len(bands), (right - left) / steps
    plot.text((right + 14, upper - 14), "energy", size=14, colour=GREY)
    plot.text((SIZE[0] - 24, upper - 22), "RMS coefficient", size=14, anchor="rm", colour=GREY)
    for row, ((name, span, _), square) in enumerate(zip(bands, squares, strict=True)):
        y = upper + row * pitch
        for k, colour in enumerate(colours(SEQUENTIAL, square.sqrt().numpy() / top)):
            start, end = k * span, min((k + 1) * span, steps)
            if start < steps:  # longer filters reach beyond the clip
                plot.box((left + start * unit + 1, y + 1, left + end * unit - 1, y + pitch - 2), tuple(colour))
        plot.text((left - 14, y + pitch / 2 - 9), name, anchor="rm", size=17)
        plot.text((left - 14, y + pitch / 2 + 11), f"{span} frame pairs", anchor="rm", size=13, colour=GREY)
        plot.text((right + 14, y + pitch / 2), f"{100 * float(square.sum()) / total:.1f} %", size=17)
    plot.time_axis(steps, box)
    plot.colour_bar(SEQUENTIAL, (SIZE[0] - 96, upper, SIZE[0] - 78, lower), (0.0, top))
    return plot.finish()


def spectrum_picture(residual: Tensor) -> Image.Image:
    """Mean amplitude spectrum of residuals [C, T, H, W], and the weight the local loss gives each frequency."""
    height, width = residual.shape[-2:]
    amplitude = torch.fft.fftshift(torch.fft.fft2(residual, norm="ortho"), dim=(-2, -1)).abs().mean(dim=(0, 1))
    weight = frequency_weight(height, width)
    decades = amplitude.clamp_min(float(amplitude.max()) * 1e-4 or 1e-12).log10()
    plot = Plot(*SIZE, "Amplitude spectrum of the residuals", "mean over frames and channels, orthonormal FFT")
    for upper, values, title in ((116, decades, "log10 amplitude"), (326, weight, "weight in the local loss")):
        low, high = float(values.min()), float(values.max())
        plot.text((64, upper - 14), title)
        plot.picture(colours(SEQUENTIAL, (values.numpy() - low) / ((high - low) or 1.0)), (64, upper, 224, upper + 160))
        for place, label in ((0, "-0.5"), (80, "0"), (160, "0.5")):
            plot.text((64 + place, upper + 172), label, anchor="mm", size=13)
            plot.text((56, upper + place), label, anchor="rm", size=13)
        plot.colour_bar(SEQUENTIAL, (234, upper, 248, upper + 160), (low, high))

    box = left, upper, right, lower = 378, 116, SIZE[0] - 74, SIZE[1] - 76
    radius = _radius(height, width)
    rings = torch.linspace(0, 0.5, min(height, width) // 2 + 1)
    lines = ((decades, BLUE, "log10 amplitude"), (weight, ORANGE, "weight in the local loss"))
    for side, (values, colour, title) in enumerate(lines):
        profile = [float(values[(radius - ring).abs() <= rings[1] / 2].mean()) for ring in rings]
        low, high = min(profile), max(profile)
        span = (high - low) or 1.0
        points = [
            (left + float(ring) / 0.5 * (right - left), lower - (value - low) / span * (lower - upper))
            for ring, value in zip(rings, profile, strict=True)
        ]
        if side == 0:
            plot.value_axis(low, low + span, box)
        plot.line(points, colour, 3)
        plot.text(((left, right)[side], upper - 14), title, colour=colour, anchor=("lm", "rm")[side])
        for value, y in ((low, lower), (high, upper)):
            if side == 1:
                plot.text((right + 8, y), f"{value:.3g}", size=14, colour=colour)
    for frequency in (0, 0.1, 0.2, 0.3, 0.4, 0.5):
        x = left + frequency / 0.5 * (right - left)
        plot.line([(x, lower), (x, lower + 5)], INK)
        plot.text((x, lower + 18), f"{frequency:g}", anchor="mm", size=14)
    plot.line([(left, lower), (right, lower)], INK)
    plot.text(((left + right) / 2, lower + 46), "spatial frequency, cycles per pixel", anchor="mm")
    return plot.finish()


def _radius(height: int, width: int) -> Tensor:
    """Spatial frequency of each coefficient in cycles per pixel, [H, W], fftshifted."""
    rows, columns = (torch.fft.fftshift(torch.fft.fftfreq(n)) for n in (height, width))
    return (rows[:, None].square() + columns.square()).sqrt()


def contact_sheet(
    rows: Sequence[tuple[str, Tensor]], *, title: str = "", caption: str = "", cell: int = 112
) -> Image.Image:
    """Clips under each other, frames from left to right, to compare by eye.

    Args:
        rows: a label and frames [F, H, W, 3] in 0..1 for each clip. Of more than 8 frames, 8 evenly spread ones are
            shown, by their numbers.
        cell: height of a frame on the sheet, pixels.
    """
    picks = [_spread(len(frames)) for _, frames in rows]
    widths = [round(cell * frames.shape[2] / frames.shape[1]) for _, frames in rows]
    columns = max(len(pick) for pick in picks)
    upper, left, gap = 96 if title else 16, 24, 6
    across, row_height = max(widths) + gap, cell + 52
    plot = Plot(max(560, 2 * left + columns * across), upper + len(rows) * row_height, title, caption)
    for row, ((label, frames), pick, width) in enumerate(zip(rows, picks, widths, strict=True)):
        y = upper + row * row_height
        plot.text((left, y + 8), label, size=17)
        pixels = (frames.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        for column, frame in enumerate(pick):
            x = left + column * across
            plot.box((x - 1, y + 21, x + width + 1, y + 23 + cell), FAINT)
            plot.picture(pixels[frame], (x, y + 22, x + width, y + 22 + cell))
            plot.text((x + width / 2, y + 32 + cell), str(frame + 1), anchor="mm", size=12, colour=GREY)
    return plot.finish()


def _spread(count: int) -> list[int]:
    return np.linspace(0, count - 1, min(count, _SHEET_FRAMES)).round().astype(int).tolist()
