"""Low-rank adapters that ride on a network's forward hooks.

LoRA, arXiv 2106.09685; for convolutions as in LoCon: ``W x + scale * up(down(x))`` with ``scale = alpha / rank``. The
network's weights are never touched, so quantised, shared and offloaded weights all work, and removing the hooks leaves
the network as it was.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_option, check_whole

Init = Literal["kaiming", "normal_1_over_r"]

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def is_adaptable(module: nn.Module) -> bool:
    """Whether a module is a linear or convolution layer. Quantised ones need not descend from ``nn.Linear``."""
    is_linear = hasattr(module, "in_features") and hasattr(module, "out_features")
    return is_linear or isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)


class LoRALayer(nn.Module):
    """The low-rank update of one linear or convolution layer, float32.

    ``down`` is ``[r, in]`` or ``[r, in, *kernel]``, ``up`` is ``[out, r]`` or ``[out, r, 1, ...]``; ``up`` starts at 0,
    so a fresh layer changes nothing. The rank is clamped to ``min(in, out)``; the scale stays ``alpha / rank`` of the
    rank asked for.
    """

    def __init__(
        self,
        name: str,
        target: nn.Module,
        rank: int,
        alpha: float,
        init: Init,
        generator: torch.Generator,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        inputs, outputs, kernel = self._join(name, target)
        self.rank = min(rank, inputs, outputs)
        self.scale = alpha / rank
        down = torch.empty(self.rank, inputs, *kernel, dtype=torch.float32, device="cpu")
        if init == "kaiming":
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        else:
            nn.init.normal_(down, std=1.0 / self.rank, generator=generator)
        self.down = nn.Parameter(down.to(device))
        up = torch.zeros(outputs, self.rank, *([1] * len(kernel)), dtype=torch.float32, device=device)
        self.up = nn.Parameter(up)

    @classmethod
    def holding(cls, name: str, target: nn.Module, down: Tensor, up: Tensor, scale: float) -> LoRALayer:
        """The update ``scale * up(down(x))`` of ``target`` with given values, which do not train.

        Raises:
            ValueError: ``target`` has no low-rank form, see :func:`attach`.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._join(name, target)
        layer.rank, layer.scale = len(down), scale
        layer.down, layer.up = nn.Parameter(down, requires_grad=False), nn.Parameter(up, requires_grad=False)
        return layer

    def _join(self, name: str, target: nn.Module) -> tuple[int, int, tuple[int, ...]]:
        """Takes over how ``target`` computes; its inputs, outputs and kernel."""
        if not is_adaptable(target):
            raise ValueError(
                f"{name} is a {type(target).__name__}; LoRA needs a linear or convolution layer. "
                "Leave this layer out of the selection."
            )
        if hasattr(target, "in_features"):
            self.convolution, self.arguments = None, {}
            return target.in_features, target.out_features, ()
        kernel = tuple(target.kernel_size)
        if target.groups != 1 or target.padding_mode != "zeros":
            raise ValueError(
                f"{name} is a convolution with groups={target.groups} and padding_mode={target.padding_mode!r}; "
                "LoRA needs groups=1 and zero padding. Leave this layer out of the selection."
            )
        self.convolution = _CONVOLUTIONS[len(kernel)]
        self.arguments = {"stride": target.stride, "padding": target.padding, "dilation": target.dilation}
        return target.in_channels, target.out_channels, kernel

    def forward(self, x: Tensor, dropout: float = 0.0, seed: int = 0) -> Tensor:
        """``scale * dropout(up(down(x)))`` in x's dtype, in the order of the host's bypass LoRA, bit for bit."""
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if self.convolution is None:
            y = F.linear(F.linear(x, down), up)
        else:
            y = self.convolution(self.convolution(x, down, **self.arguments), up)
        if dropout > 0.0:
            # A fresh generator per call: a checkpointed block that runs again in backward must draw the same mask.
            generator = torch.Generator(device=y.device).manual_seed(seed)
            keep = torch.rand(y.shape, generator=generator, device=y.device) >= dropout
            y = y * keep / (1.0 - dropout)
        # Times 1 is a copy of every adapted layer's output, and changes no bit.
        return y if self.scale == 1.0 else y * self.scale


