"""Does a stack without the network gain from features of ImageNet? Its classifiers read cells of EfficientNet-Lite0.

    python benchmarks/stack_imagenet.py --work build/photos [--splits validation,test]

The network of recipe `photos` reads features of ImageNet. Here stacks whose classifiers of attributes do not read them
are compared with stacks whose classifiers do (`stack.features: lite0`), with the network and without it. `WORK` is a
work folder after `mlim finetune` of the main variant. Parts are fitted on the training pairs and combined on the
validation pairs; scores of validation pairs are cross-fitted over families, and intervals are those of `mlim evaluate`,
over the pairs and the seeds of the matcher.
"""

import argparse
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from measure import heading, table
from stack_parts import Work, rows

from mlim.console import SilentBar
from mlim.evaluation.scores import part, read_scores, scores_of
from mlim.stacking.features import LiteFeatures
from mlim.stacking.items import Items, describe
from mlim.stacking.parts import AGREE, COLUMNS, TREES, WORDS
from mlim.stacking.scorers import MATCHER

PACKAGES = ("mlim", "scikit-learn", "torch")


@dataclass(frozen=True)
class ImageNetWork(Work):
    """A work folder of which the classifiers of attributes read features of ImageNet, too."""

    @cached_property
    def items(self) -> Items:
        return describe(self.store, self.catalog.ids, SilentBar(), LiteFeatures.from_package().measure)


def scorers(folder: Path) -> tuple[Work, dict[str, np.ndarray]]:
    """The work folder, and the scores (seeds, pairs) of all its pairs by the matcher and by each stack."""
    simple = Work(folder)
    matchers = matcher_scores(simple)
    found = {}
    for work, name in ((simple, ""), (ImageNetWork(folder), ", features of ImageNet for its classifiers")):
        scores = work.parts.scores(work.items, work.catalog.first, work.catalog.second)
        trees = COLUMNS if COLUMNS in scores else TREES
        rest = [trees, WORDS, *(column for column in scores if column.startswith(AGREE))]
        without = work.combined(scores, rest)
        found[f"stack without the matcher{name}"] = np.broadcast_to(without, matchers.shape)
        stacks = [work.combined(scores.assign(**{MATCHER: matcher}), [MATCHER, *rest]) for matcher in matchers]
        found[f"stack{name}"] = np.stack(stacks)
        found["matcher"] = matchers
    return simple, found


def matcher_scores(work: Work) -> np.ndarray:
    """Those of the main variant (seeds, pairs); 0.5 for training pairs, on which nothing is combined or judged."""
    recipe = work.recipe
    found = np.full((len(recipe.seeds), len(work.catalog.pairs)), 0.5)
    for matcher, seed in zip(found, recipe.seeds, strict=True):
        scores = read_scores(work.workspace.finetuned(recipe.main, seed), "mlim finetune")
        matcher[~work.catalog.of("train")] = scores_of(part(scores, modality=recipe.main_variant.modality))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, action="append", required=True, help="a work folder after `mlim finetune`")
    parser.add_argument("--splits", default="validation", help="also test, once everything is chosen")
    options = parser.parse_args()
    scored, splits = [scorers(folder) for folder in options.work], options.splits.split(",")
    print(heading(PACKAGES))
    found = [row for (work, by_name), split in product(scored, splits) for row in rows(work, by_name, split)]
    print(table(("work folder", "pairs", "scorer", "PR-AUC", "minus the first", "minus the second"), found))


if __name__ == "__main__":
    main()
