"""Questions in pre-training: which is the answer, of those that the train split has? (Tan and Bansal 2019)"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mlim.data.batches import ItemBatch
from mlim.errors import InputError
from mlim.losses import UNKNOWN, LossTerm, question_loss
from mlim.models.system import AnswersQuestions, Fused, Shown, System
from mlim.recipe.answer import AnswerTask
from mlim.tasks.pretrain.passes import PassPlan
from mlim.tasks.pretrain.task import Targets, Task, not_offered


class Answered(NamedTuple):
    """The rows (N,) of items that show a question beside their own picture, and its answer (N,)."""

    rows: Tensor
    answers: Tensor


class Answering(Task[Fused]):
    """Targets are the questions that are shown beside their own picture and have an answer in the table."""

    name, reads = "answer", "fused"

    def __init__(self, system: System, config: AnswerTask) -> None:
        if not isinstance(system, AnswersQuestions) or system.answer_head is None:
            raise not_offered(self.name, system)
        self._system: AnswersQuestions = system
        self._head, self._from = system.answer_head, config.from_step

    @property
    def head(self) -> nn.Module:
        """From the output at [CLS] to logits over answers."""
        return self._head

    def read(self, shown: Shown) -> Fused:
        """Outputs of text and regions that have seen each other."""
        return self._system.fuse(shown)

    def targets(self, plan: PassPlan) -> Targets:
        """The questions with their own picture; none before the task begins, and all in validation."""
        if plan.answers is None:
            raise InputError(f"task {self.name} needs annotated questions; run `mlim annotate`, or choose other tasks")
        begun = plan.step is None or plan.step >= self._from
        counted = plan.own & (plan.answers != UNKNOWN) & torch.tensor(begun)
        rows = counted.nonzero().squeeze(1)
        return Targets(Answered(rows, plan.answers[rows]), rows.numel())

    def loss(self, reading: Fused, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Cross-entropy of the answers."""
        wanted: Answered = targets.wanted
        return question_loss(self._head(reading.text[wanted.rows, 0]), wanted.answers)

    def operations(self, targets: Targets, items: int) -> float:
        """Operations of the head for the questions that count."""
        return self._system.answer_operations(targets.number)
