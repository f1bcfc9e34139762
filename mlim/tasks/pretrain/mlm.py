"""MLM: the hidden tokens of a text (paper section 3.2)."""

from typing import Final

from torch import nn

from mlim.data.batches import ItemBatch
from mlim.losses import LossTerm, mlm_loss
from mlim.models.system import Fused, PredictsTokens, Shown, System
from mlim.tasks.pretrain.baselines import TrainSample, Words, masked_places
from mlim.tasks.pretrain.passes import PassPlan
from mlim.tasks.pretrain.task import Targets, Task, not_offered

TEXTS: Final = 50_000  # that the baselines count words in, at most


class Mlm(Task[Fused]):
    """Targets are the places (M,) of the masked tokens in the flattened (B * T) texts."""

    name, reads = "mlm", "fused"

    def __init__(self, system: System) -> None:
        if not isinstance(system, PredictsTokens):
            raise not_offered(self.name, system)
        self._system: PredictsTokens = system

    @property
    def head(self) -> nn.Module:
        """BERT's head over the vocabulary."""
        return self._system.mlm_head

    def read(self, shown: Shown) -> Fused:
        """Outputs of text and picture that have seen each other."""
        return self._system.fuse(shown)

    def targets(self, plan: PassPlan) -> Targets:
        """The masked tokens of items with their own picture."""
        places = masked_places(plan)
        return Targets(places, places.numel())

    def loss(self, reading: Fused, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Negative log-likelihood of the masked tokens."""
        hidden = reading.text.flatten(0, 1)[targets.wanted]
        return mlm_loss(self._system.mlm_logits(hidden), batch.input_ids.flatten()[targets.wanted])

    def operations(self, targets: Targets, items: int) -> float:
        """Operations of the head at the masked tokens."""
        return self._system.mlm_operations(targets.number)

    def baselines(self, sample: TrainSample) -> Words:
        """Words by frequency, and by the word before."""
        return Words(sample.texts(TEXTS), sample.vocabulary)
