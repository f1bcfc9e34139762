"""What the model has to beat: scorings of the same pairs by methods that learn no representation.

- `tfidf-cosine`: cosine of the two texts' TF-IDF vectors, fitted on the texts of the training items;
- `image-hash`: agreement of the two pictures' perceptual, difference and colour hashes;
- `boosted-trees`: gradient-boosted trees over similarities of texts, attributes and pictures, fitted on the training
  pairs; the number of trees is chosen on the validation pairs, as the model's best step is.

They read what the model reads: the text, the attributes it was made from and the square picture.
"""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.pairs.labels import TEST, TRAIN, VALIDATION
from mlim.pairs.learned import fit_trees
from mlim.pairs.similarities import Places, attribute_similarities, text_similarities, word_vectors
from mlim.stacking.items import Items, texts_at
from mlim.stacking.pictures import picture_similarities

TFIDF: Final = "tfidf-cosine"
HASH: Final = "image-hash"
TREES: Final = "boosted-trees"
BASELINES: Final = (TFIDF, HASH, TREES)
JUDGED: Final = (VALIDATION, TEST)  # splits that are scored


def similarities(items: Items, training_items: NDArray[np.bool_], first: Places, second: Places) -> pd.DataFrame:
    """One row of similarities for each pair items[first], items[second]; the order of its items does not matter.

    TF-IDF is fitted on the texts of the `training_items` (n,).
    """
    groups = (
        text_similarities(items.texts, word_vectors(texts_at(items, training_items)), first, second),
        attribute_similarities(items.columns, first, second),
        picture_similarities(items.pictures, first, second),
    )
    return pd.DataFrame({name: values for group in groups for name, values in group.items()})


def score_baselines(pairs: pd.DataFrame, features: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Scores in [0, 1] of every validation and test pair by every baseline.

    `pairs` has the columns item_a, item_b, label, split; `features` (one line for each) comes from `similarities`. The
    result has those columns, baseline and score. `DataError` when the training pairs have only one label.
    """
    labels, split = pairs["label"].to_numpy().astype(np.int64), pairs["split"].to_numpy(dtype=object)
    trees = fit_trees(features.to_numpy(), labels, split == TRAIN, split == VALIDATION, seed)
    scores = {
        TFIDF: features["text_cosine"].to_numpy(),
        HASH: 1 - features[["hash:perceptual", "hash:difference", "hash:colour"]].to_numpy().mean(axis=1),
        TREES: trees.score(features.to_numpy()),
    }
    judged = pairs["split"].isin(JUDGED)
    shown = pairs.loc[judged, ["item_a", "item_b", "label", "split"]]
    tables = [shown.assign(baseline=name, score=values[judged].astype(np.float64)) for name, values in scores.items()]
    return pd.concat(tables, ignore_index=True)
