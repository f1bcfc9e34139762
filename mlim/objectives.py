"""From a batch to its losses: pre-training (paper section 3.2) and matching (section 3.3).

Everything random is drawn on the CPU before the forward pass, from (seed, number of the micro-batch) alone. So the
number of targets of every loss is known in advance, and the training loop can divide by the count over a whole
optimiser step.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from mlim.data.collate import ItemBatch, PairBatch
from mlim.data.seeds import torch_generator
from mlim.losses import LossTerm, itm_loss, match_loss, mlm_loss, recon_loss
from mlim.masking import MaskMode, MaskPlan, draw_mam_mode, draw_modality, plan_masks
from mlim.models.matcher import Matcher
from mlim.models.mlim import ItemOutput, Mlim
from mlim.recipe import LossWeights, Modality, Pretraining, Recipe, Row

MATCH = "match"
SWAP_ITEMS_PROBABILITY = 0.5  # either order of a pair is as good


class Weighted(NamedTuple):
    """One loss of a batch: its sum and count, and its weight in the total."""

    name: str
    term: LossTerm
    weight: float


class ObjectiveOutput(NamedTuple):
    """The losses of a batch; `mode` is how it was masked (pre-training) or which modality it showed (matching)."""

    terms: tuple[Weighted, ...]
    mode: str


class PreparedItems(NamedTuple):
    """A pre-training batch with its masks and, for ITM, exchanged pictures.

    targets (M,): positions of the masked tokens in the flattened (B * T) texts; kept (K,): rows whose text and picture
    belong together; own (B,): 1 where they do; counts: targets of every loss.
    """

    batch: ItemBatch
    plan: MaskPlan
    targets: torch.Tensor
    kept: torch.Tensor
    own: torch.Tensor
    counts: Mapping[str, int]

    @property
    def ids(self) -> list[str]:
        """The items in the batch, for messages."""
        return self.batch.ids


class PreparedPairs(NamedTuple):
    """A batch of pairs, in the order in which their items are shown, and the modality that is shown of them."""

    batch: PairBatch
    modality: Modality
    counts: Mapping[str, int]

    @property
    def ids(self) -> list[str]:
        """The items in the batch, for messages."""
        return self.batch.ids


class PretrainObjective:
    """MLM, RECON and ITM under MAM or naive masking; which of them, `pretraining` says.

    With ITM on, MLM and RECON count only items that kept their own picture: the others' texts and pictures say nothing
    about each other.
    """

    def __init__(self, model: Mlim, recipe: Recipe, pretraining: Pretraining, seed: int) -> None:
        self.model = model
        self._cells = recipe.image.grid**2
        self._config = recipe.pretrain
        self._pretraining = pretraining
        self._seed = seed

    @property
    def modes(self) -> tuple[MaskMode, ...]:
        """The masking modes that training meets."""
        if self._pretraining.masking == "naive":
            return (MaskMode.NAIVE,)
        return (MaskMode.HEAVY_IMAGE, MaskMode.HEAVY_TEXT, MaskMode.LIGHT)

    def prepare(self, batch: ItemBatch, draw: int, mode: MaskMode | None = None) -> PreparedItems:
        """Masks and exchanges for the `draw`-th micro-batch; a given `mode` replaces the drawn one (validation)."""
        generator = torch_generator("masks", self._seed, draw)
        drawn = MaskMode.NAIVE if self._pretraining.masking == "naive" else draw_mam_mode(generator)
        plan = plan_masks(batch.maskable, self._cells, mode or drawn, self._config.masking, generator)
        own = torch.ones(len(batch.ids), dtype=torch.bool)
        if "itm" in self._pretraining.losses:
            batch, own = swap_pictures(batch, self._config.itm_swap, generator)
        targets = (plan.text & own[:, None]).flatten().nonzero().squeeze(1)
        kept = own.nonzero().squeeze(1)
        pixels = kept.numel() * batch.pixels.shape[-2] * batch.pixels.shape[-1]
        counts = {"mlm": targets.numel(), "recon": pixels, "itm": len(batch.ids)}
        asked: dict[str, int] = {name: counts[name] for name in self._pretraining.losses}
        return PreparedItems(batch, plan, targets, kept, own.float(), asked)

    def losses(self, prepared: PreparedItems) -> ObjectiveOutput:
        """The losses of a prepared batch; `prepared` lies on the model's device."""
        prepared = prepared._replace(batch=prepared.batch.with_floats())
        batch, plan = prepared.batch, prepared.plan
        output = self.model.forward_items(
            batch.input_ids, batch.text_attention, batch.pixels, text_mask=plan.text, image_mask=plan.image
        )
        weights = self._config.weights
        terms = (
            Weighted(name, self._term(name, output, prepared), weight_of(weights, name)) for name in prepared.counts
        )
        return ObjectiveOutput(tuple(terms), plan.mode.value)

    def __call__(self, batch: ItemBatch, draw: int) -> ObjectiveOutput:
        """Prepare the batch and compute its losses (batch and model on the CPU)."""
        return self.losses(self.prepare(batch, draw))

    def _term(self, name: str, output: ItemOutput, prepared: PreparedItems) -> LossTerm:
        batch = prepared.batch
        if name == "itm":
            return itm_loss(self.model.itm_logits(output.text[:, 0]), prepared.own)
        if name == "mlm":
            hidden = output.text.flatten(0, 1)[prepared.targets]
            return mlm_loss(self.model.mlm_logits(hidden), batch.input_ids.flatten()[prepared.targets])
        cells = output.cells
        if cells is None:
            raise ValueError("RECON needs pictures, but the batch has none")
        return recon_loss(self.model.reconstruct(cells[prepared.kept]), batch.pixels[prepared.kept])


