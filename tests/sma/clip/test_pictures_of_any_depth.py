"""Every kind of still picture against the numbers it was made of."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from sma.clip import ClipRequest, read_clip
from sma.clip.picture import read_picture

SIZE = (5, 31)  # height and width
RAMP = np.linspace(0, 1, SIZE[0] * SIZE[1]).reshape(SIZE)
WHITE = {"u1": 2**8 - 1, "u2": 2**16 - 1, "u4": 2**32 - 1, "i2": 2**15 - 1, "i4": 2**31 - 1, "f4": 1, "f2": 1, "f8": 1}


def samples(kind, channels, alpha=None):
    """The ramp [H, W, C] in another depth; an odd number of channels is colour whose green runs the other way."""
    planes = {1: [RAMP], 2: [RAMP], 3: [RAMP, 1 - RAMP, RAMP], 4: [RAMP, 1 - RAMP, RAMP]}[channels]
    if alpha is not None:
        planes = [*planes, np.full(SIZE, alpha)]
    levels = np.stack(planes, axis=-1) * WHITE[kind]
    return (levels if kind[0] == "f" else levels.round()).astype(kind)


def colours(grey):
    return np.stack([RAMP, RAMP if grey else 1 - RAMP, RAMP], axis=-1)


def write_tiff(path, values, *, order="<", photometric=1, bits=None, orientation=1, extra_pages=()):
    """An uncompressed tiff of samples [H, W, C], by hand: Pillow writes few kinds, and what it reads is tested here."""
    height, width, channels = values.shape
    bits = bits or 8 * values.dtype.itemsize
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    shorts = {256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric], 274: [orientation]}
    shorts |= {277: [channels], 278: [height], 339: [sample_format] * channels}
    if channels in (2, 4):
        shorts[338] = [2]  # the last channel is alpha
    entries = [(tag, 3, numbers) for tag, numbers in shorts.items()] + [(273, 4, [8]), (279, 4, [len(data)])]
    directory = 8 + len(data)
    room = directory + 2 + 12 * len(entries) + 4
    fields, further = b"", b""
    for tag, kind, numbers in sorted(entries):
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            further += packed
            packed = struct.pack(f"{order}I", room + len(further) - len(packed))
        fields += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", directory)
    path.write_bytes(head + data + struct.pack(f"{order}H", len(entries)) + fields + bytes(4) + further)
    return path


def write_png(path, values, colour, transparent=None):
    """A png of samples [H, W, C] with 8 or 16 bits, by hand."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 8 * values.dtype.itemsize, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if transparent is not None:
        chunks.insert(1, (b"tRNS", struct.pack(">H", transparent)))
    parts = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "i4", "f4"])
def test_grey_tiffs_of_any_depth_load_as_their_ramp(tmp_path, kind, order):
    picture = read_picture(write_tiff(tmp_path / "a.tif", samples(kind, 1), order=order))
    assert picture.dtype == np.float32
    assert np.allclose(picture, colours(grey=True), atol=0.51 / min(WHITE[kind], 2**20) if kind != "f4" else 1e-6)


def test_32_bits_without_a_sign_are_read_by_their_own_white(tmp_path):
    picture = read_picture(write_tiff(tmp_path / "a.tif", samples("u4", 1)))
    assert np.allclose(picture, colours(grey=True), atol=1e-6)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_tiffs_where_zero_is_white_are_not_negatives(tmp_path, kind, order):
    values = WHITE[kind] - samples(kind, 1)
    picture = read_picture(write_tiff(tmp_path / "a.tif", values, order=order, photometric=0))
    assert np.allclose(picture, colours(grey=True), atol=0.51 / 255)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("alpha", [None, 0.4])
def test_colour_tiffs_keep_every_channel_and_lie_over_black(tmp_path, kind, order, alpha):
    path = write_tiff(tmp_path / "a.tif", samples(kind, 3, alpha), order=order, photometric=2)
    # Pillow gives the upper half of 16 bits.
    assert np.allclose(read_picture(path), colours(grey=False) * (alpha or 1), atol=1.01 / 255)


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_grey_tiffs_with_alpha_lie_over_black(tmp_path, kind):
    path = write_tiff(tmp_path / "a.tif", samples(kind, 1, alpha=0.4))
    assert np.allclose(read_picture(path), colours(grey=True) * 0.4, atol=1.01 / 255)