class Adapter:
    """A set of LoRA layers attached to a network, in groups switched on and off together. See :func:`attach`."""

    def __init__(self, layers: Mapping[str, LoRALayer], groups: Mapping[str, Sequence[str]], dropout: float) -> None:
        self.layers = dict(layers)
        self.groups = {group: tuple(names) for group, names in groups.items()}
        self.dropout = dropout
        self.training = False
        self.dropout_seed = 0
        self._enabled = dict.fromkeys(self.layers, True)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def _hook(self, name: str, target: nn.Module, index: int) -> None:
        layer = self.layers[name]

        def add_update(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            if not self._enabled[name]:
                return None
            dropout = self.dropout if self.training else 0.0
            update = layer(args[0], dropout, self.dropout_seed * len(self.layers) + index)
            if update.shape != output.shape:
                # Broadcasting would hide a convolution that pads or crops outside its own settings.
                raise ValueError(
                    f"{name} answers {list(output.shape)} where its settings give {list(update.shape)}. "
                    "Leave this layer out of the selection."
                )
            return output + update

        self._handles.append(target.register_forward_hook(add_update))

    def enable(self, **groups: bool) -> None:
        """Switches whole groups, e.g. ``enable(temporal=True, spatial=False)``; groups not named keep their state."""
        self.check_groups(groups)
        for group, on in groups.items():
            for name in self.groups[group]:
                self._enabled[name] = bool(on)

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

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every trained value as ``<module>.down`` / ``<module>.up``, in the network's module order."""
        for name, layer in self.layers.items():
            yield f"{name}.down", layer.down
            yield f"{name}.up", layer.up

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for _, parameter in self.named_parameters()]

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
        """LoRA file tensors: ``{prefix}{module}.lora_A.weight`` (down), ``.lora_B.weight`` (up) and ``.alpha``.

        CPU, contiguous. A loader applies ``alpha / rank * B A``; for layers whose rank was clamped ``alpha`` is reduced
        with it, so the scale is kept.

        Args:
            prefix: what the host puts before module names, ``"diffusion_model."`` in ComfyUI.
            groups: only these groups; None is all.

        Raises:
            ValueError: an unknown group.
        """
        groups = tuple(self.groups if groups is None else groups)
        self.check_groups(groups)
        chosen = {name for group in groups for name in self.groups[group]}
        tensors: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            if name not in chosen:
                continue
            tensors[f"{prefix}{name}.lora_A.weight"] = layer.down.detach().to("cpu", copy=True).contiguous()
            tensors[f"{prefix}{name}.lora_B.weight"] = layer.up.detach().to("cpu", copy=True).contiguous()
            tensors[f"{prefix}{name}.alpha"] = torch.tensor(layer.scale * layer.rank)
        return tensors

    def load_export(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Reads back what :meth:`export` wrote; a scale that differs from this adapter's is folded into ``up``.

        Raises:
            ValueError: layers or shapes are not exactly those of this adapter.
        """
        state: dict[str, Tensor] = {}
        for key, value in tensors.items():
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
    init: Init = "kaiming",
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Adapter:
    """Hooks a low-rank update onto chosen layers of a network.

    Args:
        module: the network; it is not modified but for the hooks.
        names: linear, conv1d, conv2d or conv3d modules, named as in ``module.named_modules()``. Quantised layers work:
            only their input and output are used.
        rank: 1 or more; clamped per layer to ``min(in, out)``.
        alpha: above 0; the update is scaled by ``alpha / rank``.
        dropout: share 0..1 (exclusive) of the update's *output* dropped in training (as in MotionDirector), see
            :meth:`Adapter.train`.
        groups: group name -> module names, a partition of ``names``; None puts all into the group ``"all"``.
        init: of ``down``: ``"kaiming"`` uniform with a = sqrt(5) (kohya, PEFT) or ``"normal_1_over_r"``, N(0, std 1/r)
            (MotionDirector).
        generator: CPU generator that draws the initial values; the same seed gives the same adapter.
        device: where the values live; None is the device of each layer's weight.

    Raises:
        ValueError: no names, an unknown or doubled name, an unsupported layer, groups that are no partition, or a rank,
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
    check_option("init", init, Init)
    groups = {"all": names} if groups is None else groups
    selected, grouped = Counter(names), Counter(name for group in groups.values() for name in group)
    for name in selected | grouped:
        if (selected[name], grouped[name]) != (1, 1):
            raise ValueError(
                f"{name!r} is selected {selected[name]} times and in groups {grouped[name]} times; both must be once. "
                "Name every selected module in one group."
            )
    modules = dict(module.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise ValueError(
            f"{len(unknown)} of {len(names)} names are no modules of the network, for example {unknown[0]!r}. "
            "Choose other layers."
        )
    layers = {}
    # Values born under inference mode could never be trained.
    with torch.inference_mode(False):
        for name in names:
            weight = getattr(modules[name], "weight", None)
            place = device if device is not None else (weight.device if weight is not None else "cpu")
            layers[name] = LoRALayer(name, modules[name], rank, alpha, init, generator, place)
    adapter = Adapter(layers, groups, dropout)
    for index, name in enumerate(names):
        adapter._hook(name, modules[name], index)
    return adapter
