"""Items ready to be scored: whatever a model needs of an item by itself is computed once and kept on disk.

That is its vector, where the model reads items by themselves; else its state before the first block that reads both
items of a pair; and what is measured on its picture, where a stack reads that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from mlim.data.batches import PairSide
from mlim.data.collate import attention_of, pad_tokens
from mlim.data.images import to_pixels
from mlim.data.tokens import PreparedTokens
from mlim.errors import MlimError
from mlim.matching.item_cache import CachedValues, Digests, ItemCache, as_digests, digest_of
from mlim.matching.item_rows import Rows
from mlim.matching.model import MatchingModel, Places, Scores
from mlim.matching.settings import ServingSettings
from mlim.recipe.base import Modality
from mlim.shards.items import ItemStore
from mlim.stacking.items import Items
from mlim.stacking.pictures import from_row, to_row

Lengths = NDArray[np.int64]

FORMAT: Final = 1  # of what is kept; another one computes everything again
VECTORS, STATES, MEASURES = "vectors", "states", "measures"
WHOLE: Final = 4  # a batch of a quarter of the size ends where lengths change


@dataclass(frozen=True)
class Caches:
    """Where what is computed of items is kept; None: it is not needed. `passing` is the folder of the run."""

    passing: Path
    vectors: ItemCache | None
    states: ItemCache | None
    measures: ItemCache | None

    @property
    def all(self) -> dict[str, ItemCache]:
        """Those that are needed, by name."""
        named = {VECTORS: self.vectors, STATES: self.states, MEASURES: self.measures}
        return {name: cache for name, cache in named.items() if cache is not None}


def caches_for(model: MatchingModel, modality: Modality, kept: Path, passing: Path) -> Caches:
    """What `model` needs of items read as `modality`: in the folder `kept`, what is large in `passing`."""
    network, alone = model.uses_network(modality), model.reads_items_alone
    vectors = f"{VECTORS}-{model.sha256[:16]}-{modality}-{FORMAT}"
    measures = "-".join(filter(None, (MEASURES, model.picture_features, str(FORMAT))))
    return Caches(
        passing,
        vectors=ItemCache(kept / vectors) if network and alone else None,
        states=ItemCache(passing / STATES) if network and not alone else None,
        measures=ItemCache(kept / measures) if model.uses_stack(modality) else None,
    )


@dataclass(frozen=True)
class ItemReader:
    """Reads items of a store as a model wants them."""

    model: MatchingModel
    modality: Modality
    store: ItemStore
    tokens: PreparedTokens

    def side(self, rows: Rows, pixels: torch.Tensor) -> PairSide:
        """Items by row (n,) as one side of as many pairs, with pixels (n, 3, S, S) of 0..255."""
        texts = pad_tokens(self.tokens.at(rows, self.settings.max_tokens), self.model.tokenizer.pad)
        return PairSide(*texts, pixels)

    @property
    def settings(self) -> ServingSettings:
        """The model's."""
        return self.model.settings

    def prepare(self, rows: Rows, digests: Digests, wanted: Mapping[str, NDArray[np.bool_]], caches: Caches) -> None:
        """Compute for each cache the items that are `wanted` (n,) of those at these rows (n,), as one block.

        What is there already stays as it is.
        """
        caches_left = {
            name: cache
            for name, cache in caches.all.items()
            if wanted[name].any() and not cache.has_block(digests[wanted[name]])
        }
        if not caches_left:
            return
        read = np.flatnonzero(np.any([wanted[name] for name in caches_left], axis=0))
        pictures = self._pictures(rows[read])
        for name, cache in caches_left.items():
            chosen = wanted[name][read]
            cache.add(digests[read][chosen], self._values(name, rows[read][chosen], pictures[chosen]))

    def _pictures(self, rows: Rows) -> NDArray[np.uint8]:
        """The pictures (n, S, S, 3) at these rows; black where the modality leaves pictures out."""
        size = self.settings.image_size
        found = np.zeros((len(rows), size, size, 3), dtype=np.uint8)
        if self.modality != "text":
            for place, item in enumerate(self.store.ids_at(rows)):
                found[place] = self.store.image(item)
        return found

    def _values(self, name: str, rows: Rows, pictures: NDArray[np.uint8]) -> NDArray[Any]:
        if name == MEASURES:
            return np.stack([to_row(self.model.measure(picture)) for picture in pictures])
        compute = self.model.item_states if name == STATES else self.model.item_vectors
        parts = by_length(self.settings.batch_size, self.lengths(rows))
        computed = [compute(self.side(rows[part], as_pixels(pictures[part])), self.modality) for part in parts]
        values = np.empty((len(rows), *computed[0].shape[1:]), dtype=np.float32)
        for part, batch in zip(parts, computed, strict=True):
            values[part] = batch
        return values

    def lengths(self, rows: Rows) -> Lengths:
        """How many tokens are read of the texts at these rows (n,)."""
        ids = self.tokens.at(rows, self.settings.max_tokens)
        return np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))


