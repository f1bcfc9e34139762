"""The stack of the matcher with simple systems: fitted honestly, stored without pickle, the same when served."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from skops import io as skops

from mlim.console import SilentBar
from mlim.errors import InputError
from mlim.pairs.learned import TREE_SETTINGS
from mlim.recipe import StackConfig
from mlim.shards.items import ItemStore
from mlim.stacking.attributes import OTHER, agreements, chosen_attributes, fit_classifiers
from mlim.stacking.combine import combine, cross_fitted
from mlim.stacking.items import describe
from mlim.stacking.parts import COLUMNS, TREES, WORDS, Learned, fit_parts
from mlim.stacking.scorers import CANDIDATES, MATCHER, STACK, WITHOUT_MATCHER
from mlim.stacking.stack import Stack, choose_scorer, only_matcher, stack_parts
from mlim.stacking.storage import STACK_FILE, TRUSTED, load_stack, save_stack

SEED, FOLDS = 0, 2
AGREE = "agree:kind"


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TREE_SETTINGS, "max_iter", 40)
        yield


@pytest.fixture(scope="module")
def learned(tiny_workspace):
    store = ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")
    ids = list(store.ids)
    members = pd.read_parquet(tiny_workspace.pairs / "items.parquet").set_index("id").loc[ids]
    index = pd.read_parquet(tiny_workspace.valid / "index.parquet").set_index("id").loc[ids]
    pairs = pd.concat([pd.read_parquet(tiny_workspace.pairs / "pairs.parquet")] * 5)  # enough for a tree to split
    place = {item: number for number, item in enumerate(ids)}
    first, second = (pairs[side].map(place).to_numpy() for side in ("item_a", "item_b"))
    training = (members["split"] == "train").to_numpy()
    attributes = [json.loads(cell) for cell in index["attributes"]]
    return Learned(
        items=describe(store, ids, SilentBar()),
        training_items=training,
        families=members["component"].to_numpy(),
        values=chosen_attributes([], attributes, training, most=1, most_values=40),
        first=first,
        second=second,
        labels=pairs["label"].to_numpy(np.int64),
        training=(pairs["split"] == "train").to_numpy(),
        validation=(pairs["split"] == "validation").to_numpy(),
    )


@pytest.fixture(scope="module")
def parts(learned):
    return fit_parts(learned, FOLDS, SEED)


def scores_of(parts, learned):
    return parts.scores(learned.items, learned.first, learned.second)


@pytest.fixture(scope="module")
def planted(learned):
    """The same pairs with labels that only a column tells."""
    values = np.random.default_rng(0).integers(3, size=len(learned.items.texts)).astype(str)
    items = learned.items._replace(columns=[{"size": value, "none": ""} for value in values.tolist()])
    return replace(learned, items=items, labels=np.int64(values[learned.first] == values[learned.second]))


@pytest.fixture(scope="module")
def stack(planted):
    """A stack of the parts alone, combined on all pairs."""
    return stack_of(fit_parts(planted, FOLDS, SEED), planted)


def stack_of(parts, learned):
    scores = scores_of(parts, learned)
    plain = [name for name in scores if name != COLUMNS]
    told = [COLUMNS if name == TREES else name for name in plain]
    return Stack(parts, combine(scores, told, learned.labels), combine(scores, plain, learned.labels))


def by_stack(stack, learned, columns):
    items = learned.items._replace(columns=columns)
    return stack.score(items, learned.first, learned.second, lambda: pytest.fail("no matcher is asked"))


def test_every_part_scores_every_pair_whatever_the_order_of_its_items(parts, learned):
    scores = scores_of(parts, learned)
    assert list(scores) == [TREES, COLUMNS, WORDS, AGREE]
    assert scores.notna().all(axis=None)
    assert ((scores >= 0) & (scores <= 1)).all(axis=None)
    turned = parts.scores(learned.items, learned.second, learned.first)
    pd.testing.assert_frame_equal(scores, turned, rtol=1e-6)


def test_a_pair_is_scored_the_same_alone_and_among_others(parts, learned):
    """A served request holds other items than the batch that was judged."""
    alone = describe_pair(learned, 3)
    found = parts.scores(alone, np.array([0]), np.array([1]))
    pd.testing.assert_frame_equal(found, scores_of(parts, learned).iloc[[3]].reset_index(drop=True), rtol=1e-5)


def describe_pair(learned, pair):
    places = (learned.first[pair], learned.second[pair])
    return type(learned.items)(*([column[place] for place in places] for column in learned.items))


def test_columns_are_compared_as_they_decide(stack, planted):
    """What only a column tells is found by the trees that compare columns, and by no other part."""
    scores = scores_of(stack.parts, planted)
    reached = {name: average_precision_score(planted.labels, scores[name]) for name in (TREES, COLUMNS)}
    assert reached[COLUMNS] > 0.99 > reached[TREES]


def test_without_columns_a_pair_is_scored_as_if_there_were_none(stack, planted):
    """A request that sends joined texts gives what a stack without columns gives, whatever else is in the batch."""
    known = planted.items.columns
    bare = fit_parts(replace(planted, items=planted.items._replace(columns=[{}] * len(known))), FOLDS, SEED)
    scores = scores_of(bare, planted)
    assert COLUMNS not in scores
    expected = combine(scores, list(scores), planted.labels).score(scores)
    full = by_stack(stack, planted, known)
    assert not np.allclose(full, expected, atol=1e-3)
    np.testing.assert_array_equal(by_stack(stack, planted, [{"size": one["size"]} for one in known]), full)
    for unknown in ({}, {"of another catalog": "x"}):
        np.testing.assert_allclose(by_stack(stack, planted, [unknown] * len(known)), expected, atol=1e-9)
    half = [one if place % 2 else {} for place, one in enumerate(known)]
    both = (planted.first % 2 == 1) & (planted.second % 2 == 1)
    np.testing.assert_allclose(by_stack(stack, planted, half), np.where(both, full, expected), atol=1e-9)


def test_a_stored_stack_gives_the_same_scores_and_the_same_bytes(stack, planted, tmp_path):
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
        save_stack(folder, stack)
    assert stored(folders[0]) == stored(folders[1])
    again, known = load_stack(folders[0]), planted.items.columns
    pd.testing.assert_frame_equal(scores_of(again.parts, planted), scores_of(stack.parts, planted))
    for columns in (known, [{}] * len(known)):
        np.testing.assert_array_equal(by_stack(again, planted, columns), by_stack(stack, planted, columns))
    assert again.combination.weights == stack.combination.weights


def test_fitting_again_gives_the_same_bytes(stack, planted, tmp_path):
    made = []
    for fitted in (stack.parts, fit_parts(planted, FOLDS, SEED)):
        save_stack(tmp_path, stack._replace(parts=fitted))
        made.append(stored(tmp_path))
    assert made[0] == made[1]


def stored(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stack_of_an_earlier_version_scores_as_it_did(stack, planted, tmp_path):
    path, known = tmp_path / STACK_FILE, planted.items.columns
    save_stack(tmp_path, stack._replace(combination=stack.without_columns))
    values = skops.load(path, trusted=TRUSTED)
    skops.dump({name: value for name, value in values.items() if "columns" not in name}, path)
    expected = by_stack(stack, planted, [{}] * len(known))
    np.testing.assert_array_equal(by_stack(load_stack(tmp_path), planted, known), expected)


def test_nothing_that_runs_code_is_read(tmp_path):
    """A stack file is data: what names another type is refused before it is built."""
    path = tmp_path / STACK_FILE
    with zipfile.ZipFile(path, "w") as archive:
        node = {"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode", "content": None}
        archive.writestr("schema.json", json.dumps({**node, "protocol": 2, "_skops_version": "0.16"}))
    with pytest.raises(InputError, match="holds no stack that can be read"):
        load_stack(tmp_path)


def test_probabilities_of_training_items_are_out_of_fold(learned):
    """A value that only one family has is certain for a classifier that saw the item, and unknown to the others."""
    values = ["rare" if family == 0 else f"common {family % 2}" for family in learned.families]
    training = np.ones(len(values), dtype=bool)
    classifiers, found = fit_classifiers(learned.items, {"x": values}, training, learned.families, 5, SEED)
    place = list(classifiers.by_name["x"].classes_).index("rare")
    rare = np.array(values) == "rare"
    seen = classifiers.probabilities(learned.items)["x"][rare, place]
    assert (found["x"][rare, place] < seen).all()


def test_what_decides_labels_gets_a_classifier_first():
    deciding = [
        {"pattern": "dots"},
        {"pattern": "stripes"},
        {"pattern": "rare"},
        {"pattern": "dots"},
        {"pattern": "stripes"},
    ]
    attributes = [{"brand": "one", "colour": colour} for colour in ("red", "blue", "red", "blue", "")]
    training = np.ones(5, dtype=bool)
    found = chosen_attributes(deciding, attributes, training, most=2, most_values=2)
    assert list(found) == ["pattern", "colour"]  # one brand tells nothing
    assert found["pattern"] == ["dots", "stripes", OTHER, "dots", "stripes"]
    assert found["colour"][-1] == OTHER
    assert chosen_attributes(deciding, attributes, training, most=0, most_values=2) == {}


def test_agreement_is_the_probability_of_the_same_value():
    sure, unsure = np.float32([1, 0]), np.float32([0.5, 0.5])
    found = agreements({"x": np.stack([sure, unsure])}, np.array([0, 0, 1]), np.array([0, 1, 1]))
    np.testing.assert_allclose(found["agree:x"], [1, 0.5, 0.5])


def judged(generator, size=400, families=80):
    """Two parts that each know half of the label, one that knows nothing, and one that only repeats it for chance."""
    labels = generator.integers(2, size=size)
    logits = {name: skill * (2 * labels - 1) + generator.normal(size=size) for name, skill in SKILLS.items()}
    frame = pd.DataFrame({name: 1 / (1 + np.exp(-values)) for name, values in logits.items()})
    return frame, labels, np.repeat(generator.integers(families, size=size)[:, None], 2, axis=1)


SKILLS = {MATCHER: 1.0, TREES: 1.0, WORDS: 0.0}


def test_the_stack_is_better_than_its_parts_and_is_what_is_registered():
    frame, labels, families = judged(np.random.default_rng(1))
    validation = np.arange(len(labels)) < 200
    found = stack_parts(frame, labels, families, validation, StackConfig())
    test = ~validation
    reached = {str(name): average_precision_score(labels[test], found.scores[name][test]) for name in found.scores}
    assert reached[STACK] > max(reached[name] for name in SKILLS)
    assert reached[STACK] > reached[WITHOUT_MATCHER]
    assert found.chosen == STACK
    assert found.combinations[STACK].weights[MATCHER] > 3 * abs(found.combinations[STACK].weights[WORDS])
    assert set(found.scores) == {*SKILLS, STACK, *(f"stack without {name}" for name in SKILLS)}


def test_trees_compare_columns_where_these_are_known():
    frame, labels, families = judged(np.random.default_rng(1))
    frame[COLUMNS] = frame[TREES]
    found = stack_parts(frame, labels, families, np.arange(len(labels)) < 200, StackConfig())
    parts = {name: set(combination.parts) for name, combination in found.combinations.items()}
    assert parts[STACK] == {MATCHER, COLUMNS, WORDS}
    assert parts["stack without columns"] == set(found.without_columns.parts) == {MATCHER, TREES, WORDS}
    assert parts["stack without trees"] == {MATCHER, WORDS}
    assert parts[WITHOUT_MATCHER] == {COLUMNS, WORDS}


def test_a_matcher_that_knows_nothing_is_left_out():
    frame, labels, families = judged(np.random.default_rng(2))
    frame[MATCHER] = np.random.default_rng(3).uniform(size=len(labels))
    found = stack_parts(frame, labels, families, np.arange(len(labels)) < 200, StackConfig())
    assert found.chosen != MATCHER


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_cross_fitting_finds_nothing_where_nothing_is(seed):
    """Scores of noise must not look good on the pairs that the combination was fitted on."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=200)
    noise = pd.DataFrame(generator.uniform(size=(200, 30)), columns=[str(number) for number in range(30)])
    families = np.repeat(np.arange(200)[:, None], 2, axis=1)
    crossed = cross_fitted(noise, list(noise), labels, families, 5)
    fitted = combine(noise, list(noise), labels).score(noise)
    assert average_precision_score(labels, crossed) < average_precision_score(labels, fitted)


def test_pairs_that_all_share_a_family_are_still_scored():
    frame, labels, _ = judged(np.random.default_rng(4), size=40)
    found = cross_fitted(frame, list(frame), labels, np.zeros((40, 2), dtype=np.int64), 5)
    assert np.isfinite(found).all()


def test_policies():
    reached = dict.fromkeys(CANDIDATES, 0.5)
    assert choose_scorer(reached, StackConfig()) == MATCHER
    assert choose_scorer({**reached, STACK: 0.6}, StackConfig()) == STACK
    assert choose_scorer({**reached, STACK: 0.6}, StackConfig(register_policy="matcher")) == MATCHER
    alone = only_matcher(np.array([0.1, 0.9]), np.array([0, 1]), np.array([True, True]))
    assert (alone.chosen, alone.validation) == (MATCHER, {MATCHER: 1.0})
