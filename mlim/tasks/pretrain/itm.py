"""ITM: does this picture belong to this text? (paper section 4.3)"""

from torch import nn

from mlim.data.batches import ItemBatch
from mlim.losses import LossTerm, itm_loss
from mlim.models.system import Fused, JudgesAgreement, Shown, System
from mlim.tasks.pretrain.passes import PassPlan
from mlim.tasks.pretrain.task import Targets, Task, not_offered


class Itm(Task[Fused]):
    """Targets (B,) are 1 for items with their own picture, 0 for those with another item's."""

    name, reads = "itm", "fused"

    def __init__(self, system: System) -> None:
        if not isinstance(system, JudgesAgreement):
            raise not_offered(self.name, system)
        self._system: JudgesAgreement = system

    @property
    def head(self) -> nn.Module:
        """One logit from the output at [CLS]."""
        return self._system.itm_head

    def read(self, shown: Shown) -> Fused:
        """Outputs of text and picture that have seen each other."""
        return self._system.fuse(shown)

    def targets(self, plan: PassPlan) -> Targets:
        """Every item, whether it kept its picture or not."""
        return Targets(plan.own.float(), len(plan.own))

    def loss(self, reading: Fused, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Binary cross-entropy over the items."""
        return itm_loss(self._system.itm_logits(reading.text[:, 0]), targets.wanted)

    def operations(self, targets: Targets, items: int) -> float:
        """Negligible: the head reads one vector per item."""
        return 0.0
