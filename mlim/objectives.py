"""From a batch to its losses: pre-training (paper section 3.2) and matching (section 3.3).

Everything random is drawn on the CPU before the forward pass, from (seed, step, place of the sample in the step) alone.
So the number of targets of every loss is known in advance, the training loop can divide by the count over a whole
optimiser step, and the step gives the same losses however it is cut into micro-batches and ranks.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from mlim.data.collate import ItemBatch, PairBatch
from mlim.data.seeds import torch_generator
from mlim.losses import LossTerm, itm_loss, match_loss, mlm_loss, recon_loss
from mlim.masking import MaskMode, MaskPlan, draw_mam_mode, draw_modality, draw_rows, plan_masks
from mlim.models.config import TEXT_SPECIALS, MlimConfig
from mlim.models.matcher import PAIR, Matcher
from mlim.models.mlim import ItemOutput, Mlim
from mlim.models.transformer import Packing
from mlim.recipe import LossWeights, Modality, Pretraining, Recipe, Row
from mlim.throughput import PARTS, TRAINING, Part, Sample, part_costs

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
    belong together; own (B,): 1 where they do; counts: targets of every loss; packing: where the real tokens lie.
    """

    batch: ItemBatch
    plan: MaskPlan
    targets: torch.Tensor
    kept: torch.Tensor
    own: torch.Tensor
    counts: Mapping[str, int]
    packing: Packing

    @property
    def ids(self) -> list[str]:
        """The items in the batch, for messages."""
        return self.batch.ids

    @property
    def tokens(self) -> int:
        """What the transformer reads: text tokens and image cells, without padding."""
        return len(self.packing.places)


class PreparedPairs(NamedTuple):
    """A batch of pairs, in the order in which their items are shown, and the modality that is shown of them.

    counts: targets of the loss; packing: where the real tokens lie.
    """

    batch: PairBatch
    modality: Modality
    counts: Mapping[str, int]
    packing: Packing

    @property
    def ids(self) -> list[str]:
        """The items in the batch, for messages."""
        return self.batch.ids

    @property
    def tokens(self) -> int:
        """What the transformer reads: text tokens and image cells, without padding."""
        return len(self.packing.places)


