"""Every program's names of a network's layers, both ways.

Ours are the host's: those of the networks' first publication but for HunyuanVideo, of which hosts have their own. A table holds pairs
``(ours, theirs)`` or ``(ours, theirs, rows)``; ``#`` stands for a number, ``*`` for any rest, and the two names hold the same ones in the
same order. ``rows`` says which outputs of our layer theirs has, where theirs has not all of them or in another order.

UNet3D and AnimateDiff networks are diffusers' own, so their names need no table; of AnimateDiff's first names see
:mod:`sma.networks.animatediff`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Rows = tuple[tuple[int, int], ...]

# diffusers.WanTransformer3DModel, WanVACETransformer3DModel
_WAN = (
    *(
        pair
        for blocks in ("blocks.#", "vace_blocks.#")
        for pair in (
            *((f"{blocks}.self_attn.{x}", f"{blocks}.attn1.to_{x}") for x in "qkv"),
            (f"{blocks}.self_attn.o", f"{blocks}.attn1.to_out.0"),
            *((f"{blocks}.cross_attn.{x}", f"{blocks}.attn2.to_{x}") for x in "qkv"),
            (f"{blocks}.cross_attn.o", f"{blocks}.attn2.to_out.0"),
            # of image-to-video: keys and values of the start image
            (f"{blocks}.cross_attn.k_img", f"{blocks}.attn2.add_k_proj"),
            (f"{blocks}.cross_attn.v_img", f"{blocks}.attn2.add_v_proj"),
            (f"{blocks}.ffn.0", f"{blocks}.ffn.net.0.proj"),
            (f"{blocks}.ffn.2", f"{blocks}.ffn.net.2"),
            (f"{blocks}.before_proj", f"{blocks}.proj_in"),
            (f"{blocks}.after_proj", f"{blocks}.proj_out"),
        )
    ),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    ("patch_embedding", "patch_embedding"),
    ("vace_patch_embedding", "vace_patch_embedding"),
    ("head.head", "proj_out"),
)
# diffusers.LTXVideoTransformer3DModel, LTX2VideoTransformer3DModel
_LTX = (
    *(
        (f"transformer_blocks.#.{part}.*", f"transformer_blocks.#.{part}.*")
        for part in "attn1 attn2 ff audio_attn1 audio_attn2 audio_ff audio_to_video_attn video_to_audio_attn".split()
    ),
    ("caption_projection.*", "caption_projection.*"),
    ("audio_caption_projection.*", "audio_caption_projection.*"),
    ("patchify_proj", "proj_in"),
    ("audio_patchify_proj", "audio_proj_in"),
    ("adaln_single.*", "time_embed.*"),
    ("audio_adaln_single.*", "audio_time_embed.*"),
    ("prompt_adaln_single.*", "prompt_adaln.*"),
    ("audio_prompt_adaln_single.*", "audio_prompt_adaln.*"),
    ("av_ca_video_scale_shift_adaln_single.*", "av_cross_attn_video_scale_shift.*"),
    ("av_ca_audio_scale_shift_adaln_single.*", "av_cross_attn_audio_scale_shift.*"),
    ("av_ca_a2v_gate_adaln_single.*", "av_cross_attn_video_a2v_gate.*"),
    ("av_ca_v2a_gate_adaln_single.*", "av_cross_attn_audio_v2a_gate.*"),
    ("proj_out", "proj_out"),
    ("audio_proj_out", "audio_proj_out"),
)
# diffusers.HunyuanVideoTransformer3DModel. It splits what is one layer here.
_HUNYUAN = (
    *(
        ("double_blocks.#.img_attn.qkv", f"transformer_blocks.#.attn.{name}", rows)
        for name, rows in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"))
    ),
    *(
        ("double_blocks.#.txt_attn.qkv", f"transformer_blocks.#.attn.{name}", rows)
        for name, rows in (("add_q_proj", "q"), ("add_k_proj", "k"), ("add_v_proj", "v"))
    ),
    ("double_blocks.#.img_attn.proj", "transformer_blocks.#.attn.to_out.0"),
    ("double_blocks.#.txt_attn.proj", "transformer_blocks.#.attn.to_add_out"),
    ("double_blocks.#.img_mlp.0", "transformer_blocks.#.ff.net.0.proj"),
    ("double_blocks.#.img_mlp.2", "transformer_blocks.#.ff.net.2"),
    ("double_blocks.#.txt_mlp.0", "transformer_blocks.#.ff_context.net.0.proj"),
    ("double_blocks.#.txt_mlp.2", "transformer_blocks.#.ff_context.net.2"),
    ("double_blocks.#.img_mod.lin", "transformer_blocks.#.norm1.linear"),
    ("double_blocks.#.txt_mod.lin", "transformer_blocks.#.norm1_context.linear"),
    *(
        ("single_blocks.#.linear1", f"single_transformer_blocks.#.{name}", rows)
        for name, rows in (("attn.to_q", "q"), ("attn.to_k", "k"), ("attn.to_v", "v"), ("proj_mlp", "rest"))
    ),
    ("single_blocks.#.linear2", "single_transformer_blocks.#.proj_out"),
    ("single_blocks.#.modulation.lin", "single_transformer_blocks.#.norm.linear"),
    *(
        (
            "txt_in.individual_token_refiner.blocks.#.self_attn.qkv",
            f"context_embedder.token_refiner.refiner_blocks.#.attn.to_{x}",
            x,
        )
        for x in "qkv"
    ),
    *(
        (
            f"txt_in.individual_token_refiner.blocks.#.{ours}",
            f"context_embedder.token_refiner.refiner_blocks.#.{theirs}",
        )
        for ours, theirs in (
            ("self_attn.proj", "attn.to_out.0"),
            ("mlp.0", "ff.net.0.proj"),
            ("mlp.2", "ff.net.2"),
            ("adaLN_modulation.1", "norm_out.linear"),
        )
    ),
    ("txt_in.input_embedder", "context_embedder.proj_in"),
    *(
        (f"{ours}.{ours_end}", f"{theirs}.{theirs_end}")
        for ours, theirs in (
            ("txt_in.t_embedder", "context_embedder.time_text_embed.timestep_embedder"),
            ("txt_in.c_embedder", "context_embedder.time_text_embed.text_embedder"),
            ("time_in", "time_text_embed.timestep_embedder"),
            ("vector_in", "time_text_embed.text_embedder"),
            ("guidance_in", "time_text_embed.guidance_embedder"),
        )
        for ours_end, theirs_end in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
    ),
    ("img_in.proj", "x_embedder.proj"),
    # Ours answers shift and scale, theirs scale and shift.
    ("final_layer.adaLN_modulation.1", "norm_out.linear", "swapped"),
    ("final_layer.linear", "proj_out"),
)
# HunyuanVideo as Tencent published it. musubi-tuner (with underscores) and diffusion-pipe write these names.
_HUNYUAN_ORIGINAL = (
    *(
        pair
        for x in ("img", "txt")
        for pair in (
            (f"double_blocks.#.{x}_attn.qkv", f"double_blocks.#.{x}_attn_qkv"),
            (f"double_blocks.#.{x}_attn.proj", f"double_blocks.#.{x}_attn_proj"),
            (f"double_blocks.#.{x}_mlp.0", f"double_blocks.#.{x}_mlp.fc1"),
            (f"double_blocks.#.{x}_mlp.2", f"double_blocks.#.{x}_mlp.fc2"),
            (f"double_blocks.#.{x}_mod.lin", f"double_blocks.#.{x}_mod.linear"),
        )
    ),
    ("single_blocks.#.linear1", "single_blocks.#.linear1"),
    ("single_blocks.#.linear2", "single_blocks.#.linear2"),
    ("single_blocks.#.modulation.lin", "single_blocks.#.modulation.linear"),
    *(
        (f"txt_in.individual_token_refiner.blocks.#.{ours}", f"txt_in.individual_token_refiner.blocks.#.{theirs}")
        for ours, theirs in (
            ("self_attn.qkv", "self_attn_qkv"),
            ("self_attn.proj", "self_attn_proj"),
            ("mlp.0", "mlp.fc1"),
            ("mlp.2", "mlp.fc2"),
            ("adaLN_modulation.1", "adaLN_modulation.1"),
        )
    ),
    ("txt_in.input_embedder", "txt_in.input_embedder"),
    ("txt_in.c_embedder.in_layer", "txt_in.c_embedder.linear_1"),
    ("txt_in.c_embedder.out_layer", "txt_in.c_embedder.linear_2"),
    *(
        (f"{part}.{ours}", f"{part}.mlp.{theirs}")
        for part in ("txt_in.t_embedder", "time_in", "guidance_in")
        for ours, theirs in (("in_layer", "0"), ("out_layer", "2"))
    ),
    ("vector_in.in_layer", "vector_in.in_layer"),
    ("vector_in.out_layer", "vector_in.out_layer"),
    ("img_in.proj", "img_in.proj"),
    ("final_layer.linear", "final_layer.linear"),
    ("final_layer.adaLN_modulation.1", "final_layer.adaLN_modulation.1"),
)
# Program -> family, by the name it has in sma.roles, -> pairs.
TABLES: dict[str, dict[str, tuple[tuple[str, ...], ...]]] = {
    "diffusers": {"Wan": _WAN, "LTX-Video": _LTX, "HunyuanVideo": _HUNYUAN},
    "original": {"HunyuanVideo": _HUNYUAN_ORIGINAL},
}


@dataclass(frozen=True)
class Part:
    """A layer of another program.

    Attributes:
        name: what that program calls it.
        rows: the outputs of our layer that it has, ranges (first, end) in its own order; () where it has all of them in ours.
    """

    name: str
    rows: Rows = ()


@dataclass(frozen=True)
class Place:
    """Where a named layer is among ours.

    Attributes:
        module: our name of the layer.
        rows: as of :class:`Part`.
        program: whose name it was: "ours", "diffusers" or "original".
    """

    module: str
    rows: Rows = ()
    program: str = "ours"


def parts_of(module: str, program: str, shape: Sequence[int]) -> tuple[Part, ...]:
    """Names the layers that another program has for one of ours: one, or several where ours is fused; () where none is known.

    Example:
        >>> parts_of("double_blocks.0.img_attn.qkv", "diffusers", (384, 128))[1]
        Part(name='transformer_blocks.0.attn.to_k', rows=((128, 256),))

    Args:
        program: a key of :data:`TABLES`.
        shape: of the layer's weight, [out, in, *kernel].
    """
    pairs = itertools.chain.from_iterable(_COMPILED[program].values())
    return tuple(Part(name, _rows(rows, shape)) for pair, rows in pairs if (name := pair.theirs(module)) is not None)


def theirs_of(module: str, program: str) -> str | None:
    """Names the layer that is one of ours in another program; None where it is unknown there, split or in another order.

    Args:
        program: a key of :data:`TABLES`.
    """
    pairs = itertools.chain.from_iterable(_COMPILED[program].values())
    return next((name for pair, rows in pairs if not rows and (name := pair.theirs(module)) is not None), None)


def ours_of(name: str) -> tuple[str, ...]:
    """Lists what a layer of another program may be called here, by its name with dots or underscores; families may share a name."""
    found = (pair.ours(name) for families in _COMPILED.values() for pairs in families.values() for pair, _ in pairs)
    return tuple(dict.fromkeys(module for module in found if module is not None))


def spellings(modules: Mapping[str, Sequence[int]]) -> dict[str, Place]:
    """Maps all names that any program has for the layers of a network to where they are, with dots and with underscores for dots.

    Args:
        modules: our name -> weight shape [out, in, *kernel].
    """
    places = {module: Place(module) for module in modules}
    for program, (module, shape) in itertools.product(TABLES, modules.items()):
        for part in parts_of(module, program, shape):
            places.setdefault(part.name, Place(module, part.rows, program))
    for name, place in list(places.items()):
        places.setdefault(name.replace(".", "_"), place)
    return places


class _Pair:
    """One line of a table, ready to be used both ways."""

    def __init__(self, ours: str, theirs: str) -> None:
        self._ours, self._form, self._their_form = _pattern(ours), _form(ours), _form(theirs)
        self._readable = [_pattern(name) for name in (theirs, theirs.replace(".", "_"), ours.replace(".", "_"))]

    def ours(self, name: str) -> str | None:
        matches = (_renamed(name, pattern, self._form) for pattern in self._readable)
        return next((module for module in matches if module is not None), None)

    def theirs(self, module: str) -> str | None:
        return _renamed(module, self._ours, self._their_form)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


def _form(template: str) -> str:
    return template.replace("#", "{}").replace("*", "{}")


def _renamed(name: str, pattern: re.Pattern[str], form: str) -> str | None:
    match = pattern.fullmatch(name)
    return None if match is None else form.format(*match.groups())


def _rows(kind: str, shape: Sequence[int]) -> Rows:
    """Queries, keys and values have as many outputs each as the layer has inputs; a feed-forward has the rest."""
    outputs, width = shape[0], math.prod(shape[1:])
    return {
        "": (),
        "q": ((0, width),),
        "k": ((width, 2 * width),),
        "v": ((2 * width, 3 * width),),
        "rest": ((3 * width, outputs),),
        "swapped": ((outputs // 2, outputs), (0, outputs // 2)),
    }[kind]


_COMPILED = {
    program: {
        family: [(_Pair(ours, theirs), rows[0] if rows else "") for ours, theirs, *rows in pairs]
        for family, pairs in families.items()
    }
    for program, families in TABLES.items()
}
