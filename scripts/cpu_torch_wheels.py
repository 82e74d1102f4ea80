"""Makes the PyPI builds of torchvision and torchaudio importable beside a CPU-only torch.

Their compiled operators do not load there, and without them neither the host nor diffusers imports. The harness copies
this module into the site-packages of its own environment, beside a .pth file that imports it, and only where the real
import fails. It is no part of the pack.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types


class _StandIn(types.ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> _StandIn:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    operators = None  # the Library must stay referenced: its operators vanish with it

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and self.operators is None:
            import torch

            self.operators = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        if name.split(".")[0] == "torchaudio":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _StandIn(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, _Finder())
