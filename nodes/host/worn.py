"""Low-rank updates that a MODEL wears beside its layers, at all noise levels and frames or at some.

The host's own bypass LoRAs share one key, so that the second replaces the first; these stack, with each other and with the host's.
"""

from __future__ import annotations

import contextlib
import copy
import math
import uuid
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import PatcherInjection, WrappersMP
from torch import Tensor, nn

from ...sma.lora_layers import LoRALayer
from . import network_user
from .compiled import original
from .worn_layers import OnNetwork, WornUpdate, put_on, take_off

_RANGES = "spectral_motion_ranges"


@dataclass(frozen=True)
class Range:
    """Where a LoRA is worn.

    Attributes:
        start_percent, end_percent: share of the sampling, as the host counts it; ranges that follow each other share no noise level.
        first, last: latent frames, inclusive; last None is the end.
    """

    start_percent: float = 0.0
    end_percent: float = 1.0
    first: int = 0
    last: int | None = None

    @property
    def all_levels(self) -> bool:
        return self.start_percent <= 0.0 and self.end_percent >= 1.0

    @property
    def all_frames(self) -> bool:
        return self.first == 0 and self.last is None

    @property
    def everywhere(self) -> bool:
        return self.all_levels and self.all_frames

    def __str__(self) -> str:
        parts = []
        if not self.all_levels:
            parts.append(f"at {self.start_percent:.4g}-{self.end_percent:.4g} of the sampling")
        if not self.all_frames:
            parts.append(f"on latent frames {self.first}-{'end' if self.last is None else self.last}")
        return ", ".join(parts)

    def holds(self, sampling: Any, sigma: Tensor, frames: Tensor) -> Tensor:
        """[B, F] bool: which samples of noise levels ``sigma`` [B] and which latent frames, by index [F], are inside; both on the CPU."""
        level = sigma <= float(sampling.percent_to_sigma(self.start_percent))
        if self.end_percent < 1.0:
            level &= sigma > float(sampling.percent_to_sigma(self.end_percent))
        inside = (frames >= self.first) & (frames <= (math.inf if self.last is None else self.last))
        return level[:, None] & inside


def latent_range(first: int, last: int, ratio: int) -> tuple[int, int | None]:
    """Video frames ``first`` to ``last`` (-1: the end) -> latent frames, where one stands for ``ratio`` video frames and the first for 1.

    A latent frame belongs where its first video frame is, so that ranges that follow each other share none.

    Raises:
        ValueError: no latent frame begins in the range.
    """
    low = 0 if first == 0 else math.ceil((first - 1) / ratio) + 1
    high = None if last < 0 else 0 if last == 0 else (last - 1) // ratio + 1
    if high is not None and low > high:
        raise ValueError(
            f"No latent frame begins in frames {first} to {last}; in this model one stands for {ratio} frames, beginning at 0, 1, "
            f"{1 + ratio}, ... Widen the range."
        )
    return low, high


class WornLoRA:
    """One LoRA on one MODEL and the clones made of it: on the layers while the host has the model loaded, nothing otherwise.

    A layer's output gets exactly what :class:`sma.lora.Adapter` adds in training. The values stay in the host's memory and are copied to
    the device that the model is loaded for, or that a layer is computed on; the copies go when the model is unloaded.

    Args:
        layers: by module name below ``diffusion_model``; a strength is part of their scale.
    """

    def __init__(self, layers: Mapping[str, LoRALayer]) -> None:
        self.key = f"spectral_motion_lora_{uuid.uuid4().hex}"
        self._scales = {name: layer.scale for name, layer in layers.items()}
        self._layers = {name: _unscaled(layer) for name, layer in layers.items()}
        self._placed: dict[torch.device, dict[str, LoRALayer]] = {}
        self._networks: weakref.WeakKeyDictionary[nn.Module, OnNetwork] = weakref.WeakKeyDictionary()

    def __deepcopy__(self, memo: dict) -> WornLoRA:
        return self  # a copy of a MODEL's options switches what the MODEL wears

    def put_on(self, patcher: Any, where: Range) -> None:
        """Adds this LoRA to a MODEL's fresh clone, which is not injected."""
        patcher.set_injections(self.key, [PatcherInjection(self._inject, self._eject)])
        if where.everywhere:
            return
        options = patcher.model_options["transformer_options"]
        options[_RANGES] = (*options.get(_RANGES, ()), (self, where))
        patcher.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, _RANGES)
        patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, _RANGES, _apply_in_ranges)

    @contextlib.contextmanager
    def switched(self, model: nn.Module, on: bool) -> Iterator[None]:
        """On or off in one network for the length of a call."""
        state = self._networks.get(model)
        if state is None:
            raise RuntimeError("A LoRA with a range is not on the network that the host samples with.")
        before, state.on = state.on, on
        try:
            yield
        finally:
            state.on = before

    def begin(self, model: nn.Module) -> None:
        """Forgets which layers were called on a network; a sampling with it begins."""
        for update in self._updates(model):
            update.ran = False

    def is_on(self, model: nn.Module) -> bool:
        """Whether this LoRA has a part in calls of a network at this moment; one that never got onto it should have."""
        state = self._networks.get(model)
        return state is None or state.on

    def uncalled(self, model: nn.Module) -> list[str]:
        """Layers that no call of a network has come to since its sampling began, by name."""
        called = {update.name for update in self._updates(model) if update.ran}
        return [name for name in self._layers if name not in called]

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self._layers)

    def _updates(self, model: nn.Module) -> list[WornUpdate]:
        state = self._networks.get(model)
        return [] if state is None else state.updates

    def _inject(self, patcher: Any) -> None:
        model = patcher.model
        modules = {name: _layer_of(model, name) for name in self._layers}
        state = self._networks.setdefault(model, OnNetwork(self.key, self._layers_on))
        state.owners.add(id(patcher))
        if state.updates:
            return
        network_user.follow(model, state.hear)
        for name, layer in self._layers_on(patcher.load_device).items():
            state.updates.append(WornUpdate(name, weakref.ref(modules[name]), layer, self._scales[name], state))
            put_on(modules[name], state.updates[-1])

    def _eject(self, patcher: Any) -> None:
        state = self._networks.get(patcher.model)
        if state is not None:
            state.owners.discard(id(patcher))
            if not state.owners:
                network_user.unfollow(patcher.model, state.hear)
                for update in state.updates:
                    if (module := update.module()) is not None:
                        take_off(module, update)
                del self._networks[patcher.model]
        if not self._networks:
            self._placed.clear()

    def _layers_on(self, device: torch.device) -> dict[str, LoRALayer]:
        if device.type == "cpu":
            return self._layers
        if device not in self._placed:
            # Not inside the host's inference mode: a training through this MODEL saves these values for backward.
            with torch.inference_mode(False):
                self._placed[device] = {name: copy.deepcopy(layer).to(device) for name, layer in self._layers.items()}
        return self._placed[device]


