"""Folders of images: which files are frames, what a broken one is called, and what the numbers in the names say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sma.clip import ClipRequest, read_clip
from sma.clip.folder import image_files
from sma.clip.numbering import numbering_notes


@pytest.fixture
def walk(tmp_path):
    """A folder with 12 frames of rising grey."""
    folder = tmp_path / "walk"
    folder.mkdir()
    for i in range(12):
        Image.new("L", (16, 12), 20 * i).save(folder / f"f{i:02}.png")
    return folder


def read(folder, count=12):
    return read_clip(folder, ClipRequest(width=16, height=12, frame_count=count))


def refusal(folder):
    with pytest.raises(ValueError) as refused:
        read(folder)
    assert str(folder.parent) not in str(refused.value)
    return str(refused.value)


def test_hidden_and_foreign_files_and_folders_are_passed_over(walk):
    Image.new("L", (4, 3)).save(walk / ".thumb.png")
    (walk / "._f00.png").write_bytes(b"\0\x05\x16\x07")  # what macOS puts beside files on foreign disks
    for name in ("Thumbs.db", "desktop.ini", "captions.txt", "f00.json", ".DS_Store", "f00.PNG.bak"):
        (walk / name).write_bytes(b"no picture")
    (walk / "masks.png").mkdir()
    (walk / "masks").mkdir()
    Image.new("L", (16, 12)).save(walk / "masks" / "f00.png")
    assert [file.name for file in image_files(walk)] == [f"f{i:02}.png" for i in range(12)]
    clip = read(walk)
    assert (clip.frames.mean(dim=(1, 2, 3)) * 255).round().tolist() == [20 * i for i in range(12)]
    assert clip.report == "12 images at 8 fps → 12 at 8 fps, 0.0-1.5 s, 16x12"
    assert clip.warnings == ()


BROKEN = {
    "cut short": (lambda data: data[:48], "is cut short or damaged. Replace it, or take it out of the folder."),
    "empty": (lambda data: b"", "is an empty file, which cannot be read as a picture. Replace it"),
    "web page": (
        lambda data: b"<!DOCTYPE html><title>404</title>",
        "is a web page, which cannot be read as a picture.",
    ),
    "pointer": (
        lambda data: b"version https://git-lfs.github.com/spec/v1\n",
        "is a Git LFS pointer without the file it",
    ),
    "heic": (lambda data: b"\0\0\0\x18ftypheic" + data, "is a HEIC picture, which cannot be read"),
    "zeros": (lambda data: bytes(len(data)), "is cut short or damaged."),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_by_its_own_name_and_moment(walk, kind):
    spoil, words = BROKEN[kind]
    (walk / "f07.png").write_bytes(spoil((walk / "f07.png").read_bytes()))
    assert refusal(walk).startswith(f"f07.png in walk (image 8 of 12, 0.88 s) {words}")
    assert len(read(walk, 7).frames) == 7  # the frames before it are whole


def test_broken_files_can_be_passed_over_and_are_told(walk):
    for number in (3, 7):
        (walk / f"f{number:02}.png").write_bytes(b"")
    clip = read_clip(walk, ClipRequest(width=16, height=12, frame_count=0, damaged="skip"))
    kept = [i for i in range(12) if i not in (3, 7)]
    assert (clip.frames[:, 0, 0, 0] * 255).round().tolist() == [20 * i for i in kept]
    assert clip.timestamps == tuple(i / 8 for i in kept)  # the others keep their moments
    assert clip.warnings == ("2 damaged images passed over: f03.png, f07.png",)
    assert clip.report.endswith("; 2 damaged images passed over: f03.png, f07.png")


def test_a_refusal_names_the_images_that_were_passed_over(walk):
    (walk / "f03.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"has 12 images at 8 fps \(1 damaged image passed over: f03.png\), too few for 8 fps"
    ):
        read_clip(walk, ClipRequest(width=16, height=12, frame_count=0, fps=8, damaged="skip"))


def test_what_is_no_damage_is_not_passed_over(walk):
    Image.fromarray(np.full((12, 16), 255, np.float32)).save(walk / "f03.tif")
    with pytest.raises(ValueError, match="f03.tif in walk .* holds float values"):
        read_clip(walk, ClipRequest(width=16, height=12, frame_count=0, damaged="skip"))


def test_a_file_that_goes_while_it_is_read_is_named(walk, monkeypatch):
    # A hard error of the system, such as a disk that was taken out.
    monkeypatch.setattr(Image, "open", lambda *_, **__: open(walk / "gone.png", "rb"))  # noqa: PTH123
    assert refusal(walk) == "f00.png in walk (image 1 of 12, 0.0 s) cannot be opened: No such file or directory."


def test_values_that_no_rule_covers_are_refused_under_the_name_of_their_file(walk):
    Image.fromarray(np.full((12, 16), 255, np.float32)).save(walk / "f03.tif")
    assert refusal(walk).startswith("f03.tif in walk (image 5 of 13, 0.5 s) holds float values from 255 to 255;")


def test_a_gap_in_the_numbering_is_told_and_warned_of(walk):
    for number in (4, 5, 9):
        (walk / f"f{number:02}.png").unlink()
    clip = read(walk, 9)
    assert (
        clip.report == "9 images at 8 fps → 9 at 8 fps, 0.0-1.12 s, 16x12; images missing by their numbers: 4-5 and 9"
    )
    assert clip.warnings == ("images missing by their numbers: 4-5 and 9",)


@pytest.mark.parametrize(
    "names, notes",
    [
        ("f1 f2 f3", []),
        ("1 2 4", ["images missing by their numbers: 3"]),
        ("7 8 9", []),  # a cut out of a longer row
        ("f0 f5 f10 f20 f25", ["images missing by their numbers: 15"]),  # every fifth frame
        ("f0 f5 f10 f15", []),
        ("f3 f17 f40 f41", []),  # no row
        ("f1", []),
        ("2 4 6 7", []),
        ("shot2_1_v3 shot2_2_v3 shot2_3_v3 shot2_5_v3", ["images missing by their numbers: 4"]),
        ("ComfyUI_00001_ ComfyUI_00002_ ComfyUI_00004_", ["images missing by their numbers: 3"]),
        ("start f1 f2 f4", []),  # some without a number
        (
            "a1 a2 a4 b1 b2",
            ["2 series of names are read as one film: a1.png to a4.png, then b1.png to b2.png"]
            + ["images missing by their numbers between a1.png and a4.png: 3"],
        ),
        ("cover1 f1 f2 f4", []),
        (" ".join(f"f{i}" for i in range(60) if i % 6), ["images missing by their numbers: 6, 12, 18, 24 and 5 more"]),
    ],
)
def test_what_the_numbers_in_names_say(names, notes):
    assert numbering_notes([f"{name}.png" for name in names.split()]) == notes


def test_the_same_number_twice_is_told():
    names = ["1.jpg", "1.png", "2.png", "3.png"]
    assert numbering_notes(names) == ["1.jpg and 1.png have one number and are read one after the other"]


@pytest.mark.parametrize("place, value", [(8, 7), (36, 2), (36, 7), (72, 2)])
def test_a_tiff_whose_tags_are_damaged_is_named(walk, place, value):
    """The number of its tags is wrong, or the bits of its samples or the place of its pixels are text."""
    Image.new("I;16", (16, 12), 9).save(walk / "f07.tif")
    data = bytearray((walk / "f07.tif").read_bytes())
    data[place] = value
    (walk / "f07.tif").write_bytes(data)
    (walk / "f07.png").unlink()
    words = r"is cut short or damaged|is a tiff that is damaged|holds 0-bit integer values"
    assert re.match(rf"f07.tif in walk \(image 8 of 12, 0.88 s\) ({words})", refusal(walk))


def test_names_that_count_alike_come_in_one_order_on_every_disk(tmp_path, monkeypatch):
    names = ["a1.jpg", "a01.png", "a1.png", "a2.png"]
    for name in names:
        Image.new("L", (4, 3)).save(tmp_path / name)
    for order in (names, names[::-1]):
        monkeypatch.setattr(Path, "iterdir", lambda folder, order=order: (folder / name for name in order))
        assert [file.name for file in image_files(tmp_path)] == names