class MatchObjective:
    """Does a pair match? With modality dropout each micro-batch shows texts only, pictures only, or both.

    MDO is for rows that use both modalities; a row of one modality always shows that one.
    """

    def __init__(self, model: Matcher, recipe: Recipe, row: Row, seed: int) -> None:
        self.model = model
        self._config = recipe.finetune
        self._row = row
        self._seed = seed

    def prepare(self, batch: PairBatch, draw: int) -> PreparedPairs:
        """Modality and order of the items for the `draw`-th micro-batch."""
        generator = torch_generator("matching", self._seed, draw)
        modality = self._row.modality
        if self._row.mdo and modality == "both":
            modality = draw_modality(self._config, generator)
        if self._config.swap_items:
            exchanged = torch.rand(len(batch.labels), generator=generator) < SWAP_ITEMS_PROBABILITY
            batch = swap_sides(batch, exchanged)
        return PreparedPairs(batch, modality, {MATCH: len(batch.labels)})

    def losses(self, prepared: PreparedPairs) -> ObjectiveOutput:
        """The loss of a prepared batch; `prepared` lies on the model's device."""
        batch = prepared.batch.with_floats()
        logits = self.model(batch.first, batch.second, prepared.modality)
        return ObjectiveOutput((Weighted(MATCH, match_loss(logits, batch.labels), 1.0),), prepared.modality)

    def __call__(self, batch: PairBatch, draw: int) -> ObjectiveOutput:
        """Prepare the batch and compute its loss (batch and model on the CPU)."""
        return self.losses(self.prepare(batch, draw))


def weight_of(weights: LossWeights, name: str) -> float:
    """The weight of a pre-training loss by its name."""
    return {"mlm": weights.mlm, "recon": weights.recon, "itm": weights.itm}[name]


def swap_pictures(batch: ItemBatch, probability: float, generator: torch.Generator) -> tuple[ItemBatch, torch.Tensor]:
    """Give each item another item's picture with `probability` (ITM); also returns who kept its own (B,) bool.

    The partner is one random rotation of the batch, so nobody is its own; an id that occurs twice in a batch (a catalog
    smaller than a batch) never counts as another item.
    """
    size = len(batch.ids)
    chosen = torch.rand(size, generator=generator) < probability
    shift = int(torch.randint(1, max(size, 2), (1,), generator=generator))
    partner = (torch.arange(size) + shift) % size
    other = torch.tensor([batch.ids[place] != batch.ids[int(partner[place])] for place in range(size)])
    swapped = chosen & other
    source = torch.where(swapped, partner, torch.arange(size))
    return batch._replace(pixels=batch.pixels[source]), ~swapped


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
