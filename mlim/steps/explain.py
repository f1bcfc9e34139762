"""`mlim explain`: why two items of a catalog match or not, by the model that decides."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlim.console import Terminal
from mlim.data.seeds import numpy_generator
from mlim.errors import InputError
from mlim.matching.explain import Explanation
from mlim.matching.explained import ExplainedPair
from mlim.matching.item_parts import ItemParts, parts_of
from mlim.matching.model import MatchingModel
from mlim.matching.nearest_pairs import LabelledPair, nearest_pairs
from mlim.pairs.labels import MATCH, MISMATCH
from mlim.recipe import Recipe
from mlim.recipe.base import Modality
from mlim.shards.items import ItemStore, open_items
from mlim.steps.score import check_items, read_reasons
from mlim.workspace import INDEX_FILE, Workspace

REFERENCES: Final = 12  # pairs that a pair is compared with
REFERENCES_OF_MANY: Final = 6  # where many pairs are explained
NEAREST: Final = 4  # labelled pairs that are shown
LABELLED: Final = ["item_a", "item_b", "label", "split"]


def explain_pair(
    model: MatchingModel,
    name: str,
    first: str,
    second: str,
    recipe: Recipe,
    workspace: Workspace,
    modality: Modality | None = None,
) -> ExplainedPair:
    """Why the items `first` and `second` of `workspace` have the score that the model, called `name`, gives them.

    They are compared with labelled pairs, half of them matches, or with random pairs of the catalog's items where
    `workspace` has no labelled ones. `InputError` when an item is not there or was rejected, when both are one, or when
    the items were prepared for another model.
    """
    shown = model.check_modality(modality)
    catalog = CatalogItems(recipe, workspace)
    catalog.check_pair(first, second)
    check_items(catalog.store, model.settings, workspace)
    labelled = catalog.labelled()
    references, compared = catalog.references(labelled, {first, second}, REFERENCES)
    parts = catalog.read({first, second, *(item for pair in references for item in pair)})
    items = parts[first], parts[second]
    explanation = model.explain_parts(items, [(parts[a], parts[b]) for a, b in references], shown)
    nearest = tuple(catalog.nearest(labelled, first, second, shown))
    return ExplainedPair(
        names=(first, second),
        items=items,
        explanation=explanation,
        probability=float(model.decide(np.array([explanation.score]), shown).probability[0]),
        compared=compared,
        nearest=nearest,
        shown=catalog.read({item for pair in nearest for item in pair[:2]}),
        no_labels="" if len(labelled) else f"{workspace.root} has no labelled pairs; `mlim pairs` makes them",
        model=name,
    )


def explain_pairs(
    model: MatchingModel,
    pairs: Sequence[tuple[str, str]],
    recipe: Recipe,
    workspace: Workspace,
    threshold: float,
    terminal: Terminal,
) -> dict[tuple[str, str], Explanation]:
    """Why each of these pairs of accepted items has its score, in less detail: no regions, fewer reference pairs.

    A pair matches from `threshold` on.
    """
    shown, catalog, found = model.check_modality(None), CatalogItems(recipe, workspace), {}
    labelled = catalog.labelled()
    references = {pair: catalog.references(labelled, {*pair}, REFERENCES_OF_MANY)[0] for pair in pairs}
    parts = catalog.read({item for pair in pairs for of_pair in (pair, *references[pair]) for item in of_pair})
    with terminal.progress("explain", len(pairs)) as bar:
        for pair in pairs:
            items, *others = ((parts[a], parts[b]) for a, b in (pair, *references[pair]))
            found[pair] = model.explain_parts(items, others, shown, regions=False, threshold=threshold)
            bar.advance()
    return found


class CatalogItems:
    """The items of a work folder in parts, by id."""

    def __init__(self, recipe: Recipe, workspace: Workspace) -> None:
        """`InputError` when there are none."""
        self.store: ItemStore = open_items(recipe.loader, workspace)
        self._seed, self._workspace, self._index = recipe.seed, workspace, workspace.valid / INDEX_FILE

    def labelled(self) -> pd.DataFrame:
        """The labelled pairs of items that are there (item_a, item_b, label, split); none without `mlim pairs`."""
        path = self._workspace.pairs / "pairs.parquet"
        if not path.is_file():
            return pd.DataFrame(columns=LABELLED)
        pairs = pd.read_parquet(path, columns=LABELLED)
        known = set(self._rows({*pairs["item_a"], *pairs["item_b"]}, ["id"])["id"])
        return pairs[pairs["item_a"].isin(known) & pairs["item_b"].isin(known)]

    def check_pair(self, *items: str) -> None:
        """`InputError` unless these are different items of the catalog."""
        root = self._workspace.root
        missing = [item for item in items if item not in self.store]
        if missing:
            reasons = read_reasons([self._workspace.items, self._workspace.valid])
            raise InputError(*(_why_missing(item, reasons.get(item), root) for item in missing))
        if len({*items}) < len(items):
            raise InputError(f"`{items[0]}` is compared with itself; give the ids of two items")

    def read(self, ids: Iterable[str]) -> dict[str, ItemParts]:
        """The items in parts."""
        store = self.store
        return {item: parts_of(store.text(item), store.columns(item), store.image(item)) for item in ids}

    def references(self, labelled: pd.DataFrame, without: set[str], most: int) -> tuple[Sequence[tuple[str, str]], str]:
        """Pairs to compare with, none of an item in `without`, and what they are, in words."""
        there = ~(labelled["item_a"].isin(without) | labelled["item_b"].isin(without))
        drawn = [
            of_label.sample(min(most // 2, len(of_label)), random_state=self._seed)
            for of_label in (labelled[there & (labelled["label"] == label)] for label in (MATCH, MISMATCH))
        ]
        matches, mismatches = map(len, drawn)
        if matches and mismatches:
            return _as_pairs(pd.concat(drawn)), f"{matches + mismatches} labelled pairs, {matches} of them matches"
        pairs = self._random_pairs(without, most)
        return pairs, f"{len(pairs)} random pairs of the catalog's items"

    def nearest(self, labelled: pd.DataFrame, first: str, second: str, modality: Modality) -> list[LabelledPair]:
        """The labelled pairs that are most like a pair."""
        if labelled.empty:
            return []
        ids = {first, second, *labelled["item_a"], *labelled["item_b"]}
        items = self._rows(ids, ["id", "text", "image_hash"])
        return nearest_pairs(items, labelled, first, second, modality, NEAREST)

    def _random_pairs(self, without: set[str], most: int) -> list[tuple[str, str]]:
        generator = numpy_generator("reference pairs", self._seed)
        drawn = generator.integers(len(self.store), size=(most * 2, 2))
        pairs = [(self.store.ids[int(a)], self.store.ids[int(b)]) for a, b in drawn if a != b]
        return [pair for pair in pairs if not without & {*pair}][:most]

    def _rows(self, ids: Iterable[str], columns: list[str]) -> pd.DataFrame:
        wanted = pc.field("id").isin(pa.array(sorted(ids), pa.string()))
        found: pd.DataFrame = pq.read_table(self._index, columns=columns, filters=wanted).to_pandas()
        return found


def _as_pairs(pairs: pd.DataFrame) -> list[tuple[str, str]]:
    return [(str(a), str(b)) for a, b in zip(pairs["item_a"], pairs["item_b"], strict=True)]


def _why_missing(item: str, reason: str | None, root: Path) -> str:
    if reason is not None:
        return f"`{item}` was rejected from the catalog ({reason}), so that it has no score; see `mlim catalog show`"
    return f"`{item}` is no item of {root}; give an id of the catalog, and its work folder with --work"
