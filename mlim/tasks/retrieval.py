"""Retrieval: which picture belongs to a text, and which text to a picture?

Either by the vectors of a system, as its pre-training contrasts them (`itc`), or by its judgement of agreement in one
pass over a text and a picture, against a few other items of the batch (`itm`). Both look at a whole batch.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlim.data.batches import ItemBatch
from mlim.losses import LossTerm
from mlim.models.backbone import picture_masks
from mlim.models.costs import TRAINING
from mlim.models.system import JudgesAgreement, SeesOnce, Shown, System, seen_once
from mlim.models.transformer import Packing
from mlim.models.vectors import Compares
from mlim.recipe.retrieval import By
from mlim.tasks.pretrain.itc import itc_loss, item_numbers
from mlim.tasks.pretrain.task import not_offered
from mlim.tasks.protocols import Metric, ObjectiveOutput, Weighted

RETRIEVAL: Final = "retrieval"
METRIC: Final = Metric("r1")


class PreparedItems(NamedTuple):
    """A batch of items, their `item_numbers` (B,), and where the real tokens lie of all passes over it."""

    batch: ItemBatch
    items: Tensor
    packing: Packing
    tokens: int

    @property
    def ids(self) -> list[str]:
        """The items in the batch, for messages."""
        return self.batch.ids

    @property
    def counts(self) -> Mapping[str, float]:
        """Every item is a target."""
        return {RETRIEVAL: len(self.batch.ids)}


class Way(Protocol):
    """How texts and pictures are compared."""

    copies: int  # passes over each text of a batch

    @property
    def head(self) -> nn.Module:
        """The one head that it trains."""

    def loss(self, batch: ItemBatch, items: Tensor, packing: Packing) -> LossTerm:
        """Sum over the items of a batch (`item_numbers` (B,)), both directions added up, and their number."""


class ByVectors:
    """Inner products of unit vectors, among all items of the batch."""

    copies = 1

    def __init__(self, system: System) -> None:
        if not isinstance(system, Compares):
            raise not_offered(RETRIEVAL, system)
        self._system: Compares = system

    @property
    def head(self) -> nn.Module:
        """The projections into the common space."""
        return self._system.projection

    def loss(self, batch: ItemBatch, items: Tensor, packing: Packing) -> LossTerm:
        """The contrast of pre-training."""
        shown = Shown(batch.input_ids, batch.text_attention, batch.pixels, packing=packing)
        return itc_loss(self._system.vectors(shown), items)


class ByAgreement:
    """The logit of a pass over text and picture: each text with its own picture and those of the next items."""

    def __init__(self, system: System, negatives: int) -> None:
        if not isinstance(system, JudgesAgreement):
            raise not_offered(RETRIEVAL, system)
        self._network: System = system
        self._system: JudgesAgreement = system
        self.copies = 1 + negatives

    @property
    def head(self) -> nn.Module:
        """One logit from the output at [CLS]."""
        return self._system.itm_head

    def loss(self, batch: ItemBatch, items: Tensor, packing: Packing) -> LossTerm:
        """Which of these pictures is a text's own, and which of the same texts is a picture's own."""
        ids, attention = batch.input_ids.repeat(self.copies, 1), batch.text_attention.repeat(self.copies, 1)
        once = seen_once(self._network, Shown(batch.input_ids, batch.text_attention, batch.pixels))
        pixels, vectors = (_turned(part, self.copies) for part in (once.pixels, once.vectors))
        fused = self._system.fuse(Shown(ids, attention, pixels, packing=packing, vectors=vectors))
        return turned_loss(self._system.itm_logits(fused.text[:, 0]).view(self.copies, -1))


def _turned(pictures: Tensor | None, copies: int) -> Tensor | None:
    """A batch of pictures, then that of the next items, ...: row i of copy k is that of item i + k."""
    return None if pictures is None else torch.cat([pictures.roll(-turn, 0) for turn in range(copies)])


def turned_loss(logits: Tensor) -> LossTerm:
    """Cross-entropies in both directions, summed, from logits (1 + n, B): row k has text i with picture i + k.

    A text is told from the pictures of the n items after it, a picture from the texts of the n items before it.
    """
    by_text = logits.float()
    by_picture = torch.stack([row.roll(turn) for turn, row in enumerate(by_text)])
    own = torch.zeros(logits.shape[1], dtype=torch.long, device=logits.device)
    total = functional.cross_entropy(by_text.T, own, reduction="sum")
    total = total + functional.cross_entropy(by_picture.T, own, reduction="sum")
    return LossTerm(total, torch.full((), float(logits.shape[1]), device=logits.device))


def way_of(by: By, system: System, negatives: int) -> Way:
    """The way of that name."""
    return ByVectors(system) if by == "itc" else ByAgreement(system, negatives)


class RetrievalObjective:
    """The loss of one way to compare, on batches of items."""

    def __init__(self, system: System, way: Way) -> None:
        self.model, self._way = system, way
        self.weights = {RETRIEVAL: 1.0}
        for module in system.task_modules():  # other heads get no gradient, which DDP would wait for
            module.requires_grad_(module is way.head)
        for module in picture_masks(system):  # nothing is hidden
            module.requires_grad_(False)

    @property
    def uses_everything(self) -> bool:
        """Whether every step trains every parameter that is trained at all."""
        return self.model.uses_everything

    def prepare(self, batch: ItemBatch, step: int, first: int = 0) -> PreparedItems:
        """Nothing is drawn; where the real tokens lie."""
        packing = self.model.pack_items(batch.text_attention.repeat(self._way.copies, 1))
        return PreparedItems(batch, item_numbers(batch.ids), packing, self.model.tokens(packing))

    def losses(self, prepared: PreparedItems) -> ObjectiveOutput:
        """The loss of a prepared batch on the model's device."""
        term = self._way.loss(prepared.batch.with_floats(), prepared.items, prepared.packing)
        return ObjectiveOutput((Weighted(RETRIEVAL, term, 1.0),), "both")

    def operations(self, prepared: PreparedItems) -> float:
        """What a prepared batch costs at least, forward and backward (mlim/models/costs.py)."""
        again = (self._way.copies - 1) * len(prepared.ids)  # pictures that are counted and seen once (`seen_once`)
        shared = again * self.model.seeing_operations if isinstance(self.model, SeesOnce) else 0.0
        return TRAINING * (self.model.operations(prepared.packing) - shared)