def _layer_of(model: nn.Module, name: str) -> nn.Module:
    try:
        return original(model.diffusion_model.get_submodule(name))
    except AttributeError as error:
        raise ValueError(
            f"A LoRA is to be computed beside {name}, and another node has put something else in its place. "
            "Remove that node, or set the LoRA's apply to patch weights."
        ) from error


def _unscaled(layer: LoRALayer) -> LoRALayer:
    plain = copy.copy(layer)
    plain.scale = 1.0
    return plain


def _apply_in_ranges(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Any = None,
    c_crossattn: Any = None,
    control: dict | None = None,
    transformer_options: dict | None = None,
    **kwargs: Any,
) -> Tensor:
    """The host's apply_model, once for every set of LoRAs that some sample or latent frame wears.

    Answers of different sets are put together per sample and latent frame, so that each is what a model with just its LoRAs answers.
    """
    ranges = transformer_options[_RANGES]
    if comfy.model_management.in_training:
        raise ValueError(
            f"This MODEL wears a LoRA only {ranges[0][1]}; training draws all noise levels and frames. "
            "Connect a MODEL that wears it everywhere."
        )
    frames = torch.zeros(1)
    if not all(where.all_frames for _, where in ranges):
        if x.ndim != 5:
            raise ValueError(
                f"The latent is {list(x.shape)}; a frame range needs a video latent [B, C, F, H, W]. Set last_frame to -1."
            )
        frames, total = _latent_frames(x.shape[2], transformer_options.get("context_window"))
        if beyond := [where.first for _, where in ranges if where.first >= total]:
            raise ValueError(
                f"A LoRA is worn from latent frame {beyond[0]} on and the video has {total}. Lower first_frame."
            )
    model = executor.class_obj
    sigma = t.detach().float().cpu()
    worn = torch.stack([where.holds(model.model_sampling, sigma, frames) for _, where in ranges])  # [N, B, F]
    answer = None
    for case in torch.unique(worn.flatten(1), dim=1).T:
        with contextlib.ExitStack() as switches:
            for (lora, _), on in zip(ranges, case.tolist(), strict=True):
                switches.enter_context(lora.switched(model, on))
            # Networks take the controls out of their lists.
            fresh = control and {
                name: list(value) if isinstance(value, list) else value for name, value in control.items()
            }
            output = executor(x, t, c_concat, c_crossattn, fresh, dict(transformer_options), **kwargs)
        here = (worn == case[:, None, None]).all(0)  # [B, F]
        shape = (len(here), 1, len(frames), *[1] * (x.ndim - 3)) if x.ndim > 2 else (len(here), 1)
        answer = output if answer is None else torch.where(here.reshape(shape).to(output.device), output, answer)
    return answer


def _latent_frames(count: int, window: Any) -> tuple[Tensor, int]:
    """Indices of the ``count`` latent frames that the network sees, in the whole video, and its length. The host's Context Windows show
    it a part, perhaps with a frame before it and guide frames behind; guides are outside of every range.
    """
    if window is None or window.dim != 2:
        return torch.arange(count), count
    anchor = getattr(window, "causal_anchor_index", None)
    shown = [*([] if anchor is None else [anchor]), *window.index_list]
    return torch.tensor([*shown, *[-1] * (count - len(shown))]), window.total_frames
