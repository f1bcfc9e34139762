"""What the training loop asks of the rest, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.objectives import ObjectiveOutput
from mlim.training.checkpoint import Tensors
from mlim.training.meter import Averages

HistoryRow = dict[str, Any]


class Prepared(Protocol):
    """A batch with everything random already drawn."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Targets of every loss."""

    @property
    def ids(self) -> list[str]:
        """Items, for messages."""

    @property
    def tokens(self) -> int:
        """What the transformer reads: text tokens and image cells, without padding."""


Batch_contra = TypeVar("Batch_contra", contravariant=True)
P = TypeVar("P", bound=Prepared)


class Objective(Protocol[Batch_contra, P]):
    """What the loop needs of `PretrainObjective` and `MatchObjective`."""

    @property
    def model(self) -> Mlim | Matcher:
        """What is trained."""

    @property
    def uses_everything(self) -> bool:
        """Whether every step trains every parameter that is trained at all."""

    def prepare(self, batch: Batch_contra, step: int, first: int, /) -> P:
        """Draw what is random for the samples from `first` on of a step (on the CPU)."""

    def losses(self, prepared: P, /) -> ObjectiveOutput:
        """The losses of a prepared batch on the model's device."""

    def operations(self, prepared: P, /) -> float:
        """What a prepared batch costs at least, forward and backward."""


class MetricSink(Protocol):
    """Where figures go while training runs; must be cheap."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep the figures of one step."""


class Unheard:
    """A sink of the ranks that do not track."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""


class Validation(NamedTuple):
    """Averages by mode and over all of them; `value`, when there is one, chooses the best model (higher is better)."""

    by_mode: Mapping[str, Averages]
    overall: Averages
    value: float | None = None


class Best(NamedTuple):
    """The best model so far by validation, weights on the CPU."""

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
    """What came out; the objective's model holds the best weights (the last where nothing chooses)."""

    steps: int
    samples: int
    seconds: float
    skipped: int
    history: list[HistoryRow]
    validation: Averages  # of the last step: overall by loss (`mlm`), and by mode (`mlm/light`)
    best_step: int
    best_value: float | None
    weights: Tensors  # the best ones, whole also where the model is sharded

    @property
    def samples_per_second(self) -> float:
        """Throughput of training alone, without validation and checkpoints."""
        return self.samples / self.seconds if self.seconds else 0.0
