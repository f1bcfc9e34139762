"""The protocols between the training loop and its callers."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from mlim.tasks.protocols import Metric
from mlim.training.checkpoint import Tensors
from mlim.training.meter import Averages

HistoryRow = dict[str, Any]


class MetricSink(Protocol):
    """Where figures go while training runs; must be cheap."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep the figures of one step."""


class NullLogger:
    """A sink of the ranks that do not track."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""


class Validation(NamedTuple):
    """Averages by mode and over all of them; `value`, when there is one, is of `metric` and chooses the best model."""

    by_mode: Mapping[str, Averages]
    overall: Averages
    value: float | None = None
    metric: Metric = Metric("value")


class Best(NamedTuple):
    """The best model so far by validation; weights on the CPU, of a sharded model this rank's."""

    step: int
    value: float
    weights: Tensors


@dataclass
class TrainState:
    """Where a training is; with the weights and the optimiser's moments, all that a checkpoint holds."""

    step: int = 0
    seconds: float = 0.0
    skipped: int = 0  # steps that were not finite
    history: list[HistoryRow] = field(default_factory=list)
    logged: list[tuple[int, Averages]] = field(default_factory=list)  # everything the sink was given
    best: Best | None = None


@dataclass(frozen=True)
class TrainResult:
    """What came out; the objective's model holds the best weights (the last where nothing chooses).

    Under `usable()` the model computes outside of training; of a sharded one all ranks must use it alike.
    """

    steps: int
    samples: int
    seconds: float
    skipped: int
    history: list[HistoryRow]
    validation: Averages  # of the last step: overall by loss (`mlm`), and by mode (`mlm/light`)
    best_step: int
    best_value: float | None
    usable: Callable[[], AbstractContextManager[None]]

    @property
    def samples_per_second(self) -> float:
        """Throughput of training alone, without validation and checkpoints."""
        return self.samples / self.seconds if self.seconds else 0.0
