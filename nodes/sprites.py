"""The embedded model: a whole text-to-video pipeline that needs no download."""

from __future__ import annotations

from comfy_api.latest import io

from ..sma.sprites.data import FRAMES, SIZE
from ..sma.sprites.model import PATCH
from ..sma.sprites.prompt import known_words
from .host import sprites


class LoadSpritesModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_LoadSpritesModel",
            display_name="Load Sprites Model",
            category="Spectral Motion/models",
            description=f"A tiny text-to-video model that ships with the pack: moving shapes, {SIZE}x{SIZE} pixels, {FRAMES} frames. It "
            f"trains and samples within a minute on any machine. Prompts are like 'red circle', 'green square on stripes' or "
            f"'red circle and blue square'; it knows the words {', '.join(known_words())}.",
            search_aliases=["sprites", "demo model", "toy model"],
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="Text-to-video model for core KSampler and Train Motion LoRA."
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip=f"Text encoder. Knows {', '.join(known_words())}; any other word means nothing to it.",
                ),
                io.Vae.Output(
                    display_name="vae",
                    tooltip=f"Lossless; {SIZE}x{SIZE} pixels become {SIZE // PATCH}x{SIZE // PATCH} latents of {3 * PATCH**2} channels.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(sprites.load_model(), sprites.load_clip(), sprites.SpritesVAE())
