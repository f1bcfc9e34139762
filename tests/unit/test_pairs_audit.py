"""The leak audit: rules and classifiers find what is planted for them, and nothing where nothing is."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_items import embedded

from mlim.catalog.pair_rules import PairRules
from mlim.cli.prepare import _audit
from mlim.errors import DataError
from mlim.pairs.audit import BAG_OF_WORDS, BOOSTED_TREES, BestRule, audit_leaks, best_cut, best_rules, solved_share
from mlim.pairs.labels import SPLITS
from mlim.pairs.learned import fit_trees, fit_words
from mlim.pairs.splits import split_pairs
from mlim.pairs.variation import rule_of, variation_pairs
from mlim.recipe import PairsConfig
from mlim.steps.pairs import drawn_apart

CONFIG = PairsConfig(
    validation_share=0.2,
    test_share=0.3,
    max_train=5000,
    max_validation=1000,
    max_test=1000,
    near_duplicate_bits=None,
    leak_limit=0.9,
    audit_pairs=2000,
)
RULES = {"decided_by": ["pattern"], "same": ["product_type"]}


@pytest.fixture(scope="module")
def catalog():
    description, items = embedded(RULES, 600)
    pairs, _ = variation_pairs(items, rule_of(description.pairs, description.text_columns))
    return items, split_pairs(items, pairs, CONFIG, 0).pairs


def audit_of(pairs, items, config=CONFIG):
    return {entry["rule"]: entry for entry in audit_leaks(pairs, items, config, 0)}


def patterns(items):
    return [json.loads(facts)["pattern"] for facts in items["facts"]]


def test_an_honest_task_does_not_leak_and_every_way_tells_chance(catalog):
    items, pairs = catalog
    audit = audit_of(pairs, items)
    test = pairs[pairs["split"] == "test"]["label"]
    assert {entry["method"] for entry in audit.values()} == {"rule", "learned"}
    assert all(entry["prevalence"] == pytest.approx(test.mean(), abs=1e-6) for entry in audit.values())
    assert not any(entry["leaks"] for entry in audit.values())
    assert any(rule.startswith("picture's hash") for rule in audit)
    assert any(rule.startswith("`colour`") for rule in audit)


def test_a_rule_that_solves_the_task_is_found_and_so_is_its_negation(catalog):
    items, pairs = catalog
    leaking = items.assign(
        attributes=[json.dumps({"tell": pattern}) for pattern in patterns(items)], text="all the same"
    )
    audit = audit_of(pairs, leaking)
    assert audit["`tell` is equal"]["leaks"]
    assert audit["`tell` is equal"]["pr_auc"] == audit["`tell` is equal"]["accuracy"] == 1
    assert audit[BOOSTED_TREES]["leaks"]
    assert not audit[BAG_OF_WORDS]["leaks"]
    assert audit_of(pairs.assign(label=1 - pairs["label"]), leaking)["`tell` differs"]["leaks"]


def test_the_best_rule_is_found_in_each_split_by_the_measure_that_the_audit_limits(catalog):
    items, pairs = catalog
    assert all(0 <= rule.solved < CONFIG.leak_limit for rule in best_rules(pairs, items).values())
    seen = set(pairs.loc[pairs["split"] == "test", ["item_a", "item_b"]].to_numpy().ravel())
    tells = zip(items["id"], patterns(items), strict=True)
    leaking = items.assign(attributes=[json.dumps({"tell": tell if item in seen else "-"}) for item, tell in tells])
    found = best_rules(pairs, leaking)
    assert found["test"] == BestRule("`tell` is equal", 1.0)
    assert all(found[split].solved < CONFIG.leak_limit for split in ("train", "validation"))
    assert not audit_of(pairs, leaking)["`tell` is equal"]["leaks"]  # of all pairs it solves too few


def test_what_a_way_solves_is_counted_from_the_majority_on():
    assert solved_share(1, 0.7) == 1
    assert solved_share(0.7, 0.7) == 0
    assert solved_share(0.85, 0.7) == pytest.approx(0.5)
    assert solved_share(1, 1) == 0  # one label only: there is nothing to solve


def test_a_word_in_a_long_text_is_found_by_the_bag_of_words_alone(catalog):
    items, pairs = catalog
    leaking = items.assign(
        text=[f"{item} seen {pattern}" for item, pattern in zip(items["id"], patterns(items), strict=True)],
        attributes="{}",
    )
    audit = audit_of(pairs, leaking)
    assert audit[BAG_OF_WORDS]["leaks"]
    assert audit[BAG_OF_WORDS]["pr_auc"] > 0.99
    assert not any(entry["leaks"] for rule, entry in audit.items() if rule.startswith("text"))


def test_near_hashes_are_found_by_the_trees_and_equal_ones_by_a_rule(catalog):
    items, pairs = catalog
    family = dict(zip(items["family"].unique(), range(items["family"].nunique()), strict=True))
    generator = np.random.default_rng(0)
    bases = [f"{family[f]} {p}" for f, p in zip(items["family"], patterns(items), strict=True)]
    numbers = generator.integers(0, 2**32, len(items), dtype=np.uint64)
    spread = {base: int(generator.integers(0, 2**63)) for base in bases}
    near = [f"{spread[base] ^ (1 << int(number % 60)):016x}" for base, number in zip(bases, numbers, strict=True)]
    audit = audit_of(pairs, items.assign(image_hash=near))
    assert audit[BOOSTED_TREES]["leaks"]
    assert not any(entry["leaks"] for entry in audit.values() if entry["method"] == "rule")
    equal = audit_of(pairs, items.assign(image_hash=[f"{spread[base]:016x}" for base in bases]))
    assert equal["picture's hash is equal"]["leaks"]


def test_the_audit_repeats_exactly_and_does_not_care_which_item_comes_first(catalog):
    items, pairs = catalog
    turned = pairs.rename(columns={"item_a": "item_b", "item_b": "item_a"})
    config = CONFIG.model_copy(update={"audit_pairs": 200})
    assert audit_leaks(pairs, items, config, 3) == audit_leaks(turned, items.sample(frac=1, random_state=0), config, 3)


def test_texts_without_a_word_are_no_error(catalog):
    items, pairs = catalog
    audit = audit_of(pairs, items.assign(text="!?", attributes=json.dumps({"title": ""})))
    assert audit[BAG_OF_WORDS]["pr_auc"] == pytest.approx(audit[BAG_OF_WORDS]["prevalence"], abs=1e-6)


def test_training_pairs_of_one_label_are_refused():
    labels, training, validation = np.array([1, 1, 0, 1]), np.array([1, 1, 0, 0]) > 0, np.array([0, 0, 1, 1]) > 0
    places = np.arange(4)
    with pytest.raises(DataError, match="all 2 training pairs have one label"):
        fit_words(["a"] * 5, places, places + 1, labels, training, validation)
    with pytest.raises(DataError, match="all 2 training pairs have one label"):
        fit_trees(np.zeros((4, 1)), labels, training, validation, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_no_other_cut_is_right_more_often(scored):
    labels, scores = np.array([int(label) for label, _ in scored]), np.array([score / 4 for _, score in scored])
    right = {cut: int(((scores >= cut) == (labels == 1)).sum()) for cut in (*scores, float("inf"))}
    assert right[best_cut(labels, scores)] == max(right.values())


@pytest.mark.slow
@pytest.mark.timeout(300)  # takes seconds; what grows with the square of the pairs takes hours
def test_thirty_thousand_pairs_can_be_audited():
    description, items = embedded(RULES, 40_000)
    pairs, _ = variation_pairs(items, rule_of(description.pairs, description.text_columns))
    config = CONFIG.model_copy(update={"max_train": 30_000, "max_test": 10_000, "audit_pairs": 10_000})
    made = split_pairs(items, pairs, config, 0).pairs
    assert pd.Series(made["split"]).value_counts()["train"] == 30_000
    assert audit_leaks(made, items, config, 0)


def test_the_last_word_on_leaks_counts_the_splits_that_warnings_name():
    """A rule that leaks in one split alone is no leak of all pairs, and "none" after a warning contradicts it."""
    counts = {split: {"0": 1, "1": 1} for split in SPLITS}
    passed, failed = ({"suite": "pairs", "success": success} for success in (True, False))
    summary = {"counts": counts, "leak_audit": [{"rule": "`kind` is equal", "leaks": False}]}
    assert _audit({**summary, "expectations": [passed]}) == "no simple rule gives it away"
    assert _audit({**summary, "expectations": [passed, failed]}) == (
        "a simple rule gives it away in 1 of 3 splits: see the warnings"
    )


@pytest.mark.parametrize(
    ("negatives", "written"),
    [
        ({}, ""),
        ({"random": 1}, "kind"),
        ({"random": 1, "same": ["sex"]}, "sex, kind"),
        ({"text": 1, "same": ["kind"]}, ""),
    ],
)
def test_a_column_that_leaks_across_families_is_named_with_what_makes_it_agree(negatives, written):
    leak = 'the pairs leak: the rule "`kind` is equal" alone solves more of the validation pairs than it may'
    found = drawn_apart([leak, leak], PairRules(negatives=negatives), ("title", "kind"))
    assert [f"`negatives.same: [{written}]`" in sentence for sentence in found] == ([True] if written else [])
