"""Damages files the way disks, downloads and ill will do: bytes anywhere, and what stands in the headers of their formats."""

from __future__ import annotations

import io
import json
import random
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from PIL import Image

_WORDS = [0, 1, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**9]


def in_bytes(data: bytes, drawn: random.Random) -> bytes:
    """Bytes cut, copied, turned, filled, put in or put where a size may stand; half of it near the start, where headers are."""
    changed = bytearray(data)
    for _ in range(drawn.choice([1, 1, 2, 3, 8])):
        at = drawn.randrange(min(len(changed), 200) if drawn.random() < 0.5 else len(changed)) if changed else 0
        match drawn.randrange(7):
            case 0:
                del changed[at:]
            case 1:
                del changed[at : at + drawn.randint(1, 64)]
            case 2:
                changed[at : at + 1] = bytes([changed[at] ^ 1 << drawn.randrange(8)] if changed else b"")
            case 3:
                changed[at : at + drawn.randint(1, 64)] = drawn.choice([b"\0", b"\xff"]) * drawn.randint(1, 64)
            case 4:
                changed[at:at] = drawn.randbytes(drawn.randint(1, 64))
            case 5:
                kind = drawn.choice(["<Q", ">Q", "<I", ">I", "<H", ">H"])
                word = struct.pack(kind, drawn.choice(_WORDS) % 2 ** (8 * struct.calcsize(kind)))
                changed[at : at + len(word)] = word
            case _:
                other = drawn.randrange(len(changed) + 1)
                changed[at:at] = changed[other : other + drawn.randint(1, 200)]
    return bytes(changed)


_JSON = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    1e308,
    "",
    "x",
    "NaN",
    "1e400",
    "-1",
    "9" * 5000,
    "[" * 3000,
    [],
    [[]],
    {},
    "\ud83d",
]
_JSON += ['{"a": 1}', "[1, 2]", '[{"step": 1}]', "null", "2", '{"alpha_pattern": {"(a+)+$": 1}}', "nan", "\0"]
_DTYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I8", "U8", "BOOL", "C64", "F4", "x", ""]


def in_header(data: bytes, drawn: random.Random) -> bytes:
    """A safetensors file whose header says something else of its tensors, or of the file."""
    (length,) = struct.unpack("<Q", data[:8])
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    for _ in range(drawn.choice([1, 1, 2, 4])):
        name = drawn.choice(list(header))
        entry = header[name]
        if name == "__metadata__" or (drawn.random() < 0.3 and "__metadata__" in header):
            about = header["__metadata__"]
            if not isinstance(about, dict) or not about or drawn.random() < 0.1:
                header["__metadata__"] = drawn.choice(_JSON)
            else:
                key = drawn.choice(list(about))
                about[key] = _edited(about[key], drawn)
                if drawn.random() < 0.2:
                    about[drawn.choice(_METADATA)] = str(drawn.choice(_JSON))
                if drawn.random() < 0.2:
                    del about[key]
            continue
        if not isinstance(entry, dict):
            continue
        match drawn.randrange(7):
            case 0:
                entry["dtype"] = drawn.choice(_DTYPES)
            case 1:
                entry["shape"] = drawn.choice(
                    [[], [0], [1], [-1], [2**40], [2**32, 2**32], entry.get("shape", [])[::-1]]
                )
            case 2:
                entry["data_offsets"] = drawn.choice([[0, 0], [0, 4], [-4, 0], [2**50, 2**51], [4, 0], [0], "x"])
            case 3:
                del header[name]
                break
            case 4:
                header[drawn.choice(_KEYS) or name.replace("lora", "x")] = header.pop(name)
            case 5:
                header[name] = drawn.choice(_JSON)
            case _:
                # Of one width: a file that is whole, with other numbers in it.
                wide = {
                    "F32": ["I32", "U32"],
                    "F16": ["BF16", "I16", "U16"],
                    "I64": ["F64"],
                    "U8": ["I8", "BOOL", "F8_E4M3"],
                }
                entry["dtype"] = drawn.choice(wide.get(entry.get("dtype"), _DTYPES))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata in order, which the library writes in another order every time."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, sort_keys=True).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


