"""Whether a LoRA that a MODEL wears takes part in its sampling: looked at after its steps, said when it ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_execution.utils import get_executing_context
from torch import Tensor, nn

from .compiled import original
from .report import Report
from .worn import WornLoRA

_WATCHES = "spectral_motion_watches"
# Of each weight; enough for an update that is there to show, and read in no time.
_ROWS = 64


def watch(before: Any, worn: Any, report: Report) -> None:
    """Has the node that made ``worn`` of the MODEL ``before`` warn of what has no part in a sampling.

    Layers beside which an update is computed must be called, and weights that it is added to must be patched, and must not be the same
    as before in their own numbers. The model is not evaluated for it. Nodes that cache skip some calls, and some layers are for one of the
    conditionings alone, so a layer that any call has come to is there. What is not seen: an update beside a layer that is lost in the
    rounding of its output, or one that later layers undo.

    Args:
        before, worn: the MODEL without and with the LoRA.
        report: of the node; warnings come when its run has long ended.
    """
    added = [worn.injections[key][0].inject for key in worn.injections if key not in before.injections]
    loras = [inject.__self__ for inject in added if isinstance(getattr(inject, "__self__", None), WornLoRA)]
    weights = [key for key, patches in worn.patches.items() if len(patches) > len(before.patches.get(key, ()))]
    if not loras and not weights:
        return
    own = _Watch(next(iter(loras), None), weights, report)
    worn.add_callback_with_key(CallbacksMP.ON_PRE_RUN, _WATCHES, own.begin)
    worn.add_callback_with_key(CallbacksMP.ON_CLEANUP, _WATCHES, own.end)
    options = worn.model_options["transformer_options"]
    options[_WATCHES] = (*options.get(_WATCHES, ()), own)
    # Last of all: inside the wrapper that switches LoRAs of ranges on and off.
    worn.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, _WATCHES)
    worn.add_wrapper_with_key(WrappersMP.APPLY_MODEL, _WATCHES, _after_a_call)


def _after_a_call(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Any = None,
    c_crossattn: Any = None,
    control: dict | None = None,
    transformer_options: dict | None = None,
    **kwargs: Any,
) -> Tensor:
    answer = executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    for own in transformer_options[_WATCHES]:
        own.look(executor.class_obj)
    return answer


class _Watch:
    """One LoRA on one MODEL and the clones made of it."""

    def __init__(self, lora: WornLoRA | None, weights: Iterable[str], report: Report) -> None:
        self.lora = lora
        self.weights = list(weights)
        self.report = report
        self._uncalled: list[str] | None = None
        self._unpatched: list[str] = []
        self._lost_in = ""
        self._warned_in: str | None = None

    def __deepcopy__(self, memo: dict) -> _Watch:
        return self

    def begin(self, patcher: Any) -> None:
        """A sampling begins."""
        self._uncalled = None
        if self.lora is not None:
            self.lora.begin(patcher.model)

    def look(self, model: nn.Module) -> None:
        """Looks whether the call that has just ended had all of the LoRA in it, as far as earlier ones had not."""
        if self._uncalled == [] or (self.lora is not None and not self.lora.is_on(model)):
            return
        if self._uncalled is None:
            self._unpatched, self._lost_in = self._look_at_weights(model)
        self._uncalled = [] if self.lora is None else self.lora.uncalled(model)

    def end(self, patcher: Any) -> None:
        """A sampling has ended, be it by an error."""
        if self._uncalled is None:
            return
        warnings = self._found(self._uncalled)
        self._uncalled = None
        context = get_executing_context()
        prompt = context.prompt_id if context else None
        # A warning of one sampler holds, though another one of the same prompt has nothing to warn of.
        if warnings or self._warned_in != prompt:
            self.report.warn_later(warnings)
            self._warned_in = prompt if warnings else None

    def _look_at_weights(self, model: nn.Module) -> tuple[list[str], str]:
        """The weights that are not patched, and the type of them all if the updates are lost in its rounding, else ""."""
        patcher = getattr(model, "current_patcher", None)
        if patcher is None or not self.weights:
            return [], ""
        unpatched = [key for key in self.weights if not _is_patched(patcher, key)]
        if unpatched or self.lora is not None or any(_differs(patcher, key) for key in self.weights):
            return unpatched, ""
        return [], str(patcher.backup[self.weights[0]].weight.dtype).removeprefix("torch.")

    def _found(self, uncalled: list[str]) -> list[str]:
        layers = self.lora.layers if self.lora is not None else ()
        unpatched = self._unpatched
        idle = len(uncalled) == len(layers) and (len(unpatched) == len(self.weights) or not unpatched and not layers)
        begin = f"{'The LoRA' if idle else 'A part of the LoRA'} changed nothing in the last sampling: "
        warnings = []
        if uncalled:
            warnings.append(
                f"{begin}{len(uncalled)} of the {len(layers)} layers it is computed beside were not called, for example {uncalled[0]}. "
                "Another node may compute them in its own way: set apply to patch weights. Or an input that they are for is not connected."
            )
        if unpatched:
            warnings.append(
                f"{begin}{len(unpatched)} of the {len(self.weights)} weights it is added to were not patched, for example {unpatched[0]}. "
                "Another node has put something in their place: set apply to bypass. Or ComfyUI patches no parameters of their kind."
            )
        if self._lost_in:
            warnings.append(
                f"{begin}its updates are lost in the rounding of the model's {self._lost_in} weights. Raise strength, or set apply to bypass."
            )
        return warnings


def _is_patched(patcher: Any, key: str) -> bool:
    """Whether the host has patched a weight in its place, or patches it whenever the layer is computed."""
    if key in patcher.backup:
        return True
    try:
        module = patcher.model
        *path, parameter = key.split(".")
        for part in path:
            module = original(getattr(module, part))
    except AttributeError:
        return False
    functions = [*getattr(module, f"{parameter}_function", ()), getattr(module, f"{parameter}_lowvram_function", None)]
    return any(getattr(function, "key", None) == key for function in functions)


def _differs(patcher: Any, key: str) -> bool:
    """Whether a patched weight is another one than before, as far as some of its rows show."""
    if key not in patcher.backup:
        return True  # patched when it is used, in numbers that need not be stored
    before, now = patcher.backup[key].weight, comfy.utils.get_attr(patcher.model, key)
    before, now = (torch.atleast_1d(getattr(weight, "_qdata", weight)) for weight in (before, now))
    every = max(1, len(now) // _ROWS)
    # As bytes: 8-bit floats cannot be compared everywhere.
    before, now = (weight[::every].contiguous().cpu().view(torch.uint8) for weight in (before, now))
    return not torch.equal(before, now)
