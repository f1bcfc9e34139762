"""Captioning: the text of a picture, word after word, from the picture alone."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mlim.data.batches import ItemBatch
from mlim.losses import LossTerm, write_loss
from mlim.models.system import Shown, System
from mlim.models.writing import Writes
from mlim.recipe.caption import CaptionTask
from mlim.tasks.pretrain.passes import Caption, PassPlan
from mlim.tasks.pretrain.task import PICTURE, Targets, Task, not_offered


class Written(NamedTuple):
    """What is written: ids (B, T) of the tokens before each predicted one, places (M,) of the predicted ones in the
    flattened (B * T), and these (M,), [SEP] among them.
    """

    ids: Tensor
    places: Tensor
    tokens: Tensor


class Captioning(Task[Tensor]):
    """Targets are a caption of each picture; where no captions are known the item's text, if it has its own picture."""

    name, reads = "caption", PICTURE

    def __init__(self, system: System, config: CaptionTask) -> None:
        if not isinstance(system, Writes):
            raise not_offered(self.name, system)
        self._system: Writes = system
        self._smoothing = config.smoothing

    @property
    def head(self) -> nn.Module:
        """From an output to the vocabulary."""
        return self._system.writing_modules[-1]

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The head, and the decoder where the system has one."""
        return self._system.writing_modules

    def read(self, shown: Shown) -> Tensor:
        """What writing reads of the pictures alone."""
        return self._system.look(shown)

    def targets(self, plan: PassPlan) -> Targets:
        """Every token after [CLS], with [SEP]."""
        written = targets_of(plan.caption or _own_texts(plan))
        return Targets(written, len(written.tokens))

    def loss(self, reading: Tensor, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Negative log-likelihood of the tokens, each given the picture and those before it."""
        written: Written = targets.wanted
        outputs = self._system.write(reading, written.ids).flatten(0, 1)[written.places]
        return write_loss(self._system.write_logits(outputs), written.tokens, self._smoothing)

    def operations(self, targets: Targets, items: int) -> float:
        """Operations over pictures and texts of average length."""
        return items * self._system.writing_operations(targets.number / items)


def _own_texts(plan: PassPlan) -> Caption:
    """The items' texts; of length 0 where another item's picture is shown."""
    batch = plan.batch
    return Caption(batch.input_ids, batch.text_attention.sum(dim=1) * plan.own)


def targets_of(caption: Caption) -> Written:
    """What there is to predict in texts that begin with [CLS]."""
    before, after = caption.ids[:, :-1], caption.ids[:, 1:]
    wanted = torch.arange(before.shape[1]) < caption.lengths[:, None] - 1
    return Written(before, wanted.flatten().nonzero().squeeze(1), after[wanted])
