"""Does text tell the model about the picture and the other way round? Figure 2 of the paper (section 4.2.2).

Items that were never trained on are masked in one modality; the other modality is the item's own, a random other
item's, or empty (a gray picture, a text of no tokens). The masks are the same for the three partners, and a mask at a
lower probability is part of the one at a higher probability, so that only partner and probability make a difference.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mlim.data.batches import ItemBatch
from mlim.data.collate import ItemCollator, ItemSource
from mlim.data.loader import chunks
from mlim.data.seeds import numpy_generator
from mlim.data.tokenize import TextTokenizer
from mlim.evaluation.resampling import Effect, Resampled, draw_units, effect_of
from mlim.evaluation.spreads import Pools
from mlim.models.config import TEXT_SPECIALS
from mlim.models.mlim import Mlim

Partner = Literal["own", "random", "empty"]
PARTNERS: Final[tuple[Partner, ...]] = ("own", "random", "empty")
SHEET: Final = ("original", "masked", "own text", "random text")  # columns of the reconstructions
TENSORS: Final = ("input_ids", "text_attention", "maskable", "pixels")  # of an ItemBatch
GRAY: Final = 127  # of 255: the middle of the pixel range
BRIGHTEST: Final = 255.0

Floats = NDArray[np.float64]
Families = NDArray[np.int64]


class ItemLosses(NamedTuple):
    """A loss summed over the targets of each item, and how many targets it has; both (seeds, items)."""

    total: Floats
    targets: Floats

    @property
    def by_seed(self) -> Floats:
        """The loss per target over all items (seeds,)."""
        return np.asarray(self.total.sum(axis=1) / self.targets.sum(axis=1))

    @property
    def mean(self) -> float:
        """The loss per target over all items, averaged over seeds."""
        return float(self.by_seed.mean())

    def resampled(self, draws: Floats) -> Resampled:
        """The loss per target when items are drawn with repeats; `draws` (samples, items) says how often."""
        return Resampled(self.by_seed, (self.total @ draws.T) / np.maximum(self.targets @ draws.T, 1))


Losses = Mapping[tuple[float, Partner], ItemLosses]  # by masking probability and partner


def join_seeds(of_seeds: Sequence[Losses]) -> Losses:
    """The losses of several trainings, measured on the same items with the same masks, as those of one with seeds."""
    return {
        key: ItemLosses(*(np.concatenate(values) for values in zip(*(one[key] for one in of_seeds), strict=True)))
        for key in of_seeds[0]
    }


@dataclass(frozen=True)
class Shown:
    """An `ItemSource` that shows the text of one item beside the picture of another."""

    text_of: Callable[[str], str]
    image_of: Callable[[str], NDArray[np.uint8]]

    def text(self, item: str, /) -> str:
        """The text shown for an item."""
        return self.text_of(item)

    def image(self, item: str, /) -> NDArray[np.uint8]:
        """The picture (size, size, 3) shown for an item."""
        return self.image_of(item)


@dataclass(frozen=True)
class ProbedModel:
    """A pre-trained model that is being looked into, and how it reads items."""

    model: Mlim
    tokenizer: TextTokenizer
    source: ItemSource
    max_tokens: int
    batch_size: int

    def __post_init__(self) -> None:
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    def batch(self, items: Sequence[str], source: ItemSource | None = None) -> ItemBatch:
        """These items on the model's device, pixels of [0, 1]; `source`: shown otherwise than they are."""
        batch = ItemCollator(self.source if source is None else source, self.tokenizer, self.max_tokens)(items)
        tensors = {name: getattr(batch, name).to(self.device) for name in TENSORS}
        return batch._replace(**tensors).with_floats()

    def batches(self, items: Sequence[str], source: ItemSource | None = None) -> Iterator[ItemBatch]:
        """All items in their order, `batch_size` at a time."""
        for part in chunks(items, self.batch_size):
            yield self.batch(part, source)