class PretrainObjective:
    """MLM, RECON and ITM under MAM or naive masking; which of them, `pretraining` says.

    With ITM on, MLM and RECON count only items that kept their own picture: the others' texts and pictures say nothing
    about each other.
    """

    def __init__(self, model: Mlim, recipe: Recipe, pretraining: Pretraining, seed: int) -> None:
        self.model = model
        # numbers that a sample draws: one for each text position, each cell, and the exchange of its picture
        self._draws = (recipe.text.max_tokens + TEXT_SPECIALS, recipe.image.grid**2, 1)
        self._config = recipe.pretrain
        self._pretraining = pretraining
        self._seed = seed
        heads = {"mlm": model.mlm_head, "recon": model.decoder, "itm": model.itm_head}
        for name, head in heads.items():  # nobody waits for a gradient that never comes
            head.requires_grad_(name in pretraining.losses)

    @property
    def uses_everything(self) -> bool:
        """Whether every step trains every parameter that is trained at all."""
        return True

    @property
    def modes(self) -> tuple[MaskMode, ...]:
        """The masking modes that training meets."""
        if self._pretraining.masking == "naive":
            return (MaskMode.NAIVE,)
        return (MaskMode.HEAVY_IMAGE, MaskMode.HEAVY_TEXT, MaskMode.LIGHT)

    def prepare(self, batch: ItemBatch, step: int, first: int = 0, mode: MaskMode | None = None) -> PreparedItems:
        """Masks and exchanges for the samples from `first` on of a step; `mode` replaces the drawn one (validation)."""
        generator = torch_generator("masks", self._seed, step)
        drawn = MaskMode.NAIVE if self._pretraining.masking == "naive" else draw_mam_mode(generator)
        rows = draw_rows(generator, first, len(batch.ids), sum(self._draws))
        text, image, exchange = torch.split(rows, list(self._draws), dim=1)
        plan = plan_masks(batch.maskable, text, image, mode or drawn, self._config.masking)
        own = torch.ones(len(batch.ids), dtype=torch.bool)
        if "itm" in self._pretraining.losses:
            batch, own = swap_pictures(batch, exchange[:, 0] < self._config.itm_swap, first)
        targets = (plan.text & own[:, None]).flatten().nonzero().squeeze(1)
        kept = own.nonzero().squeeze(1)
        pixels = kept.numel() * batch.pixels.shape[-2] * batch.pixels.shape[-1]
        counts = {"mlm": targets.numel(), "recon": pixels, "itm": len(batch.ids)}
        asked: dict[str, int] = {name: counts[name] for name in self._pretraining.losses}
        packing = self.model.pack_items(batch.text_attention)
        return PreparedItems(batch, plan, targets, kept, own.float(), asked, packing)

    def losses(self, prepared: PreparedItems) -> ObjectiveOutput:
        """The losses of a prepared batch; `prepared` lies on the model's device."""
        prepared = prepared._replace(batch=prepared.batch.with_floats())
        batch, plan = prepared.batch, prepared.plan
        output = self.model.forward_items(
            batch.input_ids, batch.text_attention, batch.pixels, plan.text, plan.image, prepared.packing
        )
        weights = self._config.weights
        terms = (
            Weighted(name, self._term(name, output, prepared), weight_of(weights, name)) for name in prepared.counts
        )
        return ObjectiveOutput(tuple(terms), plan.mode.value)

    def operations(self, prepared: PreparedItems) -> float:
        """What a prepared batch costs at least, forward and backward (mlim/throughput.py)."""
        losses: dict[Part, str] = {"mlm_head": "mlm", "decoder": "recon"}
        parts = [part for part in PARTS if part not in losses or losses[part] in prepared.counts]
        return operations_of(self.model.config, prepared, len(prepared.targets), parts)

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
    """Does a pair match? With modality dropout each optimiser step shows texts only, pictures only, or both.

    MDO is for rows that use both modalities; a row of one modality always shows that one.
    """

    def __init__(self, model: Matcher, recipe: Recipe, row: Row, seed: int) -> None:
        self.model = model
        self._config = recipe.finetune
        self._row = row
        self._seed = seed

    @property
    def uses_everything(self) -> bool:
        """Whether every step trains every parameter that is trained at all: not those of a modality left out."""
        return False

    def prepare(self, batch: PairBatch, step: int, first: int = 0) -> PreparedPairs:
        """Modality and order of the items for the pairs from `first` on of a step."""
        generator = torch_generator("matching", self._seed, step)
        modality = self._row.modality
        if self._row.mdo and modality == "both":
            modality = draw_modality(self._config, generator)
        if self._config.swap_items:
            draws = draw_rows(generator, first, len(batch.labels), 1)[:, 0]
            batch = swap_sides(batch, draws < SWAP_ITEMS_PROBABILITY)
        packing = self.model.pack_pairs(batch.first.attention, batch.second.attention, modality)
        return PreparedPairs(batch, modality, {MATCH: len(batch.labels)}, packing)

    def losses(self, prepared: PreparedPairs) -> ObjectiveOutput:
        """The loss of a prepared batch; `prepared` lies on the model's device."""
        batch = prepared.batch.with_floats()
        logits = self.model(batch.first, batch.second, prepared.modality, prepared.packing)
        return ObjectiveOutput((Weighted(MATCH, match_loss(logits, batch.labels), 1.0),), prepared.modality)

    def operations(self, prepared: PreparedPairs) -> float:
        """What a prepared batch costs at least, forward and backward (mlim/throughput.py)."""
        pictures: list[Part] = [] if prepared.modality == "text" else ["embedder"] * PAIR
        return operations_of(self.model.config.backbone, prepared, 0, ["transformer", *pictures])


def operations_of(
    config: MlimConfig, prepared: PreparedItems | PreparedPairs, masked: int, parts: Sequence[Part]
) -> float:
    """Operations of `parts` for a prepared batch, forward and backward, of sequences of average length."""
    sequences = len(prepared.packing.readable)
    costs = part_costs(config, Sample(prepared.tokens / sequences, masked / sequences, cells=0))
    return TRAINING * sequences * sum(costs[part].operations for part in parts)


def weight_of(weights: LossWeights, name: str) -> float:
    """The weight of a pre-training loss by its name."""
    return {"mlm": weights.mlm, "recon": weights.recon, "itm": weights.itm}[name]


def swap_pictures(batch: ItemBatch, exchange: torch.Tensor, first: int) -> tuple[ItemBatch, torch.Tensor]:
    """Neighbours of a step (2k, 2k + 1) exchange pictures where `exchange` (B,) says so at 2k; also who kept its own.

    `first` is the place of the batch in its step: neighbours do not depend on how the step is cut into batches of even
    size. A neighbour that is the same item (a catalog smaller than a batch) or in another batch is no partner.
    """
    ids = batch.ids
    places = list(range(len(ids)))
    for even in range(first % 2, len(ids) - 1, 2):
        if exchange[even] and ids[even] != ids[even + 1]:
            places[even], places[even + 1] = even + 1, even
    source = torch.tensor(places)
    return batch._replace(pixels=batch.pixels[source]), source == torch.arange(len(ids))


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
