"""Time and memory of a process that does nothing else. Memory is what live tensors take, on CUDA and on a CPU alike."""

from __future__ import annotations

import gc
import time

import torch
from torch.profiler import ProfilerActivity, profile, record_function

# Steps that come before the timed ones: the first builds AdamW's moments, the second is the first to hold everything at once.
WARM_UP = 2
_START = "step benchmark: memory from here"


class Meter:
    """Made before the first weight: on a CPU, allocations are recorded from then until the warm-up is over.

    Resident memory would say more about the C library's allocator, which keeps what is freed, than about the training.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._marks: list[float] = []
        self._peak = 0
        if not self._cuda:
            self._recorder = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._recorder.start()

    def start(self) -> None:
        """The model is there; from now on the peak counts, weights included. Making random weights takes more than holding them."""
        gc.collect()
        if self._cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            with record_function(_START):
                pass

    def step(self) -> None:
        """One more step is done."""
        self._marks.append(self.now())
        if len(self._marks) == WARM_UP and not self._cuda:
            self._peak = self._recorded_peak()
            self._marks[-1] = self.now()

    @property
    def step_seconds(self) -> list[float]:
        """Of the steps after the warm-up."""
        marks = self._marks[WARM_UP - 1 :]
        return [end - start for start, end in zip(marks[:-1], marks[1:], strict=True)]

    @property
    def peak_bytes(self) -> int:
        """The most that tensors took at any time since ``start``: on CUDA in all steps, on a CPU in the warm-up."""
        return torch.cuda.max_memory_allocated() if self._cuda else self._peak

    def now(self) -> float:
        """Seconds, when all work asked for so far is done."""
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _recorded_peak(self) -> int:
        self._recorder.stop()
        events = self._recorder.profiler.kineto_results.events()
        live = peak = 0
        counts = False
        for event in sorted(events, key=lambda event: event.start_ns()):
            if event.name() == _START:
                counts = True
            elif event.name() == "[memory]":
                live += event.nbytes()
                peak = max(peak, live) if counts else live
        del self._recorder
        return peak
