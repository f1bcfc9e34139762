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

from mlim.data.collate import ItemBatch, ItemCollator, ItemSource
from mlim.data.loader import chunks
from mlim.data.seeds import numpy_generator
from mlim.data.tokenize import TextTokenizer
from mlim.evaluation.pr_auc import percentile_interval
from mlim.evaluation.significance import Difference, paired_difference
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
    """A loss summed over the targets of each item, and how many targets it has; both (items,)."""

    total: Floats
    targets: Floats

    @property
    def mean(self) -> float:
        """The loss per target over all items."""
        return float(self.total.sum() / self.targets.sum())

    def resampled(self, draws: Floats) -> Floats:
        """The loss per target when items are drawn with repeats; `draws` (samples, items) says how often."""
        return np.asarray((draws @ self.total) / np.maximum(draws @ self.targets, 1))


Losses = Mapping[tuple[float, Partner], ItemLosses]


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
    """Losses of one pre-trained model on fixed items with fixed masks; at least two items are needed."""

    def __init__(self, probed: ProbedModel, items: Sequence[str], seed: int) -> None:
        self._probed, self._model, self._source = probed, probed.model, probed.source
        self._items, self._device = list(items), probed.device
        order = numpy_generator("probe partners", seed).permutation(len(self._items))
        self._other = {
            self._items[one]: self._items[other] for one, other in zip(order, np.roll(order, 1), strict=True)
        }
        # One uniform number for each place that can be masked: masked where it is below the probability.
        text = numpy_generator("probe text", seed).random(
            (len(self._items), probed.max_tokens + TEXT_SPECIALS), dtype=np.float32
        )
        cells = self._model.config.cells
        image = numpy_generator("probe image", seed).random((len(self._items), cells), dtype=np.float32)
        self._text_draws, self._image_draws = torch.from_numpy(text), torch.from_numpy(image)

    def mlm(self, probabilities: Sequence[float]) -> Losses:
        """Figure 2a: MLM loss per masked token against the text masking probability, the picture not masked."""
        pictures: dict[Partner, Callable[[str], NDArray[np.uint8]]] = {
            "own": self._source.image,
            "random": lambda item: self._source.image(self._other[item]),
            "empty": lambda item: np.full_like(self._source.image(item), GRAY),
        }
        shown = {partner: Shown(self._source.text, image) for partner, image in pictures.items()}
        return self._losses(shown, probabilities, self._mlm)

    def recon(self, probabilities: Sequence[float]) -> Losses:
        """Figure 2b: RECON loss of each picture against the cell masking probability, the text not masked."""
        return self._losses(self._beside_texts(), probabilities, self._recon)

    def reconstructions(self, probability: float, number: int) -> list[list[NDArray[np.float32]]]:
        """For the first `number` items the pictures named in `SHEET`, (S, S, 3) in [0, 1]; masked cells are gray."""
        shown = self._beside_texts()
        rows = []
        for item, draws in zip(self._items[:number], self._image_draws, strict=False):
            mask = (draws < probability)[None]
            own, other = (self._probed.batch([item], shown[partner]) for partner in ("own", "random"))
            redrawn = (self._reconstruct(batch, mask) for batch in (own, other))
            original = own.pixels[0]
            rows.append([_picture(pixels) for pixels in (original, self._hide(original, mask[0]), *redrawn)])
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
        return {key: ItemLosses(*map(np.concatenate, zip(*found, strict=True))) for key, found in parts.items()}

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
        """Pictures (B, 3, S, S) made from the cells that `mask` (B, cells) leaves visible, and the text."""
        text, attention, pixels = batch.input_ids, batch.text_attention, batch.pixels
        output = self._model.forward_items(text, attention, pixels, None, mask.to(self._device))
        return self._model.reconstruct(cast(Tensor, output.cells)).float()  # cells: a picture was given

    def _hide(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """One picture (3, S, S) with its masked cells gray."""
        grid = self._model.config.grid
        side = pixels.shape[-1] // grid
        hidden = mask.reshape(grid, grid).repeat_interleave(side, 0).repeat_interleave(side, 1)
        return torch.where(hidden.to(pixels.device), GRAY / BRIGHTEST, pixels)


def _numbers(values: Tensor) -> Floats:
    return values.cpu().numpy().astype(np.float64)


def _picture(pixels: Tensor) -> NDArray[np.float32]:
    return pixels.squeeze(0).permute(1, 2, 0).cpu().numpy()


class Point(NamedTuple):
    """What the partners cost at one masking probability: the loss with one partner minus that with another."""

    probability: float
    random_minus_own: Difference
    empty_minus_own: Difference
    random_minus_empty: Difference


def _draws(items: int, samples: int, seed: int, families: Families | None) -> Floats:
    """How often each item is drawn in each resample (samples, items); items of one family are drawn together."""
    generator = np.random.default_rng(seed)
    _, family = np.unique(np.arange(items) if families is None else families, return_inverse=True)
    number = int(family.max()) + 1
    return generator.multinomial(number, np.full(number, 1 / number), size=samples).astype(np.float64)[:, family]


def figure_table(
    losses: Losses, samples: int, confidence: float, seed: int, families: Families | None = None
) -> pd.DataFrame:
    """The figure as a table: probability, partner, loss, low, high.

    The interval is a bootstrap over items, or over `families` (items,), whose items are not independent.
    """
    draws = _draws(_items_in(losses), samples, seed, families)
    rows = [
        {
            "probability": probability,
            "partner": partner,
            "loss": interval.value,
            "low": interval.low,
            "high": interval.high,
        }
        for (probability, partner), found in losses.items()
        for interval in [percentile_interval(found.mean, found.resampled(draws), confidence)]
    ]
    return pd.DataFrame(rows).sort_values(["probability", "partner"], kind="stable", ignore_index=True)


def compare_partners(
    losses: Losses, samples: int, confidence: float, seed: int, families: Families | None = None
) -> list[Point]:
    """At each probability the differences between partners, paired by item; `families` (items,) as in the table."""
    draws = _draws(_items_in(losses), samples, seed, families)

    def minus(probability: float, more: Partner, less: Partner) -> Difference:
        one, other = losses[probability, more], losses[probability, less]
        return paired_difference(one.mean - other.mean, one.resampled(draws) - other.resampled(draws), confidence)

    pairs: tuple[tuple[Partner, Partner], ...] = (("random", "own"), ("empty", "own"), ("random", "empty"))
    probabilities = sorted({probability for probability, _ in losses})
    return [Point(p, *(minus(p, more, less) for more, less in pairs)) for p in probabilities]


def relative_harm(losses: Losses) -> float:
    """How much a random partner raises the loss, as a share of the loss with the own; mean over probabilities."""
    shares = [
        losses[probability, "random"].mean / found.mean - 1
        for (probability, partner), found in losses.items()
        if partner == "own"
    ]
    return float(np.mean(shares))


def compare_harm(
    recon: Losses, mlm: Losses, samples: int, confidence: float, seed: int, families: Families | None = None
) -> Difference:
    """`relative_harm` to RECON minus that to MLM: of the same items, so both are drawn together."""
    draws = _draws(_items_in(recon), samples, seed, families)
    value = relative_harm(recon) - relative_harm(mlm)
    return paired_difference(value, _resampled_harm(recon, draws) - _resampled_harm(mlm, draws), confidence)


def _resampled_harm(losses: Losses, draws: Floats) -> Floats:
    """`relative_harm` on each resample (samples,)."""
    shares = [
        losses[probability, "random"].resampled(draws) / found.resampled(draws) - 1
        for (probability, partner), found in losses.items()
        if partner == "own"
    ]
    return np.asarray(np.mean(shares, axis=0))


def _items_in(losses: Losses) -> int:
    return int(next(iter(losses.values())).total.size)