_METADATA = ["rank", "alpha", "ss_network_dim", "ss_network_alpha", "alpha_pattern", "lora_adapter_metadata", "config"]
_METADATA += ["step", "history", "about", "format", "ss_network_args", "modelspec.architecture", "adapter_config.json"]
_KEYS = [
    "",
    "x" * 3000,
    "lora_unet_x.lora_down.weight",
    "a.b.lora_A.weight",
    "generator",
    "adapter/x",
    "optimizer/x.step",
]


def _edited(text: Any, drawn: random.Random) -> Any:
    """A text of a header with another value in the JSON that it may hold."""
    try:
        held = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return drawn.choice(_JSON)
    place: Any = held
    for _ in range(drawn.randint(0, 4)):
        if not isinstance(place, dict | list) or not place:
            break
        key = drawn.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or drawn.random() < 0.3:
            place[key] = drawn.choice(_JSON)
            break
        place = place[key]
    else:
        held = drawn.choice(_JSON)
    return json.dumps(held) if drawn.random() < 0.9 else held


def films() -> dict[str, bytes]:
    """A short film of every kind, by its suffix."""
    frames = [Image.new("RGB", (32, 32), (index * 25, 255 - index * 25, 60)) for index in range(6)]
    made = {}
    for suffix, codec in (
        (".mp4", "libx264"),
        (".mkv", "ffv1"),
        (".webm", "libvpx"),
        (".avi", "mjpeg"),
        (".mov", "mpeg4"),
    ):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format={".mkv": "matroska"}.get(suffix, suffix[1:])) as container:
            stream = container.add_stream(codec, rate=Fraction(8))
            stream.width = stream.height = 32
            stream.pix_fmt = {"mjpeg": "yuvj420p", "ffv1": "bgr0"}.get(codec, "yuv420p")
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_image(frame)))
            container.mux(stream.encode())
        made[suffix] = buffer.getvalue()
    for suffix in (".gif", ".webp", ".png"):
        buffer = io.BytesIO()
        frames[0].save(buffer, suffix[1:], save_all=True, append_images=frames[1:], duration=125)
        made[suffix] = buffer.getvalue()
    return made


def pictures() -> dict[str, bytes]:
    """A picture of every kind, by its suffix."""
    picture = Image.radial_gradient("L").resize((24, 24)).convert("RGB")
    made = {}
    for suffix, kind in ((".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"), (".bmp", "BMP"), (".tiff", "TIFF")):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        made[suffix] = buffer.getvalue()
    return made


class Runs:
    """Code that a pickle wants to run; it would leave a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (open, (str(self.trace), "w"))


def pickles(tensors: dict[str, torch.Tensor], trace: Path) -> dict[str, bytes]:
    """Pickles that hold something else than a flat table of plain tensors; the first is one."""
    holds_itself: dict[str, Any] = dict(tensors)
    holds_itself["state_dict"] = holds_itself
    name, tensor = next(iter(tensors.items()))
    held = {
        "plain": tensors,
        "wrapped": {"state_dict": {"state_dict": tensors}},
        "holds itself": holds_itself,
        "runs code": {**tensors, "x": Runs(trace)},
        "a list": list(tensors.values()),
        "a number": 5,
        "an empty table": {},
        "sparse": {**tensors, name: tensor.to_sparse()},
        "without values": {**tensors, name: tensor.to("meta")},
        "quantised": {**tensors, name: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8)},
        "complex": {**tensors, name: tensor.to(torch.complex64)},
        "whole numbers": {**tensors, name: tensor.long()},
        "numbers for names": dict(enumerate(tensors.values())),
        "deep": _deep(tensor),
        "a whole module": torch.nn.Linear(2, 2),
    }
    made = {}
    for kind, content in held.items():
        buffer = io.BytesIO()
        try:
            torch.save(content, buffer)
        except RecursionError:
            continue
        made[kind] = buffer.getvalue()
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=False)
    return made | {"old": buffer.getvalue()}


def _deep(tensor: torch.Tensor) -> Any:
    held: Any = tensor
    for _ in range(150):
        held = {"state_dict": held}
    return held
