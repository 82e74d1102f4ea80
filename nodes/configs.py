"""Trainings as the official repositories of SMA and VMC configure them."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..sma.checks import shown
from ..sma.configs import official_config
from .host.lists import offered
from .host.paths import chosen_path
from .host.report import Report
from .host.yaml_files import read_yaml
from .types import MotionLossSocket


def _files() -> list[str]:
    folder = Path(folder_paths.get_input_directory())
    files = folder.iterdir() if folder.is_dir() else ()
    named = [path for path in files if path.suffix.lower() in (".yml", ".yaml") and path.is_file()]
    return sorted(path.name for path in named if not path.is_symlink() or chosen_path(path.name))


def _absent(file: str) -> str:
    return f"There is no config {shown(file)} in ComfyUI's input folder. Put the .yml file there and pick it."


class LoadOfficialConfig(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SMA_LoadOfficialConfig",
            display_name="Load Official Config",
            category="Spectral Motion/learn",
            description="The motion loss, prompt, steps, learning rate and seed of a config file (.yml) of the official SMA or VMC repository.",
            search_aliases=["sma config", "vmc config", "yaml", "ld_global", "ld_local"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=offered("input", _files),
                    tooltip="A .yml or .yaml file in ComfyUI's input folder. Press R to refresh the list.",
                ),
                io.Combo.Input(
                    "compare",
                    options=["noise", "network output"],
                    tooltip="What VMC's cosine compares. noise: as published, for models that predict noise. For v and flow models the "
                    "network's own output is better: their noise says almost nothing at high noise.",
                ),
            ],
            outputs=[
                MotionLossSocket.Output(
                    display_name="motion_loss",
                    tooltip="VMC's cosine, with SMA's terms in the official code's form. To Train Motion LoRA.",
                ),
                io.String.Output(display_name="prompt", tooltip="The training prompt, for CLIP Text Encode."),
                io.Int.Output(display_name="steps", tooltip="For Train Motion LoRA."),
                io.Float.Output(
                    display_name="learning_rate",
                    tooltip="For Train Motion LoRA. Published for full weights; MotionDirector's LoRAs learn at 5e-4.",
                ),
                io.Int.Output(display_name="seed", tooltip="For Train Motion LoRA."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        if file is None or ((path := chosen_path(file)) and not path.is_dir()):
            return True
        return _absent(file)

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **_) -> float:
        """A file that was written anew under its old name is read anew."""
        try:
            return path.stat().st_mtime if (path := chosen_path(file)) else 0.0
        except OSError:  # gone, which execute says
            return 0.0

    @classmethod
    def execute(cls, file: str, compare: str) -> io.NodeOutput:
        report = Report(cls.hidden.unique_id)
        if (path := chosen_path(file)) is None:
            raise ValueError(_absent(file))
        config = official_config(read_yaml(path, path.name))
        report.tell(config.describe())
        loss = config.motion_loss("output" if compare == "network output" else "noise")
        return io.NodeOutput(loss, config.prompt, config.steps, config.learning_rate, config.seed, ui=report.ui())