@pytest.mark.parametrize("colour, channels, alpha", [(0, 1, None), (4, 1, 0.4), (2, 3, None), (6, 3, 0.4)])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_pngs_of_either_depth_load_as_their_ramp(tmp_path, kind, colour, channels, alpha):
    path = write_png(tmp_path / "a.png", samples(kind, channels, alpha), colour)
    assert np.allclose(read_picture(path), colours(channels == 1) * (alpha or 1), atol=1.01 / 255)


def test_grey_with_16_bits_keeps_levels_that_8_bits_do_not_have(tmp_path):
    values = np.arange(SIZE[0] * SIZE[1], dtype="u2").reshape(*SIZE, 1) + 5000
    for path in (write_png(tmp_path / "a.png", values, 0), write_tiff(tmp_path / "a.tif", values)):
        assert np.array_equal((read_picture(path)[..., :1] * 65535).round(), values)


@pytest.mark.parametrize("kind, name", [("u1", "L"), ("u2", "grey of 16 bits")])
def test_the_transparent_grey_of_a_png_becomes_black(tmp_path, kind, name):
    values = samples(kind, 1)
    clear = int(values[2, 3, 0])
    picture = read_picture(write_png(tmp_path / "a.png", values, 0, transparent=clear))
    assert np.allclose(picture, colours(grey=True) * (values != clear), atol=0.51 / 255), name


def test_a_12_bit_tiff_is_as_bright_as_its_white(tmp_path):
    pairs = (RAMP[:, :30] * 4095).round().astype(int).reshape(-1, 2)  # two samples in three bytes
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    path = write_tiff(tmp_path / "a.tif", packed.astype("u1").reshape(5, 45, 1), bits=12)
    data = bytearray(path.read_bytes())
    width = data.index(struct.pack("<HHI", 256, 3, 1)) + 8
    data[width : width + 2] = struct.pack("<H", 30)
    path.write_bytes(data)
    assert np.allclose(read_picture(path)[..., 0], RAMP[:, :30], atol=0.51 / 4095)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_that_pillow_writes_is_read(tmp_path, mode):
    grey = Image.fromarray((RAMP * 255).round().astype("u1"))
    if mode in ("I", "F", "I;16"):
        kind = {"I": "i4", "F": "f4", "I;16": "u2"}[mode]
        image = Image.fromarray(samples(kind, 1)[..., 0])
    else:
        image = grey.convert(mode, dither=Image.Dither.NONE)
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "tif" if mode in ("I", "F", "I;16") else "png"
    image.save(tmp_path / f"a.{suffix}", **({"quality": 100} if suffix == "jpg" else {}))
    expected = np.asarray(image, "f4")[..., None] if mode == "1" else colours(grey=True)  # black and white alone
    assert np.allclose(
        read_picture(tmp_path / f"a.{suffix}"), expected, atol=4 / 255 if suffix == "jpg" else 0.51 / 255
    )


def test_a_palette_with_transparent_entries_lies_over_black(tmp_path):
    image = Image.frombytes("P", (3, 2), bytes(range(6)))
    image.putpalette([40 * i for i in range(6) for _ in range(3)])
    image.save(tmp_path / "a.png", transparency=bytes([255, 255, 128, 255, 0, 255]))
    expected = np.array([0, 40, 80 * 128 / 255, 120, 0, 200]).reshape(2, 3) / 255
    assert np.allclose(read_picture(tmp_path / "a.png"), expected[..., None].repeat(3, -1), atol=1e-6)