class Prober:
    """Losses of one pre-trained model on fixed items with fixed masks; at least two items are needed.

    A random other item is one of another of the `families` (items,), where there is any; None: none are known.
    """

    def __init__(self, probed: ProbedModel, items: Sequence[str], seed: int, families: Families | None = None) -> None:
        self._probed, self._model, self._source = probed, probed.model, probed.source
        self._items, self._device = list(items), probed.device
        partners = draw_partners(np.arange(len(self._items)) if families is None else families, seed)
        self._other = {item: self._items[other] for item, other in zip(self._items, partners, strict=True)}
        # One uniform number for each place that can be masked: masked where it is below the probability.
        text = numpy_generator("probe text", seed).random(
            (len(self._items), probed.max_tokens + TEXT_SPECIALS), dtype=np.float32
        )
        patches = self._model.config.patches
        image = numpy_generator("probe image", seed).random((len(self._items), patches), dtype=np.float32)
        self._text_draws, self._image_draws = torch.from_numpy(text), torch.from_numpy(image)

    def mlm(self, probabilities: Sequence[float]) -> Losses:
        """Figure 2a: MLM loss per masked token against the text masking probability, the picture not masked.

        Losses of one seed, as those of `recon`; `join_seeds` puts several together.
        """
        pictures: dict[Partner, Callable[[str], NDArray[np.uint8]]] = {
            "own": self._source.image,
            "random": lambda item: self._source.image(self._other[item]),
            "empty": lambda item: np.full_like(self._source.image(item), GRAY),
        }
        shown = {partner: Shown(self._source.text, image) for partner, image in pictures.items()}
        return self._losses(shown, probabilities, self._mlm)

    def recon(self, probabilities: Sequence[float]) -> Losses:
        """Figure 2b: RECON loss of each picture against the patch masking probability, the text not masked."""
        return self._losses(self._beside_texts(), probabilities, self._recon)

    def reconstructions(self, probability: float, number: int) -> list[list[NDArray[np.float32]]]:
        """For the first `number` items the pictures named in `SHEET`, (S, S, 3) in [0, 1]; masked patches are gray."""
        shown = self._beside_texts()
        rows = []
        for item, draws in zip(self._items[:number], self._image_draws, strict=False):
            mask = (draws < probability)[None]
            own, other = (self._probed.batch([item], shown[partner]) for partner in ("own", "random"))
            redrawn = (self._reconstruct(batch, mask) for batch in (own, other))
            original = own.pixels[0]
            pictures = (original, self._hide(original, mask[0]), *redrawn)
            rows.append([pixels.squeeze(0).permute(1, 2, 0).cpu().numpy() for pixels in pictures])
        return rows

    def _beside_texts(self) -> dict[Partner, Shown]:
        texts: dict[Partner, Callable[[str], str]] = {
            "own": self._source.text,
            "random": lambda item: self._source.text(self._other[item]),
            "empty": lambda _: "",
        }
        return {partner: Shown(text, self._source.image) for partner, text in texts.items()}

    def _losses(
        self,
        shown: Mapping[Partner, Shown],
        probabilities: Sequence[float],
        measure: Callable[[ItemBatch, slice, float], ItemLosses],
    ) -> Losses:
        parts: dict[tuple[float, Partner], list[ItemLosses]] = {}
        for partner, source in shown.items():
            for place, batch in self._batches(source):
                for probability in probabilities:
                    parts.setdefault((probability, partner), []).append(measure(batch, place, probability))
        return {
            key: ItemLosses(*(np.concatenate(values)[None] for values in zip(*found, strict=True)))
            for key, found in parts.items()
        }

    def _batches(self, source: ItemSource) -> Iterator[tuple[slice, ItemBatch]]:
        start = 0
        for batch in self._probed.batches(self._items, source):
            yield slice(start, start + len(batch.ids)), batch
            start += len(batch.ids)

    @torch.inference_mode()
    def _mlm(self, batch: ItemBatch, place: slice, probability: float) -> ItemLosses:
        draws = self._text_draws[place, : batch.input_ids.shape[1]].to(self._device)
        draws = draws.masked_fill(~batch.maskable, torch.inf)
        # The token with the lowest number is always masked: every item with a text has a loss.
        mask = (draws < probability) | ((draws == draws.amin(dim=1, keepdim=True)) & batch.maskable)
        hidden = self._model.forward_items(batch.input_ids, batch.text_attention, batch.pixels, mask, None).text
        logits = self._model.mlm_logits(hidden[mask])
        losses = functional.cross_entropy(logits.float(), batch.input_ids[mask], reduction="none")
        total = torch.zeros(len(mask), device=self._device).index_add(0, mask.nonzero()[:, 0], losses)
        return ItemLosses(_numbers(total), _numbers(mask.sum(dim=1)))

    @torch.inference_mode()
    def _recon(self, batch: ItemBatch, place: slice, probability: float) -> ItemLosses:
        redrawn = self._reconstruct(batch, self._image_draws[place] < probability)
        losses = (redrawn - batch.pixels).square().sum(dim=1).mean(dim=(1, 2))
        return ItemLosses(_numbers(losses), np.ones(len(losses)))

    @torch.inference_mode()
    def _reconstruct(self, batch: ItemBatch, mask: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) made from the patches that `mask` (B, patches) leaves visible, and the text."""
        text, attention, pixels = batch.input_ids, batch.text_attention, batch.pixels
        output = self._model.forward_items(text, attention, pixels, None, mask.to(self._device))
        return self._model.reconstruct(cast(Tensor, output.patches)).float()  # patches: a picture was given

    def _hide(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """One picture (3, S, S) with its masked patches gray."""
        grid = self._model.config.grid
        side = pixels.shape[-1] // grid
        hidden = mask.reshape(grid, grid).repeat_interleave(side, 0).repeat_interleave(side, 1)
        return torch.where(hidden.to(pixels.device), GRAY / BRIGHTEST, pixels)


def draw_partners(families: Families, seed: int) -> NDArray[np.int64]:
    """The place of a random other item for each of `families` (items,), of another family where there is one.

    Every item is the partner of one other, unless more than half of the items are of one family.
    """
    generator = numpy_generator("probe partners", seed)
    order = generator.permutation(len(families))
    partners = np.empty_like(order)
    partners[order] = np.roll(order, 1)
    for item in np.flatnonzero(families == families[partners]):
        own = families[item]
        if families[partners[item]] != own:
            continue  # it was exchanged with one before it
        able = np.flatnonzero((families != own) & (families[partners] != own))
        others = np.flatnonzero(families != own)
        if len(able):
            other = generator.choice(able)
            partners[item], partners[other] = partners[other], partners[item]
        elif len(others):
            partners[item] = generator.choice(others)
    return partners


def _numbers(values: Tensor) -> Floats:
    return values.cpu().numpy().astype(np.float64)


class Point(NamedTuple):
    """What the partners cost at one masking probability: the loss with one partner minus that with another."""

    probability: float
    random_minus_own: Effect
    empty_minus_own: Effect
    random_minus_empty: Effect


@dataclass(frozen=True)
class Resampling:
    """The uncertainty from other items and other trainings: intervals of `confidence` from `samples` resamples.

    Items of one family are not independent and are drawn together: `families` (items,), None where none are known.
    """

    samples: int
    confidence: float
    seed: int
    families: Families | None = None

    def draws(self, losses: Losses) -> Floats:
        """How often each item is in each resample (samples, items)."""
        counts = draw_units(self.clusters(losses), self.samples, np.random.default_rng(self.seed))
        return counts[self._numbered(losses)].T

    def clusters(self, losses: Losses) -> int:
        """How many independent units there are: families, or items where no families are known."""
        return int(self._numbered(losses).max()) + 1

    def _numbered(self, losses: Losses) -> Families:
        """The family of each item (items,), from 0."""
        items = next(iter(losses.values())).total.shape[1]
        return np.unique(np.arange(items) if self.families is None else self.families, return_inverse=True)[1]


def figure_table(losses: Losses, settings: Resampling) -> pd.DataFrame:
    """The figure as a table: probability, partner, loss, low, high."""
    draws, clusters = settings.draws(losses), settings.clusters(losses)
    rows = []
    for (probability, partner), found in losses.items():
        effect = effect_of(found.resampled(draws), clusters, settings.confidence)
        rows.append((probability, partner, effect.value, effect.low, effect.high))
    table = pd.DataFrame(rows, columns=["probability", "partner", "loss", "low", "high"])
    return table.sort_values(["probability", "partner"], kind="stable", ignore_index=True)


def compare_partners(losses: Losses, settings: Resampling) -> list[Point]:
    """At each probability the differences between partners, paired by item and by seed.

    The spread between seeds of a difference is that of the partners together whose losses vary alike (`Pools`), as it
    is of the rows of a table.
    """
    draws, clusters = settings.draws(losses), settings.clusters(losses)

    def at(probability: float) -> Point:
        found = {partner: losses[probability, partner].resampled(draws) for partner in PARTNERS}
        pools = Pools({partner: one.by_seed for partner, one in found.items()})

        def minus(more: Partner, less: Partner) -> Effect:
            return effect_of(found[more].minus(found[less]), clusters, settings.confidence, pools.between(more, less))

        return Point(probability, minus("random", "own"), minus("empty", "own"), minus("random", "empty"))

    return [at(probability) for probability in sorted({probability for probability, _ in losses})]


def relative_harm(losses: Losses) -> float:
    """How much a random partner raises the loss, as a share of that with the own; mean over probabilities and seeds."""
    return float(_harm({key: found.by_seed for key, found in losses.items()}).mean())


def compare_harm(recon: Losses, mlm: Losses, settings: Resampling) -> Effect:
    """`relative_harm` to RECON minus that to MLM: of the same items and seeds, so both are drawn together."""
    draws = settings.draws(recon)
    first, second = (_resampled_harm(losses, draws) for losses in (recon, mlm))
    return effect_of(first.minus(second), settings.clusters(recon), settings.confidence)


def _resampled_harm(losses: Losses, draws: Floats) -> Resampled:
    drawn = {key: found.resampled(draws) for key, found in losses.items()}
    return Resampled(
        _harm({key: found.by_seed for key, found in drawn.items()}),
        _harm({key: found.replicates for key, found in drawn.items()}),
    )


def _harm(losses: Mapping[tuple[float, Partner], Floats]) -> Floats:
    """The share by which a random partner raises each of these losses, averaged over probabilities."""
    shares = [
        losses[probability, "random"] / own - 1 for (probability, partner), own in losses.items() if partner == "own"
    ]
    return np.asarray(np.mean(shares, axis=0))
