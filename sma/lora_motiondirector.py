"""MotionDirector's own files: an unnamed list of factors, one pair per layer of a text-to-video UNet."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from .lora_keys import Modules
from .lora_pieces import is_zero
from .lora_reading import Reading, fit

# Its paper's code, utils/lora.py: every Linear inside these parts of a transformer block.
SITES = {
    "temporal": r"(transformer_in|.*temp_attentions\.\d+)\.transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))",
    "spatial": r".*\.attentions\.\d+\.transformer_blocks\.\d+\.(attn1\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))",
}


def read_motiondirector(tensors: Sequence[Tensor], modules: Modules, *, video: int | None = None) -> Reading:
    """Matches MotionDirector's unnamed list [up0, down0, up1, down1, ...] with a text-to-video UNet; its scale is 1.

    Temporal or spatial follows from the number of pairs, and every pair is checked against its layer.

    Args:
        modules: name -> weight shape, in the network's module order.
        video: which one of several spatial LoRAs to take, from 0; a run on several videos stores one per video.

    Raises:
        ValueError: the list is for another network, or holds several LoRAs and ``video`` does not say which.
    """
    sites = {kind: [name for name in modules if re.fullmatch(pattern, name)] for kind, pattern in SITES.items()}
    has = " and ".join(f"{len(names)} {kind}" for kind, names in sites.items())
    pairs = list(zip(tensors[0::2], tensors[1::2], strict=False))
    wrong: str | None = None
    for kind, names in sites.items():
        if not names or len(tensors) % 2 or not pairs or len(pairs) % len(names):
            continue
        copies = len(pairs) // len(names)
        updates = {}
        chosen = 0 if video is None else video
        misfit = None
        for index, (up, down) in enumerate(pairs):
            name = names[index // copies]
            update, misfit = fit(
                down, up, 1.0, tuple(modules[name]), (f"down {index} ({name})", f"up {index} ({name})")
            )
            if misfit is not None:
                break
            if index % copies == chosen:
                updates[name] = update
        if misfit is not None:
            wrong = wrong or str(misfit)
            continue
        if copies > 1 and video is None:
            raise ValueError(
                f"This MotionDirector file holds {copies} {kind} LoRAs, one per training video; exactly one can be worn. "
                f"Read one with sma.lora_motiondirector.read_motiondirector(tensors, modules, video=0 to {copies - 1})."
            )
        if not 0 <= chosen < copies:
            raise ValueError(
                f"video is {video}; this MotionDirector file holds {copies} {kind} LoRAs. Use 0 to {copies - 1}."
            )
        keys = {name: (f"up {name}", f"down {name}") for name in updates}
        zero = frozenset(key for name, update in updates.items() if is_zero(update) for key in keys[name])
        ranks = sorted({update.rank for update in updates.values()})
        return Reading(f"MotionDirector {kind}", updates, keys, layers=tuple(updates), zero=zero, ranks=ranks)
    reason = f": {wrong}" if wrong else ""
    raise ValueError(
        f"This MotionDirector file holds {len(pairs)} unnamed pairs and the model has {has} layers for them{reason}. "
        "Load the text-to-video model (ZeroScope or ModelScope) it was trained on."
    )
