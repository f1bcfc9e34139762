import numpy as np
import pandas as pd
import pytest

from mlim.catalog.items import ItemStore
from mlim.console import SilentBar
from mlim.errors import DataError
from mlim.evaluation.baselines import BASELINES, HASH, TFIDF, TREES, picture_of, read_attributes, score_baselines
from mlim.evaluation.baselines import similarities as similarities_of
from mlim.evaluation.pr_auc import average_precision
from mlim.evaluation.scores import labels_of, part, scores_of


class Counter(SilentBar):
    def __init__(self):
        self.done = 0

    def advance(self, steps=1, note=""):
        self.done += steps


@pytest.fixture(scope="module")
def catalog(tiny_workspace):
    index = tiny_workspace.valid / "index.parquet"
    items = pd.read_parquet(tiny_workspace.pairs / "items.parquet")
    training = list(items.loc[items["split"] == "train", "id"])
    return ItemStore.open(tiny_workspace.items, index), read_attributes(index), training


@pytest.fixture(scope="module")
def pairs(tiny_workspace):
    return pd.read_parquet(tiny_workspace.pairs / "pairs.parquet")


@pytest.fixture(scope="module")
def features(catalog, pairs):
    return similarities_of(pairs, *catalog, SilentBar())


def test_an_item_agrees_with_itself_in_everything(catalog):
    item = catalog[0].ids[0]
    pair = pd.DataFrame({"item_a": [item], "item_b": [item]})
    (found,) = similarities_of(pair, *catalog, SilentBar()).to_dict("records")
    assert found["text_cosine"] == pytest.approx(1)
    assert found["text_jaccard"] == 1
    assert found["equal:kind"] == found["equal:colour"] == 1
    apart = [name for name in found if name.startswith("hash:") or ":apart:" in name or ":distance" in name]
    assert apart
    assert all(found[name] == 0 for name in apart)


def test_the_order_of_the_two_items_does_not_matter(catalog, pairs, features):
    turned = pairs.rename(columns={"item_a": "item_b", "item_b": "item_a"})
    pd.testing.assert_frame_equal(similarities_of(turned, *catalog, SilentBar()), features)


def test_a_missing_attribute_is_neither_equal_nor_different(catalog, pairs):
    store, attributes, training = catalog
    first, second, third = pairs.loc[0, "item_a"], pairs.loc[0, "item_b"], pairs.loc[1, "item_b"]
    without = {**attributes, first: {}, second: {"kind": "", "colour": "red"}}
    shown = pd.DataFrame({"item_a": [first, first], "item_b": [second, third]})
    found = similarities_of(shown, store, without, training, SilentBar())
    assert found["equal:kind"].isna().all()
    assert found["missing:kind"].tolist() == [2, 1]
    assert found["missing:colour"].tolist() == [1, 1]


def test_every_distinct_item_is_measured_once(catalog, pairs):
    bar = Counter()
    similarities_of(pairs, *catalog, bar)
    assert bar.done == len({*pairs["item_a"], *pairs["item_b"]})


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