@pytest.mark.parametrize(
    "values, words",
    [
        (samples("f4", 1) * 255, "holds float values from 0 to 255; a picture needs 0 to 1"),
        (samples("f4", 3) * 8, "holds float values from 0 to 8;"),
        (np.where(RAMP > 0.5, np.nan, RAMP)[..., None].astype("f4"), "holds float values from nan to nan"),
        (samples("i2", 1) - 7, "holds values down to -7"),
        (samples("u4", 1) // 65537, "holds 32-bit values of at most 65535, of 4294967295. Save it with 16 bits"),
        (samples("f2", 1), "holds 16-bit float values, which are not read here. Save it as a png"),
        (samples("f8", 3), "holds 64-bit float values"),
        (samples("i2", 3), "holds 16-bit integer values, which"),
    ],
)
def test_values_whose_white_nobody_knows_are_refused_with_their_range(tmp_path, values, words):
    write_tiff(tmp_path / "a.tif", values, photometric=1 if values.shape[-1] == 1 else 2)
    with pytest.raises(ValueError) as refused:
        read_picture(tmp_path / "a.tif")
    assert str(refused.value).startswith(words)


def test_float_values_a_little_beyond_white_and_black_are_cut(tmp_path):
    path = write_tiff(tmp_path / "a.tif", (RAMP * 1.1 - 0.05)[..., None].astype("f4"))
    assert np.allclose(read_picture(path)[..., 0], (RAMP * 1.1 - 0.05).clip(0, 1), atol=1e-6)


# Row and column of the shown picture's corners in the stored one, by the EXIF standard: where its top left and top right come from.
TURNS = {1: "tl tr", 2: "tr tl", 3: "br bl", 4: "bl br", 5: "tl bl", 6: "bl tl", 7: "br tr", 8: "tr br"}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "tif16", "float colour"])
def test_photos_are_turned_as_their_exif_orientation_says(tmp_path, suffix, orientation):
    stored = np.zeros((4, 6))
    corners = {"tl": (0, 0), "tr": (0, 5), "bl": (3, 0), "br": (3, 5)}
    for shade, corner in zip((0.25, 0.5, 0.75, 1), corners.values(), strict=True):
        stored[corner] = shade
    path = tmp_path / f"a.{suffix[:3] if suffix != 'float colour' else 'tif'}"
    if suffix in ("tif", "tif16"):
        kind = "u1" if suffix == "tif" else "u2"
        write_tiff(path, (stored * WHITE[kind]).astype(kind)[..., None], order=">", orientation=orientation)
    elif suffix == "float colour":
        write_tiff(path, stored[..., None].repeat(3, -1).astype("f4"), photometric=2, orientation=orientation)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        enlarged = stored.repeat(8, 0).repeat(8, 1) if suffix == "jpg" else stored
        Image.fromarray((enlarged * 255).astype("u1")).save(
            path, exif=exif, **({"quality": 100} if suffix == "jpg" else {})
        )
    shown = read_picture(path)[..., 0]
    if suffix == "jpg":
        shown = shown[4::8, 4::8]
    assert shown.shape == ((4, 6) if orientation < 5 else (6, 4))
    left, right = (stored[corners[corner]] for corner in TURNS[orientation].split())
    assert shown[0, 0] == pytest.approx(left, abs=0.02) and shown[0, -1] == pytest.approx(right, abs=0.02)


def test_a_picture_that_is_cut_short_is_not_filled_with_grey(tmp_path, monkeypatch):
    """Some node packs tell Pillow to fill it, for the whole process."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype="u1")
    for suffix in ("png", "jpg", "tif", "bmp"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match="^is cut short or damaged"):
            read_picture(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_animations_and_pages_among_stills_are_refused_with_their_number(tmp_path):
    frames = [Image.new("RGB", (8, 8), (80 * i, 0, 0)) for i in range(3)]
    for suffix in ("png", "webp"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(
            ValueError, match="^is an animation of 3 frames, not a single picture. Take it out of the folder"
        ):
            read_picture(tmp_path / f"a.{suffix}")
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="^holds 3 pages. Save each as a file of its own"):
        read_picture(tmp_path / "a.tif")


def test_a_folder_of_16_bit_pictures_is_a_clip_of_rising_greys(tmp_path):
    shades = [5000 * (i + 1) for i in range(12)]
    for i, shade in enumerate(shades):
        write_png(tmp_path / f"{i}.png", np.full((*SIZE, 1), shade, "u2"), 0)
    clip = read_clip(tmp_path, ClipRequest(width=31, height=5, frame_count=12))
    assert clip.frames.mean(dim=(1, 2, 3)).tolist() == pytest.approx([shade / 65535 for shade in shades], abs=1e-5)
