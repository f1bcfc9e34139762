"""What a pre-training task is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from mlim.data.batches import ItemBatch
from mlim.errors import InputError
from mlim.losses import LossTerm
from mlim.models.system import Shown, System
from mlim.tasks.pretrain.baselines import Baselines, TrainSample
from mlim.tasks.pretrain.passes import PassPlan
from mlim.tasks.pretrain.samples import Sampler

R = TypeVar("R")


class Targets(NamedTuple):
    """The targets of a task in a batch, as tensors made on the CPU, and how many targets these are.

    `by_loss`: targets of each loss of a task that has several.
    """

    wanted: Any
    number: int
    by_loss: Mapping[str, float] | None = None

    def counts(self, task: str) -> Mapping[str, float]:
        """Targets by loss; the only loss of a task has the task's name."""
        return {task: self.number} if self.by_loss is None else self.by_loss


PICTURE: Final = "picture"  # the reading of tasks that read pictures alone


class Task(ABC, Generic[R]):
    """What pre-training asks for: what it wants of a batch, and how it scores what the system reads.

    `read` gives a reading of the batch; tasks whose `reads` is equal share one. A task has one `loss`, or several
    `losses` by name, each with targets of its own (`Targets.by_loss`) and its weight in the recipe. With pictures
    exchanged, a task that does not judge the exchange counts only items that kept their own: the others' texts and
    pictures say nothing about each other.
    """

    name: str
    reads: str
    uses_everything: bool = True  # of a system that itself says so, but for other tasks' heads

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """What reads the outputs for this task."""

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The heads and decoders that this task trains."""
        return [self.head]

    @abstractmethod
    def read(self, shown: Shown) -> R:
        """The reading of a batch that this task scores."""

    @abstractmethod
    def targets(self, plan: PassPlan) -> Targets:
        """What it wants of a batch; on the CPU."""

    def loss(self, reading: R, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Sum and count over the targets; all on the model's device."""
        raise NotImplementedError(f"task {self.name} has neither `loss` nor `losses`")

    def losses(self, reading: R, targets: Targets, batch: ItemBatch) -> Mapping[str, LossTerm]:
        """The same by name."""
        return {self.name: self.loss(reading, targets, batch)}

    @abstractmethod
    def operations(self, targets: Targets, items: int) -> float:
        """Operations of a forward pass of the head."""

    def sampler(
        self, collate: Callable[[Sequence[str]], ItemBatch], ids: Sequence[str], share: float, device: torch.device
    ) -> Sampler | None:
        """Draws what the task makes of the items `ids` with a `share` of each hidden; None: nothing to look at."""
        return None

    def baselines(self, sample: TrainSample) -> Baselines | None:
        """Simple baselines to do the same, learned from `sample`; None: there are none."""
        return None


def not_offered(task: str, system: System) -> InputError:
    """What to raise for a task that needs a reading which the system has not."""
    return InputError(f"task {task} needs what system {system.kind} does not offer; choose other tasks for it")
