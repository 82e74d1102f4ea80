"""What an adapter adds to one layer: a low-rank update, or a difference of the layer's whole weight.

The layer's own weight is never touched, so quantised, shared and offloaded weights all work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Init = Literal["kaiming", "normal_1_over_r"]

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def is_adaptable(module: nn.Module) -> bool:
    """Whether a module is a linear or convolution layer. Quantised ones need not descend from ``nn.Linear``."""
    is_linear = hasattr(module, "in_features") and hasattr(module, "out_features")
    return is_linear or isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def input_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], remedy: str) -> Tensor:
    """Returns the input of a call of a linear or convolution layer.

    A host may have a layer do more than its own product, an activation before it or a residual after it, and says so by further
    arguments. An update that knows only the input and the output would be wrong there. Arguments of None ask for nothing.

    Args:
        name: of the layer, for the message.
        args, kwargs: of the call.
        remedy: what to do instead.

    Raises:
        ValueError: the call asks for more.
    """
    asked = {f"argument {number}": value for number, value in enumerate(args[1:], 2)} | dict(kwargs)
    x = args[0] if args else asked.pop("input")
    if unknown := [key for key, value in asked.items() if value is not None]:
        raise ValueError(
            f"{name} is called with {', '.join(unknown)} beside its input, which is not known here. {remedy}"
        )
    return x


class Update(nn.Module):
    """What is added to the output of one linear or convolution layer; its parameters are float32."""

    scale = 1.0

    def forward(self, x: Tensor, dropout: float = 0.0, seed: int = 0, *, frozen: bool = False) -> Tensor:
        """The update of the layer's output for its input ``x``, in x's dtype.

        Args:
            dropout: share 0..1 of the update that is dropped.
            seed: of what is dropped.
            frozen: no gradient reaches the parameters.
        """
        y = self._update(x, *((value.detach() if frozen else value).to(x.dtype) for value in self.parameters()))
        if dropout > 0.0:
            # A fresh generator per call: a checkpointed block that runs again in backward must draw the same mask.
            generator = torch.Generator(device=y.device).manual_seed(seed)
            keep = torch.rand(y.shape, generator=generator, device=y.device) >= dropout
            y = y * keep / (1.0 - dropout)
        # Times 1 is a copy of every adapted layer's output, and changes no bit.
        return y if self.scale == 1.0 else y * self.scale

    def file_tensors(self) -> dict[str, Tensor]:
        """The values by what a LoRA file appends to the module's name; CPU, contiguous, detached."""
        raise NotImplementedError

    def _update(self, x: Tensor, *values: Tensor) -> Tensor:
        raise NotImplementedError

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

    def _through(self, x: Tensor, weight: Tensor) -> Tensor:
        """What the layer would answer with this weight and no bias."""
        return F.linear(x, weight) if self.convolution is None else self.convolution(x, weight, **self.arguments)


class LoRALayer(Update):
    """The low-rank update of one linear or convolution layer: ``scale * dropout(up(down(x)))``.

    ``down`` is ``[r, in]`` or ``[r, in, *kernel]``, ``up`` is ``[out, r]`` or ``[out, r, 1, ...]``; ``up`` starts at 0,
    so a fresh layer changes nothing. The rank is clamped to ``min(in, out)``; the scale stays ``alpha / rank`` of the
    rank asked for. It computes in the order of the host's bypass LoRA, bit for bit.
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
            ValueError: ``target`` has no low-rank form, see :func:`~.lora.attach`.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._join(name, target)
        layer.rank, layer.scale = len(down), scale
        layer.down, layer.up = nn.Parameter(down, requires_grad=False), nn.Parameter(up, requires_grad=False)
        return layer

    def file_tensors(self) -> dict[str, Tensor]:
        tensors = {".lora_A.weight": _copy(self.down), ".lora_B.weight": _copy(self.up)}
        # Loaders do not scale without it, and some refuse a file that has one.
        if self.scale != 1.0:
            tensors[".alpha"] = torch.tensor(self.scale * self.rank)
        return tensors

    def _update(self, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        y = self._through(x, down)
        return F.linear(y, up) if self.convolution is None else self.convolution(y, up)


class FullLayer(Update):
    """A difference of one layer's whole weight, ``x dW^T``, as VMC trains it (arXiv 2312.00845); ``diff`` starts at 0."""

    def __init__(self, name: str, target: nn.Module, device: torch.device | str) -> None:
        super().__init__()
        inputs, outputs, kernel = self._join(name, target)
        self.diff = nn.Parameter(torch.zeros(outputs, inputs, *kernel, dtype=torch.float32, device=device))

    def file_tensors(self) -> dict[str, Tensor]:
        return {".diff": _copy(self.diff)}

    def _update(self, x: Tensor, diff: Tensor) -> Tensor:
        return self._through(x, diff)


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
