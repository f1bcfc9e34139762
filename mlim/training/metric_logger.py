"""What a training writes down about itself: the history (history.csv), the sink (MLflow), and how fast it goes."""

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mlim.recipe.tasks import BESIDE, TOTAL, loss_titles
from mlim.throughput import device_name, mfu
from mlim.training.device import DeviceContext
from mlim.training.meter import Averages
from mlim.training.protocols import HistoryRow, MetricSink, TrainState, Validation

TRAINED, VALIDATED = "train/", "validation/"  # metrics are `train/mlm`, `train/mlm/light`, `validation/pr_auc`
ALL_MODES = "all"  # the mode of a row of the history that is over several
ROW = ("step", "kind", "mode")  # what a row of the history is about; losses and figures follow
SKIPPED = "skipped_steps"  # goes to the sink alone
TIMED = ("samples_per_second", "tokens_per_second", "data_wait_share", "memory_gib", "mfu")  # differ from run to run

GIBIBYTE = 2**30
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; getrusage(2) counts kibibytes on Linux


class MetricLogger:
    """Fills `state.history` and `state.logged`, and passes metrics to the sink."""

    def __init__(self, state: TrainState, sink: MetricSink) -> None:
        self._state, self._sink = state, sink

    def trained(self, by_mode: Mapping[str, Averages], overall: Averages, figures: Mapping[str, float]) -> None:
        """Losses since the last reading."""
        self._write(TRAINED, by_mode, overall, {**figures, SKIPPED: float(self._state.skipped)})

    def validated(self, found: Validation) -> None:
        """Losses on held-out data, and the value that chooses the best model."""
        figures = {} if found.value is None else {found.metric.name: found.value}
        self._write(VALIDATED, found.by_mode, found.overall, figures, VALIDATED)

    def load(self, history: Sequence[HistoryRow], logged: Sequence[Any]) -> None:
        """Continue those of a checkpoint; the run that tracks from here on shows the whole curve."""
        self._state.history[:] = list(history)
        self._state.logged[:] = [(step, values) for step, values in logged]
        for step, values in self._state.logged:
            self._sink.log(values, step)

    def _write(
        self,
        prefix: str,
        by_mode: Mapping[str, Averages],
        overall: Averages,
        figures: Mapping[str, float],
        before_figures: str = "",
    ) -> None:
        step, kind = self._state.step, prefix.rstrip("/")
        shown = {name: value for name, value in figures.items() if name != SKIPPED}
        for mode, means in by_mode.items():
            self._state.history.append({"step": step, "kind": kind, "mode": mode, **means, **shown})
        if len(by_mode) > 1:  # no mean of the modes' means: each counts by its targets
            self._state.history.append({"step": step, "kind": kind, "mode": ALL_MODES, **overall, **shown})
        values = {f"{prefix}{name}": value for name, value in overall.items()}
        for mode, means in by_mode.items():
            values |= {f"{prefix}{name}/{mode}": value for name, value in means.items()}
        values |= {f"{before_figures}{name}": value for name, value in figures.items()}
        self._state.logged.append((step, values))
        self._sink.log(values, step)


def history_columns(history: Sequence[HistoryRow]) -> list[str]:
    """The columns of history.csv: what a row is about, the losses and their total, then the other figures by name.

    The order does not depend on that within a row: rows that come back from a checkpoint have another.
    """
    measured = {name for row in history for name in row}
    known = (*ROW, *loss_titles(), *BESIDE, TOTAL)
    return [*(name for name in known if name in measured), *sorted(measured.difference(known))]


class ThroughputMeter:
    """Seconds, tokens and waiting since the last reading; pauses (validation, checkpoints) are left out."""

    def __init__(self) -> None:
        self._tokens = self._operations = 0.0
        self._start = time.perf_counter()
        self._first_step = 0
        self._waited = 0.0

    @property
    def seconds(self) -> float:
        """Since the last reading."""
        return time.perf_counter() - self._start

    def restart(self) -> None:
        """Begin to count the time now."""
        self._start, self._waited = time.perf_counter(), 0.0

    def count(self, tokens: float, operations: float) -> None:
        """Add what one step reads and costs, on all ranks."""
        self._tokens += tokens
        self._operations += operations

    def read(self, state: TrainState, samples_per_step: int, context: DeviceContext) -> dict[str, float]:
        """Figures since the last reading, `mfu` where the device's peak is known; adds its seconds to the state."""
        seconds, waited = self.seconds, self._waited
        steps, self._first_step = state.step - self._first_step, state.step
        used = mfu(self._operations, 1 / seconds, device_name(context.device), context.precision, context.ranks.size)
        figures = {
            "samples_per_second": steps * samples_per_step / seconds,
            "tokens_per_second": self._tokens / seconds,
            "data_wait_share": waited / seconds,
            "memory_gib": peak_memory() / GIBIBYTE,
        }
        state.seconds += seconds
        self._tokens = self._operations = 0.0
        self.restart()
        return figures if used is None else {**figures, "mfu": used}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The block is no part of training."""
        before = self.seconds
        try:
            yield
        finally:
            self._start += self.seconds - before

    def continue_at(self, step: int) -> None:
        """ThroughputMeter are of the steps from `step` on."""
        self._tokens, self._operations, self._first_step = 0.0, 0.0, step


def peak_memory() -> int:
    """Bytes: the most that was allocated on the CUDA device, or the largest resident set of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
