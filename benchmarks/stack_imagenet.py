"""Does a stack without the network gain from features of ImageNet? Its classifiers read cells of EfficientNet-Lite0.

    python benchmarks/stack_imagenet.py --work build/photos [--splits validation,test]

A network that reads features of ImageNet is compared with simple systems that do not. Here they do: the classifiers of
attributes read, beside the measures of a picture, the means over the grids of strides 16 and 32 of the same frozen
network. `WORK` is a work folder after `mlim finetune` of the main variant. Parts are fitted on the training pairs and
combined on the validation pairs; scores of validation pairs are cross-fitted over families, and intervals are those of
`mlim evaluate`, over the pairs and the seeds of the matcher.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import torch
from measure import heading, table
from stack_parts import Work, rows

from mlim.data.images import as_floats, to_pixels
from mlim.data.loader import chunks
from mlim.evaluation.scores import part, read_scores, scores_of
from mlim.models.images.lite import LiteReader
from mlim.pairs.similarities import Vector
from mlim.recipe.image_sides import LiteSide
from mlim.stacking.items import Items
from mlim.stacking.parts import AGREE, COLUMNS, TREES, WORDS
from mlim.stacking.scorers import MATCHER

PACKAGES = ("mlim", "scikit-learn", "torch")
STRIDES = (16, 32)
BATCH = 64


class WithFeatures(Items):
    """Items whose pictures have measures of a frozen network, too."""

    features: Vector

    @property
    def measures(self) -> Vector:
        return np.hstack([super().measures, self.features])


@dataclass(frozen=True)
class ImageNetWork(Work):
    """A work folder of which the classifiers of attributes read features of ImageNet, too."""

    @cached_property
    def items(self) -> Items:
        found = WithFeatures(*super().items)
        found.features = np.hstack([self._features(stride) for stride in STRIDES])
        return found

    def _features(self, stride: int) -> Vector:
        """The mean cell of every item's picture, (n, channels)."""
        reader = LiteReader(LiteSide(kind="lite", stride=stride), 1)
        reader.load_state_dict(dict(reader.start()), strict=False)  # the projection stays random and is not read
        reader.eval()
        return np.concatenate([self._means(reader, ids) for ids in chunks(self.catalog.ids, BATCH)])

    def _means(self, reader: LiteReader, ids: Sequence[str]) -> Vector:
        pixels = to_pixels(map(self.store.image, ids), len(ids))
        with torch.inference_mode():
            return reader.grid(as_floats(pixels)).mean(dim=(2, 3)).numpy()


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
