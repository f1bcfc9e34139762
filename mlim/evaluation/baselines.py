"""What the model has to beat: scorings of the same pairs by methods that learn no representation.

- `tfidf-cosine`: cosine of the two texts' TF-IDF vectors, fitted on the texts of the training items;
- `image-hash`: agreement of the two pictures' perceptual, difference and colour hashes;
- `boosted-trees`: gradient-boosted trees over similarities of texts, attributes and pictures, fitted on the training
  pairs; the number of trees is chosen on the validation pairs, as the model's best step is.

They read what the model reads: the text, the attributes it was made from and the square picture.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import imagehash
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from mlim.catalog.items import ItemStore
from mlim.console import ProgressBar
from mlim.pairs.labels import TEST, TRAIN, VALIDATION
from mlim.pairs.learned import boosted_trees
from mlim.pairs.similarities import Places, Vector, attribute_similarities, text_similarities

TFIDF: Final = "tfidf-cosine"
HASH: Final = "image-hash"
TREES: Final = "boosted-trees"
BASELINES: Final = (TFIDF, HASH, TREES)
JUDGED: Final = (VALIDATION, TEST)  # splits that are scored

PICTURE_SIDE: Final = 64  # pixels at which colours and edges are measured, whatever the recipe's size
COLOUR_LEVELS: Final = 4  # per channel; the histogram has this number cubed
ORIENTATIONS: Final = 8  # of edges, in the half circle
EDGE_SCALES: Final = (1, 2, 4)  # pixels from one sample to the next
PIXEL_MAXIMUM: Final = 255


class Picture(NamedTuple):
    """What is measured on one picture."""

    perceptual: NDArray[np.bool_]
    difference: NDArray[np.bool_]
    colour: NDArray[np.bool_]
    colours: Vector
    edges: Vector


def picture_of(pixels: NDArray[np.uint8]) -> Picture:
    """Hashes, colour histogram and edge statistics of a (S, S, 3) picture."""
    image = Image.fromarray(pixels)
    small = np.asarray(image.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BILINEAR))
    return Picture(
        perceptual=imagehash.phash(image).hash.ravel(),
        difference=imagehash.dhash(image).hash.ravel(),
        colour=imagehash.colorhash(image).hash.ravel(),
        colours=_colours(small),
        edges=_edges(small),
    )


def _colours(pixels: NDArray[np.uint8]) -> Vector:
    """The share of the pixels in each of the colour cube's boxes (COLOUR_LEVELS ** 3,)."""
    red, green, blue = (pixels.reshape(-1, 3).astype(np.int64) * COLOUR_LEVELS // (PIXEL_MAXIMUM + 1)).T
    box = (red * COLOUR_LEVELS + green) * COLOUR_LEVELS + blue
    return (np.bincount(box, minlength=COLOUR_LEVELS**3) / box.size).astype(np.float32)


def _edges(pixels: NDArray[np.uint8]) -> Vector:
    """At each scale: edge strength by orientation, and the mean and spread of the strength."""
    grey = pixels.mean(axis=2) / PIXEL_MAXIMUM
    return np.concatenate([_edges_at(grey[::scale, ::scale]) for scale in EDGE_SCALES]).astype(np.float32)


def _edges_at(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    orientation = np.floor(np.arctan2(down, right) % np.pi / np.pi * ORIENTATIONS).astype(np.int64) % ORIENTATIONS
    by_orientation = np.bincount(orientation.ravel(), strength.ravel(), minlength=ORIENTATIONS) / strength.size
    return np.concatenate([by_orientation, [strength.mean(), strength.std()]])


def read_attributes(index: Path) -> dict[str, Mapping[str, str]]:
    """Attributes of each accepted item by id, from valid/index.parquet."""
    table = pd.read_parquet(index, columns=["id", "attributes"])
    return {item: json.loads(values) for item, values in zip(table["id"], table["attributes"], strict=True)}


def similarities(
    pairs: pd.DataFrame,
    store: ItemStore,
    attributes: Mapping[str, Mapping[str, str]],
    training_items: Sequence[str],
    bar: ProgressBar,
) -> pd.DataFrame:
    """One row of similarities for each pair (columns item_a, item_b); the order of a pair's items does not matter.

    `training_items` are those whose texts TF-IDF is fitted on; `bar` advances by one for every distinct item.
    """
    ids = list(dict.fromkeys([*pairs["item_a"], *pairs["item_b"]]))
    place = {item: number for number, item in enumerate(ids)}
    first, second = (pairs[column].map(place).to_numpy() for column in ("item_a", "item_b"))
    groups = (
        text_similarities(
            [store.text(item) for item in ids], [store.text(item) for item in training_items], first, second
        ),
        attribute_similarities([attributes[item] for item in ids], first, second),
        _picture_similarities(list(_pictures(store, ids, bar)), first, second),
    )
    return pd.DataFrame({name: values for group in groups for name, values in group.items()}, index=pairs.index)


def _pictures(store: ItemStore, ids: Sequence[str], bar: ProgressBar) -> Iterator[Picture]:
    for item in ids:
        yield picture_of(store.image(item))
        bar.advance()


def _picture_similarities(pictures: Sequence[Picture], first: Places, second: Places) -> dict[str, Vector]:
    columns: dict[str, Vector] = {}
    for name in ("perceptual", "difference", "colour"):
        bits = np.array([getattr(picture, name) for picture in pictures])
        columns[f"hash:{name}"] = (bits[first] != bits[second]).mean(axis=1).astype(np.float32)
    for name in ("colours", "edges"):
        values = np.array([getattr(picture, name) for picture in pictures])
        apart, level = np.abs(values[first] - values[second]), (values[first] + values[second]) / 2
        columns[f"{name}:distance"] = apart.sum(axis=1)
        columns |= {f"{name}:apart:{number}": apart[:, number] for number in range(apart.shape[1])}
        columns |= {f"{name}:level:{number}": level[:, number] for number in range(level.shape[1])}
    return columns


def score_baselines(pairs: pd.DataFrame, features: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Scores in [0, 1] of every validation and test pair by every baseline.

    `pairs` has the columns item_a, item_b, label, split; `features` comes from `similarities` for the same rows. The
    result has those columns, baseline and score. `DataError` when the training pairs have only one label.
    """
    labels, split = pairs["label"].to_numpy().astype(np.int64), pairs["split"].to_numpy(dtype=object)
    scores = {
        TFIDF: features["text_cosine"].to_numpy(),
        HASH: 1 - features[["hash:perceptual", "hash:difference", "hash:colour"]].to_numpy().mean(axis=1),
        TREES: boosted_trees(features.to_numpy(), labels, split == TRAIN, split == VALIDATION, seed),
    }
    judged = pairs["split"].isin(JUDGED)
    shown = pairs.loc[judged, ["item_a", "item_b", "label", "split"]]
    tables = [shown.assign(baseline=name, score=values[judged].astype(np.float64)) for name, values in scores.items()]
    return pd.concat(tables, ignore_index=True)
