"""Which trees belong into the stack? Its parts without the matcher, with and without columns, on validation pairs.

    python benchmarks/stack_parts.py --work build/emoji --work build/hm_fashion [--splits validation,test]
    python benchmarks/stack_parts.py --work build/separate --vectors no-pretraining

Parts are fitted on the training pairs and combined on the validation pairs; scores of validation pairs are cross-fitted
over families, and intervals are those of `mlim evaluate`. `--vectors VARIANT` also asks whether similarities of the
vectors of that variant (fine-tuned with finetune.read_out=separate) add to the stack with its matcher.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measure import heading, table

from mlim.console import SilentBar
from mlim.data.collate import PairCollator
from mlim.data.images import as_floats
from mlim.data.loader import chunks
from mlim.data.tokenize import TextTokenizer
from mlim.evaluation.baselines import TREES as BASELINE
from mlim.evaluation.baselines import score_baselines, similarities
from mlim.evaluation.evidence import families_of
from mlim.evaluation.resampling import Effect, JudgedPairs, compare_all
from mlim.evaluation.scores import labels_of, part, read_scores, scores_of
from mlim.models.systems import load_matcher
from mlim.pairs.learned import fit_trees
from mlim.recipe import Recipe, stored_recipe
from mlim.report.kit import formats
from mlim.shards.items import ItemStore, open_items
from mlim.stacking.attributes import fit_classifiers
from mlim.stacking.combine import combine, cross_fitted
from mlim.stacking.items import Items, describe
from mlim.stacking.parts import AGREE, COLUMNS, TREES, WORDS, Learned, Parts, _similarities, _with_columns, fit_parts
from mlim.stacking.scorers import MATCHER
from mlim.steps.as_trained import as_trained
from mlim.steps.stack import _Catalog, _learned, _read
from mlim.workspace import Workspace

PACKAGES = ("mlim", "scikit-learn")
DROPPED = (0.25, 0.5)  # shares of the training pairs whose columns one tree model does not see
WITHOUT, WITH, BOTH = "`trees`: the stack without columns", "`columns` in place of `trees`", "`columns` beside `trees`"
BATCH = 64
VECTORS = "vectors"
FAVOURED = "(*)"  # on validation pairs, which the combination was fitted on


@dataclass(frozen=True)
class Work:
    """A work folder after `mlim pairs`, with the parts of a stack fitted on it."""

    folder: Path

    @cached_property
    def recipe(self) -> Recipe:
        return stored_recipe(self.workspace.recipe)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder)

    @cached_property
    def store(self) -> ItemStore:
        return open_items(self.recipe.loader, self.workspace)

    @cached_property
    def catalog(self) -> _Catalog:
        return _read(self.recipe, self.workspace)

    @cached_property
    def items(self) -> Items:
        return describe(self.store, self.catalog.ids, SilentBar())

    @cached_property
    def learned(self) -> Learned:
        return _learned(self.recipe, self.catalog, self.items)

    @cached_property
    def parts(self) -> Parts:
        return fit_parts(self.learned, self.recipe.stack.folds, self.recipe.seed)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Of all pairs by all parts, by the baseline on the judged ones, and by single trees with column dropout."""
        catalog = self.catalog
        found = self.parts.scores(self.items, catalog.first, catalog.second)
        features = similarities(self.items, catalog.training_items, catalog.first, catalog.second)
        baselines = score_baselines(catalog.pairs, features, self.recipe.seed)
        found.loc[~catalog.of("train"), BASELINE] = scores_of(part(baselines, baseline=BASELINE))
        return found.assign(**self._dropout())

    def _dropout(self) -> Mapping[str, np.ndarray]:
        """Scores of trees that did not see the columns of a share of the training pairs, with columns and without."""
        learned, items, recipe, names = self.learned, self.items, self.recipe, self.parts.columns.names
        places = learned.first, learned.second
        known = learned.values, learned.training_items, learned.families
        _, unseen = fit_classifiers(items, *known, recipe.stack.folds, recipe.seed)
        seen = self.parts.classifiers.probabilities(items)
        shown = {"with": items.columns, "without": [{}] * len(items.columns)}
        features, judged = (
            {name: _with_columns(similar, names, columns, *places) for name, columns in shown.items()}
            for similar in (_similarities(items, self.parts.vectors, one, *places) for one in (unseen, seen))
        )
        found = {}
        for share in DROPPED:
            dropped = np.random.default_rng(0).random((len(learned.labels), 1)) < share
            mixed = np.where(dropped, features["without"], features["with"])
            trees = fit_trees(mixed, learned.labels, learned.training, learned.validation, recipe.seed)
            found |= {f"{share} {name}": trees.score(judged[name]).clip(0, 1) for name in judged}
        return found

    def judged(self, split: str) -> JudgedPairs:
        chosen = self.catalog.of(split)
        families = families_of(self.catalog.pairs, self.workspace)
        return JudgedPairs(labels_of(self.catalog.pairs)[chosen], families[chosen])

    def combined(
        self, scores: pd.DataFrame, parts: Sequence[str], shown: Mapping[str, str] | None = None
    ) -> np.ndarray:
        """Scores of all pairs by a combination of `parts`, which at scoring time are `shown` as others."""
        catalog, labels = self.catalog, labels_of(self.catalog.pairs)
        validation = catalog.of("validation")
        held, families = scores[validation].reset_index(drop=True), families_of(catalog.pairs, self.workspace)
        later = scores.assign(**{name: scores[other] for name, other in (shown or {}).items()})
        found = combine(held, parts, labels[validation]).score(later)
        if not shown:
            folds = self.recipe.stack.folds
            found[validation] = cross_fitted(held, parts, labels[validation], families[validation], folds)
        return found


