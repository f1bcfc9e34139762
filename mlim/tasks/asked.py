"""Questions about a picture, statements about two: which answer is right?"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from torch import Tensor

from mlim.data.asked import AskedBatch
from mlim.losses import LossTerm
from mlim.models.costs import TRAINING
from mlim.models.item_classifier import ItemClassifier
from mlim.models.transformer import Packing
from mlim.recipe.base import Modality
from mlim.tasks.protocols import Metric, ObjectiveOutput, Weighted

METRIC: Final = Metric("accuracy")
AnswerLoss = Callable[[Tensor, Tensor], LossTerm]


class PreparedAsked(NamedTuple):
    """A batch of texts about pictures, and where the real tokens lie; every text is a target."""

    batch: AskedBatch
    packing: Packing
    tokens: int
    counts: Mapping[str, float]

    @property
    def ids(self) -> list[str]:
        """The items in the batch, for messages."""
        return self.batch.ids


class AskedObjective:
    """The `loss` of the answers to texts about pictures; `name` is that of the task.

    Both modalities are shown or always the same one.
    """

    def __init__(self, model: ItemClassifier, name: str, loss: AnswerLoss, modality: Modality) -> None:
        self.model, self._name, self._loss, self._modality = model, name, loss, modality
        self.weights = {name: 1.0}

    @property
    def uses_everything(self) -> bool:
        """Whether every step trains every parameter that is trained at all: not those of a modality left out."""
        return False

    def prepare(self, batch: AskedBatch, step: int, first: int = 0) -> PreparedAsked:
        """Nothing is drawn; where the real tokens lie."""
        packing = self.model.pack(batch)
        tokens = self.model.items.item_tokens(packing, self._modality)
        return PreparedAsked(batch, packing, tokens, {self._name: len(batch.input_ids)})

    def losses(self, prepared: PreparedAsked) -> ObjectiveOutput:
        """The loss of a prepared batch on the model's device."""
        batch = prepared.batch.with_floats()
        logits = self.model(batch, self._modality, prepared.packing)
        return ObjectiveOutput((Weighted(self._name, self._loss(logits, batch.scores), 1.0),), self._modality)

    def operations(self, prepared: PreparedAsked) -> float:
        """What a prepared batch costs at least, forward and backward (mlim/models/costs.py)."""
        return TRAINING * self.model.items.item_operations(prepared.packing, self._modality)
