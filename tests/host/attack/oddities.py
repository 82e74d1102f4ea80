"""Draws values that no node was written for: in widgets, in names, in what is linked, in tensors."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

NUMBERS = [math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e400, 2**70, -(2**63), -1, 0, 1.5, -0.0, 10**400]
OTHERS = [None, "", "8", " ", [], [1, 2], {}, {"a": 1}, True, False, 1j, b"\0", (), set(), object(), range(3), ...]
TEXTS = [
    "",
    " ",
    "\0",
    "a\nb",
    "half \ud83d",
    "x" * 19_999,
    "x" * 100_000,
    "日本語" * 50,
    "\u202eabc",
    "%s%n{0}",
    "..",
    "/",
    "(" * 3000,
    "([a-z0-9_.]+)+!",
    "a{99999999999}",
    "(?P<n>a)(?P=n)",
    "(?i:.*)",
    "[",
    "\\",
    ".*attn.*",
    "haar",
    "dmey",
    "1,2,3",
    "nan, inf",
    "1e400," * 50,
    "0-9",
    "9-0",
    "-",
    "0-99999999999999",
    ",,,",
    "1e3",
    "٣",
]
NAMES = ["", ".", "..", "a", "run/", "sub/.", "CON", "nul.txt", "Lpt1", " ", "...", "~", "-rf", "%date%", "a" * 248]
NAMES += ["é" * 100, "日" * 61, "😀" * 40, "a\0b", "a\tb", "a\nb", "a:b", "a|b", "a?b", "half \ud83d", "\u202ea", "a. "]
NAMES += ["%year%/%month%", "a%width%", "C:", "name.safetensors", "a#?&", "*", '"', "<b>"]


def value(drawn: random.Random, kind: str) -> Any:
    """An odd value for a widget of a kind such as "INT"."""
    if kind in ("INT", "FLOAT"):
        return drawn.choice(NUMBERS if drawn.random() < 0.7 else OTHERS)
    if kind in ("STRING", "COMBO"):
        return drawn.choice(TEXTS if drawn.random() < 0.7 else [*NUMBERS, *OTHERS])
    return drawn.choice([*NUMBERS, *OTHERS, "yes"])


def name(drawn: random.Random) -> str:
    """A file name prefix, of parts that each may be trouble."""
    parts = [drawn.choice(NAMES) for _ in range(drawn.choice([1, 1, 1, 2, 2, 3, 5]))]
    return drawn.choice(["/", "/", "\\", "//", ""]).join(parts)


def tensor(drawn: random.Random, base: Tensor) -> tuple[str, Any]:
    """What becomes of a tensor: how, and the outcome."""
    how, change = drawn.choice(list(_CHANGES.items()))
    base = base.detach().clone().contiguous()
    return how, change(base if base.ndim else base.reshape(1), drawn)


def _with(number: float) -> Any:
    def change(base: Tensor, drawn: random.Random) -> Tensor:
        base = base.clone()
        base.view(-1)[drawn.randrange(base.numel())] = number
        return base

    return change


def _resized(size: int) -> Any:
    def change(base: Tensor, drawn: random.Random) -> Tensor:
        axis = drawn.randrange(base.ndim)
        shape = list(base.shape)
        shape[axis] = size
        return torch.rand(shape)

    return change


def _in_dtype(dtype: torch.dtype) -> Any:
    return lambda base, _: base.to(dtype)


def _nested(base: Tensor, _: Any) -> Any:
    from comfy.nested_tensor import NestedTensor

    return NestedTensor([base, base[..., :1]])


_CHANGES: dict[str, Any] = {
    "a NaN": _with(math.nan),
    "an inf": _with(math.inf),
    "1e30": _with(1e30),
    "1e7 everywhere": lambda base, _: torch.full_like(base, 1e7),
    "zeros": lambda base, _: torch.zeros_like(base),
    "constant": lambda base, _: torch.full_like(base, 0.5),
    "an axis of 0": _resized(0),
    "an axis of 1": _resized(1),
    "an axis of 2": _resized(2),
    "an axis of 7": _resized(7),
    "an axis of 37": _resized(37),
    "one axis less": lambda base, drawn: base.select(drawn.randrange(base.ndim), 0),
    "one axis more": lambda base, drawn: base.unsqueeze(drawn.randrange(base.ndim + 1)),
    "no axis": lambda base, _: base.reshape(-1)[0],
    "flat": lambda base, _: base.reshape(-1),
    "nothing": lambda *_: torch.zeros(0),
    "axes swapped": lambda base, _: base.transpose(0, -1),
    "strided": lambda base, _: torch.stack([base, base], -1)[..., 0],
    "expanded": lambda base, _: base.reshape(-1)[0].expand(base.shape),
    "two in a batch": lambda base, _: torch.cat([base, base]),
    "float16": _in_dtype(torch.float16),
    "bfloat16": _in_dtype(torch.bfloat16),
    "float64": _in_dtype(torch.float64),
    "float8": _in_dtype(torch.float8_e4m3fn),
    "int64": _in_dtype(torch.int64),
    "uint8": _in_dtype(torch.uint8),
    "bool": _in_dtype(torch.bool),
    "complex64": _in_dtype(torch.complex64),
    "on meta": lambda base, _: base.to("meta"),
    "sparse": lambda base, _: base.to_sparse(),
    "with gradient": lambda base, _: base.clone().requires_grad_(),
    "nested": _nested,
    "a list": lambda base, _: base.flatten()[:4].tolist(),
    "numpy": lambda base, _: base.numpy(),
    "None": lambda *_: None,
}


def latent(drawn: random.Random, base: dict[str, Any]) -> tuple[str, Any]:
    """A LATENT of which the samples, the mask or the whole is odd."""
    samples, which = base["samples"], drawn.random()
    if which < 0.7:
        how, changed = tensor(drawn, samples)
        return f"samples: {how}", {**base, "samples": changed}
    if which < 0.95:
        shape = drawn.choice([samples.shape[-2:], (1, *samples.shape[-2:]), samples.shape[-3:], samples.shape])
        how, changed = tensor(drawn, torch.ones(shape))
        return f"noise_mask: {how}", {**base, "noise_mask": changed}
    return "batch_index", {**base, "batch_index": drawn.choice([[], [-1], ["a"], 3, [math.nan], None])}


# Without control, hooks, gligen and area: the host's own nodes alone make them, and its own code alone reads them.
_EXTRAS: dict[str, Any] = {
    "pooled_output": lambda drawn: tensor(drawn, torch.rand(1, 16))[1],
    "concat_latent_image": lambda drawn: tensor(drawn, torch.rand(1, 12, 4, 8, 8))[1],
    "guidance": lambda drawn: drawn.choice(NUMBERS),
    "mask": lambda drawn: torch.rand(1, 3, 3),
    "strength": lambda drawn: drawn.choice(NUMBERS),
    "start_percent": lambda drawn: drawn.choice(NUMBERS),
    "attention_mask": lambda drawn: tensor(drawn, torch.ones(1, 4))[1],
    "reference_latents": lambda drawn: [tensor(drawn, torch.rand(1, 12, 1, 8, 8))[1]],
    "frame_rate": lambda drawn: drawn.choice(NUMBERS),
    "spectral_motion_warning": lambda drawn: drawn.choice(OTHERS),
    "unheard_of": lambda drawn: drawn.choice(OTHERS),
}


def conditioning(drawn: random.Random, base: list) -> tuple[str, Any]:
    """A CONDITIONING of which the text, what it carries or the whole is odd."""
    (text, extra), which = base[0], drawn.random()
    if which < 0.5:
        how, changed = tensor(drawn, text)
        return f"text: {how}", [[changed, dict(extra)]]
    if which < 0.85:
        key = drawn.choice(list(_EXTRAS))
        carried = _EXTRAS[key](drawn)
        return f"{key}: {str(type(carried).__name__)}", [[text, {**extra, key: carried}]]
    odd = [[], base * 3, [[text]], [[text, extra, 1]], [text], [[text, []]], [[None, {}]], [(text, dict(extra))], {}]
    return "as a whole", drawn.choice(odd)


def lora(drawn: random.Random, base: dict[str, Tensor]) -> tuple[str, Any]:
    """LORA_MODEL tensors of which one, a name or the whole is odd."""
    tensors, which = dict(base), drawn.random()
    key = drawn.choice(list(tensors))
    if which < 0.7:
        how, changed = tensor(drawn, tensors[key])
        return f"{key.rsplit('.', 2)[-2]}: {how}", {**tensors, key: changed}
    if which < 0.85:
        moved = tensors.pop(key)
        new = drawn.choice(["", key.upper(), key + ".weight", "x" * 5000, "\0", "half \ud83d", "lora_unet_x", "a.b.c"])
        return f"renamed to {new[:10]!r}", {**tensors, new: moved}
    odd = {
        "one tensor missing": {name: value for name, value in tensors.items() if name != key},
        "one tensor alone": {key: tensors[key]},
        "a number for a key": {**tensors, 5: tensors[key]},
        "a text for a tensor": {**tensors, key: "text"},
    }
    return drawn.choice(list(odd.items()))


def wrong_links(world: Any) -> Iterator[tuple[str, Any]]:
    """One of each kind of value that a link could bring."""
    yield from {
        "MODEL": world.model,
        "CLIP": world.clip,
        "VAE": world.vae,
        "IMAGE": world.frames,
        "LATENT": copy.copy(world.latent),
        "CONDITIONING": world.positive,
        "MOTION_LOSS": world.loss,
        "LORA_MODEL": world.lora,
        "AUDIO": {"waveform": torch.zeros(1, 2, 10), "sample_rate": 8},
        "STRING": "text",
        "a class": type(world.model),
        "a lambda": lambda: 0,
        "None": None,
    }.items()