def by_length(size: int, first: Lengths, second: Lengths | None = None) -> list[Places]:
    """Places (up to `size` of them) of n sequences a batch at a time, so that little of a batch is padding.

    A sequence is a text of a length in `first` (n,), or a pair of texts. Batches begin where a length changes, unless
    that makes them small.
    """
    other = np.zeros_like(first) if second is None else second
    order = np.lexsort((np.where(first % 2, -other, other), first))  # neighbours differ by little in both
    changes = np.flatnonzero(np.diff(first[order]) | np.diff(other[order])) + 1
    parts, start = [], 0
    while start < len(order):
        cuts = changes[np.searchsorted(changes, start + max(size // WHOLE, 1)) :]
        end = min(start + size, int(cuts[0]) if len(cuts) else len(order), len(order))
        parts.append(order[start:end])
        start = end
    return parts


def content_digests(store: ItemStore, rows: Rows) -> Digests:
    """What names the content of the items at these rows (n,)."""
    return as_digests([*map(digest_of, store.texts_at(rows), store.jpegs_at(rows))])


@dataclass(frozen=True)
class PreparedItems:
    """The items of a run (n,), in the order of their rows in the store, with all that was computed of them."""

    reader: ItemReader
    rows: Rows
    vectors: CachedValues | None
    states: CachedValues | None
    measures: CachedValues | None

    @classmethod
    def open(cls, reader: ItemReader, rows: Rows, digests: Digests, caches: Caches) -> "PreparedItems":
        """The items at these rows (n,), in order, once `prepare` has computed everything."""
        found = {name: cache.find(digests) for name, cache in caches.all.items()}
        if any(each.missing.any() for each in found.values()):
            raise MlimError(f"{caches.passing}: lacks items that were computed; remove this folder and run again")
        values = {name: CachedValues(each) for name, each in found.items()}
        return cls(reader, rows, *(values.get(name) for name in (VECTORS, STATES, MEASURES)))

    def scores(self, first: Rows, second: Rows) -> Scores:
        """The scores (m,) of pairs of items by row of the store, m at least 1.

        Both orders of a pair have one score: it is read with the smaller id first, as in training, and computed once.
        """
        rows, places = np.unique(np.stack([first, second], axis=1), return_inverse=True)
        by_id = np.argsort(np.array(self.reader.store.ids_at(rows), dtype=object), kind="stable")
        rows, rank = rows[by_id], np.argsort(by_id)
        ordered = np.sort(rank[places.reshape(-1, 2)], axis=1)
        pairs, which = np.unique(ordered, axis=0, return_inverse=True)
        one, other = pairs.T
        held = np.searchsorted(self.rows, rows)
        described = None
        if self.measures is not None:
            store, pictures = self.reader.store, [from_row(row) for row in self.measures.take(held)]
            described = Items(store.texts_at(rows), pictures, store.columns_at(rows))
        scores = self.reader.model.stacked(described, one, other, lambda: self._matcher(rows, held, one, other))
        return scores[which.ravel()]

    def _matcher(self, rows: Rows, held: Places, one: Places, other: Places) -> Scores:
        """The network's scores of the pairs of items rows[one] and rows[other], which are self.rows[held]."""
        if self.vectors is not None:
            vectors = self.vectors.take(held)
            return self.reader.model.compare(vectors[one], vectors[other])
        lengths, scores = self.reader.lengths(rows), np.empty(len(one))
        for part in by_length(self.reader.settings.batch_size, lengths[one], lengths[other]):
            first, second = (self._states(held[side[part]], lengths[side[part]]) for side in (one, other))
            scores[part] = self.reader.model.join(first, second, self.reader.modality)
        return scores

    def _states(self, held: Places, lengths: Lengths) -> tuple[NDArray[np.float32], torch.Tensor]:
        """The states (n, L, H) of items among `self.rows`, and where the tokens of their texts are (n, T) bool."""
        if self.states is None:
            raise ValueError("the network's scores are not needed where nothing was computed for it")
        return self.states.take(held), attention_of(torch.from_numpy(lengths))


def as_pixels(pictures: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """Pictures (n, S, S, 3) as a network's side of pairs has them, (n, 3, S, S)."""
    return to_pixels(pictures, len(pictures))
