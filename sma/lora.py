"""Adapters that ride on a network's forward hooks; removing the hooks leaves the network as it was.

LoRA, arXiv 2106.09685; for convolutions as in LoCon: ``W x + scale * up(down(x))`` with ``scale = alpha / rank``. Or
differences of whole weights, ``(W + dW) x``, as VMC trains them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .checks import check_option, check_whole
from .lora_layers import FullLayer, Init, LoRALayer, Update, input_of, is_adaptable

__all__ = ["Adapter", "Kind", "LoRALayer", "attach", "is_adaptable"]

Kind = Literal["lora", "full"]


class Adapter:
    """A set of updates attached to a network, in groups switched on and off together. See :func:`attach`.

    ``layers`` and ``groups`` hold them by key: the module's name, or ``<group>/<name>`` where several groups adapt one
    module.
    """

    def __init__(self, layers: Mapping[str, Update], groups: Mapping[str, Sequence[str]], dropout: float) -> None:
        self.layers = dict(layers)
        self.groups = {group: tuple(keys) for group, keys in groups.items()}
        self.dropout = dropout
        self.training = False
        self.dropout_seed = 0
        #: Layers that forwards went through since this was cleared, by key -> dtype their updates were computed in.
        self.called: dict[str, torch.dtype] = {}
        self._enabled = dict.fromkeys(self.layers, True)
        self._frozen = dict.fromkeys(self.layers, False)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def _hook(self, key: str, target: nn.Module, index: int) -> None:
        layer = self.layers[key]

        def add_update(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            if not self._enabled[key]:
                return None
            x = input_of(key, args, kwargs, "Leave this layer out of the selection.")
            self.called[key] = output.dtype
            dropout = self.dropout if self.training else 0.0
            seed = self.dropout_seed * len(self.layers) + index
            update = layer(x, dropout, seed, frozen=self._frozen[key])
            if update.shape != output.shape:
                # Broadcasting would hide a convolution that pads or crops outside its own settings.
                raise ValueError(
                    f"{key} answers {list(output.shape)} where its settings give {list(update.shape)}. "
                    "Leave this layer out of the selection."
                )
            return output + update

        self._handles.append(target.register_forward_hook(add_update, with_kwargs=True))

    def enable(self, **groups: bool) -> None:
        """Switches whole groups, e.g. ``enable(temporal=True, spatial=False)``; groups not named keep their state."""
        self.check_groups(groups)
        for group, on in groups.items():
            for key in self.groups[group]:
                self._enabled[key] = bool(on)

    def freeze(self, **groups: bool) -> None:
        """Frozen groups take part in forwards that follow and get no gradient from them; as :meth:`enable`."""
        self.check_groups(groups)
        for group, frozen in groups.items():
            for key in self.groups[group]:
                self._frozen[key] = bool(frozen)

    def check_groups(self, groups: Iterable[str]) -> None:
        """Refuses names of groups that this adapter does not have.

        Raises:
            ValueError: names the group and those there are.
        """
        for group in groups:
            if group not in self.groups:
                names = ", ".join(map(repr, self.groups))
                raise ValueError(f"The adapter has no group {group!r}; it has {names}. Choose one of these.")

    def train(self, training: bool = True) -> Adapter:
        """Turns dropout on or off. Sampling with the adapter must not drop anything, so off is the initial state."""
        self.training = training
        return self

    def named_parameters(self, groups: Iterable[str] | None = None) -> Iterator[tuple[str, nn.Parameter]]:
        """Every trained value as ``<key>.down`` and ``<key>.up``, or ``<key>.diff``, in the order of attaching.

        Args:
            groups: only these groups; None is all.
        """
        chosen = set(self.keys(groups))
        for key, layer in self.layers.items():
            if key in chosen:
                for part, value in layer.named_parameters():
                    yield f"{key}.{part}", value

    def parameters(self, groups: Iterable[str] | None = None) -> list[nn.Parameter]:
        return [parameter for _, parameter in self.named_parameters(groups)]

    def keys(self, groups: Iterable[str] | None = None) -> list[str]:
        """Keys of the layers of these groups; None is all."""
        groups = tuple(self.groups if groups is None else groups)
        self.check_groups(groups)
        return [key for group in groups for key in self.groups[group]]

    def state_dict(self) -> dict[str, Tensor]:
        """Detached CPU copies of all values, named as in :meth:`named_parameters`."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copies values in.

        Raises:
            ValueError: names and shapes are not exactly those of this adapter; nothing is copied then.
        """
        own = dict(self.named_parameters())
        if differing := own.keys() ^ state.keys():
            raise ValueError(
                f"{len(differing)} tensor names differ between the state and this adapter, for example "
                f"{min(differing)!r}. Choose the layers and the model the state was trained with."
            )
        for name, parameter in own.items():
            if state[name].shape != parameter.shape:
                raise ValueError(
                    f"{name} is {list(state[name].shape)} in the state and {list(parameter.shape)} here; "
                    "the same rank and model are needed. Set the rank the state was trained with."
                )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def export(self, prefix: str, groups: Iterable[str] | None = None) -> dict[str, Tensor]:
        """LoRA file tensors: ``{prefix}{module}.lora_A.weight`` (down) and ``.lora_B.weight`` (up), or ``.diff``.

        CPU, contiguous. A loader adds ``B A``, or ``diff``. Where the scale is not 1 there is an ``.alpha`` as well, and a loader
        adds ``alpha / rank * B A``; for layers whose rank was clamped ``alpha`` is reduced with it, so the scale is kept.

        Args:
            prefix: what the host puts before module names, ``"diffusion_model."`` in ComfyUI.
            groups: only these groups; None is all.

        Raises:
            ValueError: an unknown group, or several groups that adapt the same module.
        """
        tensors: dict[str, Tensor] = {}
        chosen = set(self.keys(groups))
        for key in (key for key in self.layers if key in chosen):
            name = _module_of(key)
            for suffix, value in self.layers[key].file_tensors().items():
                if f"{prefix}{name}{suffix}" in tensors:
                    raise ValueError(f"Several groups adapt {name}, and a file holds one update of it. Name one group.")
                tensors[f"{prefix}{name}{suffix}"] = value
        return tensors

    def load_export(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Reads back what :meth:`export` wrote; a scale that differs from this adapter's is folded into ``up``.

        Raises:
            ValueError: layers or shapes are not exactly those of this adapter.
        """
        state: dict[str, Tensor] = {}
        for key, value in tensors.items():
            if key.endswith(".diff"):
                state[key.removeprefix(prefix)] = value
            name, _, kind = key.removeprefix(prefix).rpartition(".lora_")
            if kind == "A.weight":
                state[f"{name}.down"] = value
            elif kind == "B.weight":
                # As loaders read it: without an alpha the update is not scaled.
                alpha = tensors.get(f"{prefix}{name}.alpha")
                scale = 1.0 if alpha is None else float(alpha) / value.shape[1]
                state[f"{name}.up"] = value * (scale / self.layers[name].scale) if name in self.layers else value
        self.load_state_dict(state)

    def detach(self) -> None:
        """Removes every hook. The network is then what it was before :func:`attach`; the adapter keeps its values."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def attach(
    module: nn.Module,
    names: Iterable[str],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    groups: Mapping[str, Sequence[str]] | None = None,
    kind: Kind = "lora",
    init: Init = "kaiming",
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Adapter:
    """Hooks an update onto chosen layers of a network; a fresh one changes nothing.

    Args:
        module: the network; it is not modified but for the hooks.
        names: linear, conv1d, conv2d or conv3d modules, named as in ``module.named_modules()``. Quantised layers work:
            only their input and output are used.
        rank: 1 or more; clamped per layer to ``min(in, out)``.
        alpha: above 0; the update is scaled by ``alpha / rank``.
        dropout: share 0..1 (exclusive) of the update's *output* dropped in training (as in MotionDirector), see
            :meth:`Adapter.train`.
        groups: group name -> module names, which together are ``names``; a module in several groups has an update of its
            own in each. None puts all into the group ``"all"``.
        kind: ``"lora"``, or ``"full"`` for a difference of the whole weight; then rank, alpha and init play no part.
        init: of ``down``: ``"kaiming"`` uniform with a = sqrt(5) (kohya, PEFT) or ``"normal_1_over_r"``, N(0, std 1/r)
            (MotionDirector).
        generator: CPU generator that draws the initial values; the same seed gives the same adapter.
        device: where the values live; None is the device of each layer's weight.

    Raises:
        ValueError: no names, an unknown or doubled name, an unsupported layer, groups that are not all of them, or a rank,
            alpha or dropout out of range. No hook is left then.
    """
    names = list(names)
    if not names:
        raise ValueError("0 modules were selected for the adapter; at least 1 is needed. Choose other layers.")
    check_whole("rank", rank, 1)
    if not 0.0 < alpha < math.inf:
        raise ValueError(f"alpha is {alpha}; it must be above 0 and finite.")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1.")
    check_option("kind", kind, Kind)
    check_option("init", init, Init)
    groups = {"all": names} if groups is None else groups
    selected = Counter(names)
    grouped = Counter(name for group in groups.values() for name in group)
    twice = {name for group in groups.values() for name, count in Counter(group).items() if count > 1}
    for name in selected | grouped:
        if selected[name] != 1 or not grouped[name] or name in twice:
            raise ValueError(
                f"{name!r} is selected {selected[name]} times and in groups {grouped[name]} times. "
                "Select every module once and name it in a group, once in each."
            )
    modules = dict(module.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise ValueError(
            f"{len(unknown)} of {len(names)} names are no modules of the network, for example {unknown[0]!r}. "
            "Choose other layers."
        )
    members: dict[str, list[str]] = {name: [] for name in names}
    for group, held in groups.items():
        for name in held:
            members[name].append(group)
    keys = {
        (group, name): name if len(among) == 1 else f"{group}/{name}"
        for name, among in members.items()
        for group in among
    }
    layers: dict[str, Update] = {}
    # Values born under inference mode could never be trained.
    with torch.inference_mode(False):
        for (_, name), key in keys.items():
            target = modules[name]
            weight = getattr(target, "weight", None)
            place = device if device is not None else (weight.device if weight is not None else "cpu")
            if kind == "full":
                layers[key] = FullLayer(name, target, place)
            else:
                layers[key] = LoRALayer(name, target, rank, alpha, init, generator, place)
    adapter = Adapter(layers, {group: [keys[group, name] for name in groups[group]] for group in groups}, dropout)
    for index, key in enumerate(layers):
        adapter._hook(key, modules[_module_of(key)], index)
    return adapter


def _module_of(key: str) -> str:
    """Module names hold no slash: PyTorch joins names of attributes by dots."""
    return key.rpartition("/")[2]
