import numpy as np
import pandas as pd
import pytest

from mlim.console import SilentBar
from mlim.errors import DataError
from mlim.evaluation.baselines import BASELINES, HASH, TFIDF, TREES, score_baselines, similarities
from mlim.evaluation.pr_auc import average_precision
from mlim.evaluation.scores import labels_of, part, scores_of
from mlim.shards.items import ItemStore
from mlim.stacking.items import describe
from mlim.stacking.pictures import picture_of


class Counter(SilentBar):
    def __init__(self):
        self.done = 0

    def advance(self, steps=1, note=""):
        self.done += steps


@pytest.fixture(scope="module")
def store(tiny_workspace):
    return ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")


@pytest.fixture(scope="module")
def catalog(tiny_workspace, store):
    items = pd.read_parquet(tiny_workspace.pairs / "items.parquet").set_index("id").loc[list(store.ids)]
    return describe(store, list(store.ids), SilentBar()), (items["split"] == "train").to_numpy()


@pytest.fixture(scope="module")
def pairs(tiny_workspace):
    return pd.read_parquet(tiny_workspace.pairs / "pairs.parquet")


@pytest.fixture(scope="module")
def places(store, pairs):
    place = {item: number for number, item in enumerate(store.ids)}
    return tuple(pairs[side].map(place).to_numpy() for side in ("item_a", "item_b"))


@pytest.fixture(scope="module")
def features(catalog, places):
    return similarities(*catalog, *places)


def test_an_item_agrees_with_itself_in_everything(catalog):
    itself = np.array([0])
    (found,) = similarities(*catalog, itself, itself).to_dict("records")
    assert found["text_cosine"] == pytest.approx(1)
    assert found["text_jaccard"] == 1
    assert found["equal:kind"] == found["equal:colour"] == 1
    apart = [name for name in found if name.startswith("hash:") or ":apart:" in name or ":distance" in name]
    assert apart
    assert all(found[name] == 0 for name in apart)


def test_the_order_of_the_two_items_does_not_matter(catalog, places, features):
    pd.testing.assert_frame_equal(similarities(*catalog, *reversed(places)), features)


def test_a_missing_attribute_is_neither_equal_nor_different(catalog):
    items, training = catalog
    without = items._replace(columns=[{}, {"kind": "", "colour": "red"}, *items.columns[2:]])
    found = similarities(without, training, np.array([0, 0]), np.array([1, 2]))
    assert found["equal:kind"].isna().all()
    assert found["missing:kind"].tolist() == [2, 1]
    assert found["missing:colour"].tolist() == [1, 1]


def test_every_item_is_measured_once(store):
    bar = Counter()
    describe(store, list(store.ids)[:7], bar)
    assert bar.done == 7


def test_scores_cover_validation_and_test_and_repeat_exactly(pairs, features):
    scores = score_baselines(pairs, features, seed=0)
    assert list(scores.columns) == ["item_a", "item_b", "label", "split", "baseline", "score"]
    for name in BASELINES:
        for split in ("validation", "test"):
            assert len(part(scores, baseline=name, split=split)) == (pairs["split"] == split).sum()
    assert scores["score"].between(0, 1 + 1e-6).all()
    pd.testing.assert_frame_equal(scores, score_baselines(pairs, features, seed=0))


def planted(features, pairs, name, values):
    """The features with one of them replaced by something that depends on the label."""
    return features.assign(**{name: np.asarray(values, dtype=np.float32)})


def test_each_baseline_finds_what_is_planted_for_it(pairs, features):
    many = pd.concat([pairs] * 5, ignore_index=True)
    wide = pd.concat([features] * 5, ignore_index=True)
    labels = many["label"].to_numpy()
    by = {TFIDF: ("text_cosine", labels), HASH: ("hash:perceptual", 1 - labels), TREES: ("missing:kind", labels)}
    for name, (column, values) in by.items():
        scores = score_baselines(many, planted(wide, many, column, values), seed=0)
        test = part(scores, baseline=name, split="test")
        assert average_precision(labels_of(test), scores_of(test)) > 0.99


def test_training_pairs_of_one_label_are_refused(pairs, features):
    one = pairs.assign(label=np.where(pairs["split"] == "train", 1, pairs["label"]))
    with pytest.raises(DataError, match="training pairs have one label"):
        score_baselines(one, features, seed=0)


def test_pictures_with_stripes_differ_in_edges_and_not_in_size_of_their_measures():
    plain = np.full((40, 40, 3), 120, dtype=np.uint8)
    striped = plain.copy()
    striped[::4] = 250
    one, other = picture_of(plain), picture_of(striped)
    assert one.colours.sum() == pytest.approx(1)
    assert other.colours.sum() == pytest.approx(1)
    assert one.edges.sum() == 0
    assert other.edges.sum() > 0