def stacks(work: Work) -> dict[str, np.ndarray]:
    """Scores of all pairs by every way to compare columns."""
    scores = work.scores
    rest = [WORDS, *(name for name in scores if name.startswith(AGREE))]
    found = {
        WITHOUT: work.combined(scores, [TREES, *rest]),
        WITH: work.combined(scores, [COLUMNS, *rest]),
        BOTH: work.combined(scores, [TREES, COLUMNS, *rest]),
    }
    for share in DROPPED:
        name = f"one tree model, columns dropped from {share:.0%} of the training pairs"
        found[name] = work.combined(scores, [f"{share} with", *rest])
        shown = {f"{share} with": f"{share} without"}
        found[f"{name}, columns not known {FAVOURED}"] = work.combined(scores, [f"{share} with", *rest], shown)
    return {**found, "baseline: boosted trees": scores[BASELINE].to_numpy()}


def with_vectors(work: Work, variant: str) -> dict[str, np.ndarray]:
    """Scores of all pairs by the whole stack, and with a part that compares the vectors of the matcher."""
    folder = work.workspace.finetuned(variant, work.recipe.seeds[0])
    scores = work.scores.assign(**{MATCHER: 0.5})  # of training pairs, on which nothing is combined or judged
    known = ~work.catalog.of("train")
    matcher = part(read_scores(folder, "mlim finetune"), modality="both")
    scores.loc[known, MATCHER] = scores_of(matcher)
    scores[VECTORS] = compared_vectors(work, folder / "model")
    rest = [MATCHER, COLUMNS, WORDS, *(name for name in scores if name.startswith(AGREE))]
    return {
        "the stack": work.combined(scores, rest),
        "the stack and `vectors`": work.combined(scores, [*rest, VECTORS]),
    }


def compared_vectors(work: Work, folder: Path) -> np.ndarray:
    """The score of every pair by trees over cosine, L1 and L2 distance of its items' vectors."""
    catalog, network = work.catalog, load_matcher(folder).eval()
    collate = PairCollator(
        work.store, TextTokenizer.from_folder(folder), as_trained(work.recipe, folder.parent).text.limit
    )
    vectors = []
    for ids in chunks(catalog.ids, BATCH):
        side = collate.side(ids)
        with torch.inference_mode():
            vectors.append(network.item_vectors(side._replace(pixels=as_floats(side.pixels)), "both").numpy())
    found = np.concatenate(vectors)
    one, other = found[catalog.first], found[catalog.second]
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    features = np.column_stack(
        [(one * other).sum(axis=1) / lengths, np.abs(one - other).sum(axis=1), np.linalg.norm(one - other, axis=1)]
    )
    masks = catalog.of("train"), catalog.of("validation")
    return fit_trees(features, labels_of(catalog.pairs), *masks, work.recipe.seed).score(features)


def rows(work: Work, scored: Mapping[str, np.ndarray], split: str) -> Iterator[list[str]]:
    """PR-AUC of each scorer (scores of (pairs,) or (seeds, pairs)), and its differences to the first and second."""
    judged, settings = work.judged(split), work.recipe.evaluate
    systems = {name: np.atleast_2d(values)[:, work.catalog.of(split)] for name, values in scored.items()}
    how = settings.bootstrap_samples, settings.confidence, work.recipe.seed, ()  # each difference has its own spread
    first, second = (
        compare_all(judged, {name: systems[name] for name in dict.fromkeys((reference, *systems))}, *how)
        for reference in list(systems)[:2]
    )
    for name in systems:
        differences = [_difference(found[name].minus_first) for found in (first, second)]
        yield [work.folder.name, split, name, formats.score(first[name].figure.value), *differences]


def _difference(found: Effect | None) -> str:
    if found is None:
        return ""
    return f"{formats.signed(found.value)} [{formats.signed(found.low)}, {formats.signed(found.high)}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, action="append", required=True, help="a work folder after `mlim pairs`")
    parser.add_argument("--splits", default="validation", help="also test, once everything is chosen")
    parser.add_argument("--vectors", help="a variant with vectors of items that was fine-tuned in the work folders")
    options = parser.parse_args()
    works, splits, found = [Work(folder) for folder in options.work], options.splits.split(","), []
    for work in works:
        scored = with_vectors(work, options.vectors) if options.vectors else stacks(work)
        found += [row for split in splits for row in rows(work, scored, split)]
    print(heading(PACKAGES))
    for work, split in product(works, splits):
        judged = work.judged(split)
        print(f"{work.folder.name}: {len(judged.labels):,} {split} pairs, {judged.clusters} families")
    print()
    if not options.vectors:
        print(f"{FAVOURED} On validation pairs this combination was fitted on these pairs: too favourable.\n")
    print(table(("work folder", "pairs", "scorer", "PR-AUC", "minus the first", "minus the second"), found))


if __name__ == "__main__":
    main()
