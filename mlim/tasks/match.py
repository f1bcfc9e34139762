"""Matching: is a pair of items the same but for a variation? (paper sections 3.3 and 4.2.1)

Order and modality are drawn on the CPU before the forward pass, from (seed, step, place of the pair in the step) alone.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch

from mlim.data.attributes import DecidingValues
from mlim.data.batches import PairBatch
from mlim.data.seeds import torch_generator
from mlim.losses import UNKNOWN, attribute_loss, match_loss
from mlim.masking import draw_modality, draw_rows
from mlim.models.costs import TRAINING
from mlim.models.pair_network import PairNetwork, PairPacking
from mlim.recipe.base import Modality
from mlim.recipe.finetune import FinetuneConfig, Variant
from mlim.tasks.protocols import Metric, ObjectiveOutput, Weighted

MATCH, ATTRIBUTE = "match", "attribute"
METRIC: Final = Metric("pr_auc")
SWAP_ITEMS_PROBABILITY = 0.5  # either order of a pair is as good


class PreparedPairs(NamedTuple):
    """A batch of pairs, in the order in which their items are shown, and the modality that is shown of them.

    counts: targets of the losses; packing: where the real tokens lie; tokens: what the network's transformers read;
    attributes (2 * B, A): the classes of all first items, then of all second ones, None without that loss.
    """

    batch: PairBatch
    modality: Modality
    counts: Mapping[str, int]
    packing: PairPacking
    tokens: int
    attributes: torch.Tensor | None = None

    @property
    def ids(self) -> list[str]:
        """The items in the batch, for messages."""
        return self.batch.ids


class MatchObjective:
    """Does a pair match? With modality dropout each optimiser step shows texts only, pictures only, or both.

    MDO is for variants that use both modalities; a variant of one modality always shows that one. With `values` each
    item's vector also tells by which values the catalog's rule decides (`finetune.attribute_weight`).
    """

    def __init__(
        self,
        model: PairNetwork,
        config: FinetuneConfig,
        variant: Variant,
        seed: int,
        values: DecidingValues | None = None,
    ) -> None:
        self.model, self._config, self._variant, self._seed, self._values = model, config, variant, seed, values
        self.weights = {MATCH: 1.0, ATTRIBUTE: config.attribute_weight}

    @property
    def uses_everything(self) -> bool:
        """Whether every step trains every parameter that is trained at all: not those of a modality left out."""
        return False

    def prepare(self, batch: PairBatch, step: int, first: int = 0) -> PreparedPairs:
        """Modality and order of the items for the pairs from `first` on of a step."""
        generator = torch_generator("matching", self._seed, step)
        modality = self._variant.modality
        if self._variant.mdo and modality == "both":
            modality = draw_modality(self._config, generator)
        if self._config.swap_items:
            draws = draw_rows(generator, first, len(batch.labels), 1)[:, 0]
            batch = swap_sides(batch, draws < SWAP_ITEMS_PROBABILITY)
        packing = self.model.pack_pairs(batch.first.attention, batch.second.attention, modality)
        counts, tokens = {MATCH: len(batch.labels)}, self.model.tokens(packing, modality)
        if self._values is None:
            return PreparedPairs(batch, modality, counts, packing, tokens)
        attributes = self._values.classes_of(batch.ids)
        counts[ATTRIBUTE] = int((attributes != UNKNOWN).sum())
        return PreparedPairs(batch, modality, counts, packing, tokens, attributes)

    def losses(self, prepared: PreparedPairs) -> ObjectiveOutput:
        """The losses of a prepared batch; `prepared` lies on the model's device."""
        batch = prepared.batch.with_floats()
        read = self.model.read_pair(batch.first, batch.second, prepared.modality, prepared.packing)
        terms = [Weighted(MATCH, match_loss(read.logits, batch.labels), self.weights[MATCH])]
        if prepared.attributes is not None:
            logits = self.model.attribute_logits(read.items)
            term = attribute_loss(logits, prepared.attributes, prepared.counts[ATTRIBUTE])
            terms.append(Weighted(ATTRIBUTE, term, self.weights[ATTRIBUTE]))
        return ObjectiveOutput(tuple(terms), prepared.modality)

    def operations(self, prepared: PreparedPairs) -> float:
        """What a prepared batch costs at least, forward and backward (mlim/models/costs.py)."""
        return TRAINING * self.model.operations(prepared.packing, prepared.modality)


def swap_sides(batch: PairBatch, exchanged: torch.Tensor) -> PairBatch:
    """The same pairs with first and second exchanged where `exchanged` (B,) is true."""
    first = [_choose(exchanged, b, a) for a, b in zip(batch.first, batch.second, strict=True)]
    second = [_choose(exchanged, a, b) for a, b in zip(batch.first, batch.second, strict=True)]
    names = list(zip(exchanged.tolist(), batch.item_a, batch.item_b, strict=True))
    return batch._replace(
        first=type(batch.first)(*first),
        second=type(batch.second)(*second),
        item_a=[b if turn else a for turn, a, b in names],
        item_b=[a if turn else b for turn, a, b in names],
    )


def _choose(chosen: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    return torch.where(chosen.view(-1, *[1] * (yes.dim() - 1)), yes, no)
