"""Mismatches across families: of the right kind, inside one split, in the wanted ratio, the same for the same seed."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from mlim.catalog.pair_rules import FAMILY, PairRules
from mlim.pairs.choose import plan_quota
from mlim.pairs.labels import MATCH, MISMATCH, SPLITS
from mlim.pairs.negatives import Pool, draw_mismatches
from mlim.pairs.similarities import WORD
from mlim.pairs.splits import count_pairs, split_pairs
from mlim.pairs.variation import VariationRule, rule_of, variation_pairs
from mlim.recipe import PairsConfig

RULE = VariationRule(("pattern",), (), 8)
CONFIG = PairsConfig(
    validation_share=0.2,
    test_share=0.3,
    max_train=10_000,
    max_validation=10_000,
    max_test=10_000,
    near_duplicate_bits=None,
    leak_limit=0.9,
    audit_pairs=1000,
)
WORDS = ("red", "blue", "green", "cotton", "wool", "dress", "shirt", "skirt", "long", "short")
KIND_OF = {"neighbour in text": "text", "neighbour in image": "image", "random item": "random"}

mixes = st.sampled_from(
    [
        {"text": 0.5},
        {"image": 0.3, "random": 0.3},
        {"family": 0, "random": 1},
        {"text": 0.25, "image": 0.25, "random": 0.25},
        {"family": 0, "text": 0.5, "image": 0.5},
        {"random": 0.5, "same": ("kind",)},
        {"family": 0, "text": 0.4, "image": 0.3, "random": 0.3, "same": ("kind",), "neighbours": 2},
    ]
)


def make_catalog(seed, families=40, size=4):
    """Families of `size` items of two patterns, of one of three kinds; one in ten items has no kind."""
    generator = np.random.default_rng(seed)
    rows = []
    for family in range(families):
        for member in range(size):
            kind = "" if generator.random() < 0.1 else f"kind {family % 3}"
            rows.append(
                {
                    "id": f"{generator.integers(10**9):09d}-{family}-{member}",
                    "family": f"f{family}",
                    "facts": json.dumps({"pattern": "ab"[member % 2], "kind": kind}),
                    "text": " ".join(generator.choice(WORDS, 4)),
                    "image_sha256": f"{generator.integers(10**9)}",
                    "image_hash": f"{generator.integers(2**63):016x}",
                }
            )
    return pd.DataFrame(rows)


def made_of(items, seed=0, config=CONFIG, near_links=None, **rules):
    pairs, _ = variation_pairs(items, RULE)
    return split_pairs(items, pairs, config, seed, PairRules(**rules), near_links)


@given(mixes, st.sampled_from([None, 0.5, 1, 3]), st.integers(0, 5))
@settings(max_examples=8, deadline=None)
def test_every_mismatch_is_of_its_kind_and_inside_one_split(negatives, ratio, seed):
    items = make_catalog(seed)
    made = made_of(items, seed, negatives=negatives, mismatches_per_match=ratio)
    known = items.set_index("id").join(made.items.set_index("id"))
    matched = set(made.pairs.loc[made.pairs["label"] == MATCH, ["item_a", "item_b"]].to_numpy().ravel())
    assert (made.pairs["item_a"] < made.pairs["item_b"]).all()
    assert not made.pairs.duplicated(["item_a", "item_b"]).any()
    for pair in made.pairs.to_dict("records"):
        one, other = known.loc[pair["item_a"]], known.loc[pair["item_b"]]
        assert one["split"] == other["split"] == pair["split"]
        assert one["component"] == pair["component"]
        facts, others = json.loads(one["facts"]), json.loads(other["facts"])
        if pair["kind"] not in KIND_OF:
            assert one["family"] == other["family"]
            assert pair["label"] == int(facts["pattern"] == others["pattern"])
            continue
        assert pair["label"] == MISMATCH
        assert one["component"] != other["component"]
        assert one["family"] != other["family"]
        assert {pair["item_a"], pair["item_b"]} & matched
        if "same" in negatives:
            assert facts["kind"] == others["kind"] != ""
    assert (known.groupby("family")["split"].nunique() == 1).all()


@given(mixes, st.sampled_from([None, 0.25, 0.5]), st.integers(0, 5))
@settings(max_examples=12, deadline=None)
def test_the_ratio_and_the_shares_hold_when_there_is_enough(negatives, ratio, seed):
    made = made_of(make_catalog(seed), seed, negatives=negatives, mismatches_per_match=ratio)
    shares = PairRules(negatives=negatives).negatives.shares
    for split in SPLITS:
        part = made.pairs[made.pairs["split"] == split]
        matches = int((part["label"] == MATCH).sum())
        mismatches = len(part) - matches
        if ratio is not None:
            assert mismatches == round(ratio * matches)
        kinds = Counter(KIND_OF.get(kind, FAMILY) for kind in part.loc[part["label"] == MISMATCH, "kind"])
        for kind, share in shares.items():
            assert abs(kinds[kind] - share * mismatches) <= 1
            assert made.mismatches[split][kind] == {"wanted": kinds[kind], "made": kinds[kind]}


@given(mixes, st.integers(0, 5))
@settings(max_examples=5, deadline=None)
def test_the_same_seed_gives_the_same_pairs_whatever_the_order_of_the_rows(negatives, seed):
    items = make_catalog(0)
    one = made_of(items, seed, negatives=negatives)
    other = made_of(items.sample(frac=1, random_state=seed), seed, negatives=negatives)
    pd.testing.assert_frame_equal(one.pairs, other.pairs)
    assert one.mismatches == other.mismatches
    assert not made_of(items, seed + 1, negatives=negatives).pairs.equals(one.pairs)


@pytest.mark.parametrize("directions", ["one", "both"])
@pytest.mark.parametrize("ratio", [None, 1, 2.5])
def test_caps_hold_and_keep_the_ratio(directions, ratio):
    config = CONFIG.model_copy(update={"max_train": 61, "max_validation": 20, "max_test": 31})
    rules = {"negatives": {"text": 0.25, "random": 0.5}, "mismatches_per_match": ratio, "directions": directions}
    made = made_of(make_catalog(1), config=config, **rules)
    caps = {"train": 61, "validation": 20, "test": 31}
    for split, counts in count_pairs(made.pairs).items():
        room = caps[split] // (2 if directions == "both" else 1)
        assert room - 2 <= sum(counts.values()) <= room
        if ratio is not None:
            assert abs(counts["0"] - ratio * counts["1"]) <= ratio + 1
    assert made.skipped["pair beyond the size of its split"] > 0


def test_mismatches_that_are_not_wanted_are_counted():
    items = make_catalog(2)
    everything = made_of(items)
    fewer = made_of(items, mismatches_per_match=1)
    gone = len(everything.pairs) - len(fewer.pairs)
    assert gone > 0
    assert fewer.skipped == {"pair beyond mismatches_per_match": gone, "pair beyond the size of its split": 0}


def test_too_few_mismatches_are_all_taken_and_reported():
    items = make_catalog(3, families=9)
    made = made_of(items, mismatches_per_match=100, negatives={"random": 0.5})
    for split in SPLITS:
        counts = made.mismatches[split]
        assert counts["random"]["made"] < counts["random"]["wanted"]
        families = made.items[made.items["split"] == split].merge(items, on="id").groupby("family").size().tolist()
        across = sum(families) * (sum(families) - 4) // 2
        assert counts["random"]["made"] == across  # every pair of items of two families: all items are in matches
        assert counts["family"]["made"] == 4 * len(families) < counts["family"]["wanted"]


def test_a_split_without_matches_is_still_refused_and_one_without_family_mismatches_is_not():
    items = make_catalog(4)
    items["facts"] = json.dumps({"pattern": "a"})
    counts = count_pairs(made_of(items, negatives={"family": 0, "random": 1}).pairs)
    assert all(split["0"] == split["1"] > 0 for split in counts.values())


@pytest.mark.parametrize("seed", range(5))
def test_every_split_gets_matches_when_there_are_just_enough(seed):
    items = make_catalog(6, families=63, size=2)
    items["facts"] = json.dumps({"pattern": "a"})
    alone = items["family"].isin([f"f{number}" for number in range(60)])
    items["family"] = items["family"].mask(alone, items["id"])  # three families of two, all others of one
    config = CONFIG.model_copy(update={"validation_share": 0.1, "test_share": 0.2})
    made = made_of(items, seed, config, negatives={"family": 0, "random": 1})
    assert all(split == {"0": 1, "1": 1} for split in count_pairs(made.pairs).values())


def test_near_copies_are_never_a_mismatch():
    items = make_catalog(5, families=30)
    order = items["id"].to_numpy()
    links = np.array([[0, place] for place in range(4, 24, 4)])  # the first six families become one component
    made = made_of(items, near_links=links, negatives={"family": 0, "random": 1}, mismatches_per_match=50)
    tied = set(order[:24])
    across = made.pairs[made.pairs["kind"] == "random item"]
    assert len(across)
    assert not (across["item_a"].isin(tied) & across["item_b"].isin(tied)).any()


def pool_of(items, count=None):
    items = items.sort_values("id", ignore_index=True)
    return Pool(
        component=np.asarray(pd.factorize(items["family"])[0]),
        group=np.zeros(len(items), dtype=np.int64),
        anchors=np.arange(len(items) if count is None else count),
        texts=items["text"].tolist(),
        hashes=np.array([int(text, 16) for text in items["image_hash"]], dtype=np.uint64),
    )


def distances(pool, kind):
    """How far apart all items are; infinite inside a family."""
    if kind == "text":
        vectors = TfidfVectorizer(token_pattern=WORD).fit_transform(pool.texts).toarray()
        apart = 1 - vectors @ vectors.T
    else:
        apart = np.bitwise_count(pool.hashes[:, None] ^ pool.hashes).astype(float)
    return np.where(pool.component[:, None] == pool.component, np.inf, apart)


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_the_nearest_and_the_nearest_come_first(kind, seed):
    pool, settings_ = pool_of(make_catalog(seed)), PairRules().negatives
    none = np.empty(0, dtype=np.int64)
    first, second = pool.places(draw_mismatches(pool, kind, 10_000, none, settings_, np.random.default_rng(seed)))
    apart = distances(pool, kind)
    limit = np.sort(apart, axis=1)[:, settings_.neighbours - 1] + 1e-5
    assert ((apart[first, second] <= limit[first]) | (apart[first, second] <= limit[second])).all()
    chosen = set(zip(first.tolist(), second.tolist(), strict=True))
    for item in pool.anchors:  # each anchor has a partner at the smallest distance there is
        partners = [b if a == item else a for a, b in chosen if item in (a, b)]
        assert min(apart[item, partner] for partner in partners) <= apart[item].min() + 1e-5
    few = len(np.unique(pool.anchors)) // 4
    first, second = pool.places(draw_mismatches(pool, kind, few, none, settings_, np.random.default_rng(seed)))
    nearest = apart.min(axis=1) + 1e-5
    assert ((apart[first, second] <= nearest[first]) | (apart[first, second] <= nearest[second])).all()


@pytest.mark.parametrize("kind", ["text", "image", "random"])
def test_taken_pairs_are_not_drawn_again(kind):
    pool, rules = pool_of(make_catalog(0)), PairRules().negatives
    none = np.empty(0, dtype=np.int64)
    first = draw_mismatches(pool, kind, 50, none, rules, np.random.default_rng(0))
    again = draw_mismatches(pool, kind, 50, first, rules, np.random.default_rng(0))
    assert len(first) == len(again) == 50
    assert not set(first) & set(again)


def test_only_so_many_items_are_compared():
    pool = pool_of(make_catalog(0))
    rules = PairRules(negatives={"text": 1, "compare": 12, "neighbours": 1}).negatives
    codes = draw_mismatches(pool, "text", 1000, np.empty(0, dtype=np.int64), rules, np.random.default_rng(0))
    assert 1 <= len(codes) <= 12


def test_random_items_of_a_large_pool_are_all_different_and_not_of_one_component():
    items = 4000
    pool = Pool(np.arange(items) // 4, np.arange(items) % 8, np.arange(0, items, 2))
    codes = draw_mismatches(
        pool, "random", 3000, np.empty(0, dtype=np.int64), PairRules().negatives, np.random.default_rng(0)
    )
    first, second = pool.places(codes)
    assert len(np.unique(codes)) == 3000
    assert (first < second).all()
    assert ((first % 2 == 0) | (second % 2 == 0)).all()
    assert (first // 4 != second // 4).all()
    assert (first % 8 == second % 8).all()


def test_texts_without_a_word_and_pools_without_a_partner_give_what_there_is():
    items = make_catalog(0, families=3).assign(text="!?")
    pool, none = pool_of(items), np.empty(0, dtype=np.int64)
    assert len(draw_mismatches(pool, "text", 5, none, PairRules().negatives, np.random.default_rng(0))) == 5
    alone = pool_of(make_catalog(0, families=1))
    for kind in ("text", "image", "random"):
        assert not len(draw_mismatches(alone, kind, 5, none, PairRules().negatives, np.random.default_rng(0)))


@given(
    st.integers(0, 500),
    st.integers(0, 500),
    st.integers(1, 600),
    st.sampled_from([None, 0.1, 1, 4]),
    mixes,
)
@settings(max_examples=300, deadline=None)
def test_a_quota_never_asks_for_more_than_there_is_or_has_room(matches, mismatches, cap, ratio, negatives):
    quota = plan_quota(matches, mismatches, PairRules(mismatches_per_match=ratio, negatives=negatives), cap)
    wanted = sum(quota.mismatches.values())
    assert 0 <= quota.matches <= matches
    assert 0 <= quota.mismatches[FAMILY] <= mismatches
    assert all(number >= 0 for number in quota.mismatches.values())
    assert quota.matches + wanted <= cap
    assert 0 <= quota.beyond_ratio <= mismatches - quota.mismatches[FAMILY]
    assert quota.asked >= quota.mismatches[FAMILY]
    if cap > 1 and matches and wanted:
        assert quota.matches >= 1


def test_mismatches_across_families_differ_in_what_must():
    items = make_catalog(0)
    items["facts"] = [
        json.dumps({**json.loads(facts), "vendor": "xyz"[number % 3]}) for number, facts in enumerate(items["facts"])
    ]
    vendor = {item["id"]: json.loads(item["facts"])["vendor"] for item in items.to_dict("records")}
    negatives = {"family": 0, "random": 0.5, "text": 0.5}
    rules = PairRules(decided_by=("pattern",), differ=("vendor",), negatives=negatives)
    given, _ = variation_pairs(items, rule_of(rules, ()))
    made = split_pairs(items, given, CONFIG, 0, rules).pairs
    assert {"random item", "neighbour in text"} <= set(made["kind"])
    assert all(vendor[a] != vendor[b] for a, b in made[["item_a", "item_b"]].to_numpy())
