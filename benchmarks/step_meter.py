"""Time and memory of a process: on CUDA what its allocator holds, on a CPU the resident memory over a baseline."""

from __future__ import annotations

import ctypes
import gc
import time
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Meter:
    """Made after every import and before the first weight, so that the baseline holds the libraries and nothing else."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if not self.cuda and not _CLEAR.exists():
            raise RuntimeError("Peak memory on a CPU is read from /proc, which this system lacks; run it on Linux.")
        self.baseline = 0 if self.cuda else _status("VmRSS")

    @property
    def what(self) -> str:
        """What ``peak`` counts, in words."""
        return "allocated on the GPU" if self.cuda else "resident over the imported libraries"

    def start(self) -> None:
        """Forgets the peak so far: making random weights takes more memory than holding them."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            # glibc keeps freed memory, which would count as resident.
            ctypes.CDLL(None).malloc_trim(0)
            _CLEAR.write_text("5")

    def peak(self) -> int:
        """Bytes, the most at any time since ``start``, weights included."""
        return torch.cuda.max_memory_allocated() if self.cuda else _status("VmHWM") - self.baseline

    def now(self) -> float:
        """Seconds, when all work asked for so far is done."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
