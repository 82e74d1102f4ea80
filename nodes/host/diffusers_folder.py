"""Model folders as diffusers saves them: which there are, what they hold, and their noise schedule in the host's terms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths
from comfy.model_base import ModelType

from ...sma.checks import check_regular, shown
from .lists import Offered, folders_with, offered

_INDEX = "model_index.json"
# Bytes. Configs have a few thousand; the index of a model in a hundred parts has some millions.
_LARGEST = 16_000_000
# Of the files that decide what a list offers: the host asks for lists often.
_LARGEST_LISTED = 100_000
# The host named its schedules after the latent diffusion code, where "linear" was linear in the square root of beta.
_BETA_SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear", "squaredcos_cap_v2": "cosine"}
# Noise in a step, as a share, and steps.
_BOUNDS = {"beta_start": (1e-9, 1), "beta_end": (1e-9, 1), "num_train_timesteps": (1, 100_000)}
_MODEL_TYPES = {"epsilon": ModelType.EPS, "v_prediction": ModelType.V_PREDICTION}


def model_folders(*networks: str) -> list[str]:
    """Names of the folders under models/diffusers whose unet is of one of these classes, relative to there and sorted."""
    return sorted(name for name, folder in _folders().items() if unet_class(folder) in networks)


def offered_folders(*networks: str) -> Offered:
    """:func:`model_folders` as the choices of a picker."""
    return offered(
        "models/diffusers", lambda: model_folders(*networks), folders=lambda: folder_paths.get_folder_paths("diffusers")
    )


def folder_path(name: str) -> Path:
    """The folder that :func:`model_folders` lists under this name.

    Raises:
        ValueError: there is none.
    """
    if (folder := _folders().get(name)) is None:
        raise ValueError(f"There is no model folder {shown(name)} under models/diffusers; choose one from the list.")
    return folder


def _folders() -> dict[str, Path]:
    # Below a model folder lie its components.
    return folders_with(_INDEX, folder_paths.get_folder_paths("diffusers"), nested=False)


def unet_class(folder: Path) -> str | None:
    """The diffusers class that model_index.json names for the unet; None where there is no unet."""
    try:
        entry = read_json(folder / _INDEX, _LARGEST_LISTED).get("unet")
    except ValueError:  # a damaged file of some other model must not empty the list
        return None
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None


def read_json(path: Path, largest: int = _LARGEST) -> dict[str, Any]:
    """A config file of at most so many bytes.

    Raises:
        ValueError: missing, no plain file, too large, damaged, or no JSON object.
    """
    shown = "/".join(path.parts[-3:])
    if not path.exists():
        raise ValueError(f"{shown} is missing. Copy the whole model folder, with its small .json files.")
    check_regular(path)
    try:
        if (size := path.stat().st_size) > largest:
            raise ValueError(f"{shown} has {size} bytes; {largest} at most are expected. Download it again.")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{shown} cannot be read ({(error.strerror or 'damaged').lower()}). Check its permissions."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{shown} is no JSON. Download it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{shown} holds no JSON object; a config is one. Download it again.")
    return content


def component_config(folder: Path, component: str) -> dict[str, Any]:
    """``config.json`` of a component such as unet, vae or text_encoder."""
    return read_json(folder / component / "config.json")


def scheduler_config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "scheduler" / "scheduler_config.json")


def sampling_of(config: Mapping[str, Any]) -> tuple[dict[str, Any], ModelType]:
    """The host's sampling_settings and ModelType of a diffusers ``scheduler_config.json``.

    What is left out takes the values of diffusers' DDIMScheduler, the scheduler these models are published with.

    Raises:
        ValueError: betas or a prediction that the host cannot express.
    """
    if config.get("trained_betas"):
        raise ValueError("The scheduler has trained_betas; only named beta schedules are known. Use another model.")
    for name, (least, most) in _BOUNDS.items():
        value = config.get(name, least)
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(
                f"The scheduler's {name} is {shown(value)}; it must be from {least} to {most}. Use another model."
            )
    schedule = config.get("beta_schedule", "linear")
    if not isinstance(schedule, str) or schedule not in _BETA_SCHEDULES:
        raise ValueError(f"The scheduler's beta_schedule is {shown(schedule)}; known are {', '.join(_BETA_SCHEDULES)}.")
    prediction = config.get("prediction_type", "epsilon")
    if not isinstance(prediction, str) or prediction not in _MODEL_TYPES:
        raise ValueError(
            f"The scheduler's prediction_type is {shown(prediction)}; known are {', '.join(_MODEL_TYPES)}."
        )
    settings = {
        "beta_schedule": _BETA_SCHEDULES[schedule],
        "linear_start": config.get("beta_start", 0.0001),
        "linear_end": config.get("beta_end", 0.02),
        "timesteps": config.get("num_train_timesteps", 1000),
        "zsnr": bool(config.get("rescale_betas_zero_snr", False)),
    }
    return settings, _MODEL_TYPES[prediction]
