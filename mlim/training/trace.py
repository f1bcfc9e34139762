"""A trace of a few steps by torch's profiler, to be opened in Perfetto (ui.perfetto.dev) or chrome://tracing."""

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mlim.errors import InputError
from mlim.recipe.training import TraceConfig


def check_trace(wanted: TraceConfig | None, steps: int) -> None:
    """`InputError` where a training of so many `steps` ends before the first one that is wanted."""
    if wanted is not None and wanted.first > steps:
        raise InputError(
            f"compute.trace.first {wanted.first} is after the last of the {steps} steps of this training; set it to at "
            f"most {steps}, or compute.trace to null"
        )


class StepTrace:
    """Records the steps `wanted.first` to `wanted.last` (1-based) into `path` (.json.gz); None: nothing.

    A training that ends before `wanted.last` leaves what was recorded until then (`close`).
    """

    def __init__(self, wanted: TraceConfig | None, path: Path) -> None:
        self._wanted, self._path = wanted, path
        self._profiler: Any = None

    def before(self, step: int) -> None:
        """Begin where step `step` (0-based) is the first one wanted."""
        if self._wanted is not None and step + 1 == self._wanted.first:
            activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()]
            self._profiler = profile(activities=activities, profile_memory=True)
            self._profiler.__enter__()

    def after(self, step: int) -> None:
        """Write the trace where step `step` (0-based) was the last one wanted."""
        if self._wanted is not None and step + 1 == self._wanted.last:
            self.close()

    def close(self) -> None:
        """Write what was recorded, where a recording is under way."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._path))
