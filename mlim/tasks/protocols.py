"""What the training loop knows of what it trains: an objective, prepared batches, losses as sums and counts."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

from mlim.losses import LossTerm
from mlim.models.network import Network


class Weighted(NamedTuple):
    """One loss of a batch: its sum and count, and its weight in the total."""

    name: str
    term: LossTerm
    weight: float


class ObjectiveOutput(NamedTuple):
    """The losses of a batch; `mode` is how it was masked (pre-training) or which modality it showed (fine-tuning)."""

    terms: tuple[Weighted, ...]
    mode: str


class Metric(NamedTuple):
    """What a model is judged by: its name in tables and with MLflow, and which end of it is the good one."""

    name: str
    higher_is_better: bool = True

    def is_reached(self, value: float, best: float) -> bool:
        """Whether `value` is as good as `best`."""
        return value >= best if self.higher_is_better else value <= best


class Prepared(Protocol):
    """A batch with everything random already drawn."""

    @property
    def counts(self) -> Mapping[str, float]:
        """Targets of every loss."""

    @property
    def ids(self) -> list[str]:
        """Items, for messages."""

    @property
    def tokens(self) -> int:
        """What the network's transformers read, without padding."""


Batch_contra = TypeVar("Batch_contra", contravariant=True)
P = TypeVar("P", bound=Prepared)


class Objective(Protocol[Batch_contra, P]):
    """What a network is trained on."""

    @property
    def model(self) -> Network:
        """What is trained."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of every loss."""

    @property
    def uses_everything(self) -> bool:
        """Whether every step trains every parameter that is trained at all."""

    def prepare(self, batch: Batch_contra, step: int, first: int, /) -> P:
        """Draw what is random for the samples from `first` on of a step (on the CPU)."""

    def losses(self, prepared: P, /) -> ObjectiveOutput:
        """The losses of a prepared batch on the model's device."""

    def operations(self, prepared: P, /) -> float:
        """What a prepared batch costs at least, forward and backward."""
