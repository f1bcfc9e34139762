"""Pairs: labels by the type of variation, splits without leaks, the user's own pairs, and the audit."""

import json
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.catalog.pair_rules import PairRules
from mlim.errors import DataError, InputError
from mlim.pairs.choose import choose_given
from mlim.pairs.components import find_components
from mlim.pairs.labels import SPLITS
from mlim.pairs.split_assignment import assign_splits
from mlim.pairs.splits import count_pairs, directed, pairs_sha256, split_pairs
from mlim.pairs.user_pairs import user_pairs
from mlim.pairs.variation import VariationRule, variation_pairs
from mlim.recipe import PairsConfig

RULE = VariationRule(label_columns=("pattern", "size"), same=("kind",), max_family_size=4)
CONFIG = PairsConfig(
    validation_share=0.2,
    test_share=0.3,
    max_train=1000,
    max_validation=1000,
    max_test=1000,
    near_duplicate_bits=None,
    leak_limit=0.9,
    audit_pairs=1000,
)


def make_items(rows: Sequence[tuple[str, str | None, dict[str, str], str]]) -> pd.DataFrame:
    """Items from (id, family, facts, hash of the picture); the text attributes are the facts."""
    return pd.DataFrame(
        {
            "id": [row[0] for row in rows],
            "family": pd.Series([row[1] for row in rows], dtype="str"),
            "facts": [json.dumps(row[2]) for row in rows],
            "attributes": [json.dumps(row[2]) for row in rows],
            "text": [" ".join(row[2].values()) for row in rows],
            "image_sha256": [row[3] for row in rows],
        }
    )


def many_families(families: int = 30, size: int = 4) -> pd.DataFrame:
    """Families whose items alternate between two patterns."""
    return make_items(
        [
            (f"{family:03d}-{member}", f"f{family}", facts(pattern="ab"[member % 2]), f"{family}-{member}")
            for family in range(families)
            for member in range(size)
        ]
    )


def facts(pattern: str = "plain", size: str = "S", kind: str = "top") -> dict[str, str]:
    return {"pattern": pattern, "size": size, "kind": kind}


catalogs = st.lists(
    st.tuples(
        st.one_of(st.none(), st.sampled_from("ABCDEFGH")),
        st.builds(
            facts, st.sampled_from(["plain", "dots", ""]), st.sampled_from("SM"), st.sampled_from(["top", "bag"])
        ),
        st.integers(0, 30).map(str),
    ),
    min_size=1,
    max_size=40,
).map(lambda rows: make_items([(f"i{number:02d}", *row) for number, row in enumerate(rows)]))


@given(catalogs)
@settings(max_examples=25, deadline=None)
def test_every_pair_follows_the_rule_and_none_is_missing(items):
    pairs, skipped = variation_pairs(items, RULE)
    known = {item["id"]: item for item in items.to_dict("records")}
    sizes = items["family"].value_counts()
    expected = {}
    for first, second in combinations(sorted(known), 2):
        one, two = (json.loads(known[item]["facts"]) for item in (first, second))
        family = known[first]["family"]
        together = isinstance(family, str) and family == known[second]["family"] and sizes[family] <= 4
        if together and all(one.values()) and all(two.values()) and one["kind"] == two["kind"]:
            expected[first, second] = int(one["pattern"] == two["pattern"] and one["size"] == two["size"])
    assert dict(zip(zip(pairs["item_a"], pairs["item_b"], strict=True), pairs["label"], strict=True)) == expected
    assert not pairs.duplicated(["item_a", "item_b"]).any()
    assert skipped["no family"] == items["family"].isna().sum()


def test_the_kind_says_what_varies():
    items = make_items(
        [
            ("a", "f", facts(), "1"),
            ("b", "f", facts(), "2"),
            ("c", "f", facts("dots"), "3"),
            ("d", "f", facts("x", "M"), "4"),
        ]
    )
    pairs, _ = variation_pairs(items, RULE)
    kinds = {first + second: kind for first, second, kind in pairs[["item_a", "item_b", "kind"]].to_numpy()}
    assert kinds["ab"] == "same pattern and size"
    assert kinds["ac"] == "pattern differs"
    assert kinds["ad"] == "pattern and size differ"


def test_what_is_skipped_is_counted():
    items = make_items(
        [("a", None, facts(), "1"), ("b", "f", facts(""), "2"), ("c", "f", facts(), "3")]
        + [(f"l{number}", "large", facts(), f"l{number}") for number in range(5)]
    )
    pairs, skipped = variation_pairs(items, RULE)
    assert pairs.empty
    counts = {reason: count for reason, count in skipped.items() if count}
    assert counts == {"no family": 1, "family too large": 5, "empty value": 1}


def test_a_column_of_the_users_may_have_any_name():
    items = make_items([("a", "f", {"id": "x", "label": "1"}, "1"), ("b", "f", {"id": "x", "label": "2"}, "2")])
    pairs, _ = variation_pairs(items, VariationRule(("id",), (), 8))
    assert pairs.iloc[0][["label", "kind"]].tolist() == [1, "same id"]


@given(catalogs, st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_components_join_families_pictures_and_pairs(items, seed):
    generator = np.random.default_rng(seed)
    extra = pd.DataFrame({"item_a": generator.choice(items["id"], 3), "item_b": generator.choice(items["id"], 3)})
    component = pd.Series(find_components(items, extra), index=items["id"])
    for column in ("family", "image_sha256"):
        assert (component.groupby(items[column].to_numpy()).nunique() == 1).all()
    assert (component[extra["item_a"]].to_numpy() == component[extra["item_b"]].to_numpy()).all()
    assert component.iloc[0] == 0
    assert set(component) == set(range(component.max() + 1))


def test_items_that_share_nothing_are_their_own_components():
    items = make_items([(name, None, facts(), name) for name in "abc"])
    assert find_components(items, pd.DataFrame({"item_a": [], "item_b": []}, dtype="str")).tolist() == [0, 1, 2]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.integers(0, 100))
@settings(max_examples=200, deadline=None)
def test_every_split_gets_both_labels_when_it_can_and_its_share_of_the_components(evidence, seed):
    shares = [0.5, 0.2, 0.3]
    evidence = np.array(evidence)
    assigned = assign_splits(evidence, shares, seed)
    both = int(evidence.all(axis=1).sum())
    single = [int((evidence[:, 0] & ~evidence[:, 1]).sum()), int((~evidence[:, 0] & evidence[:, 1]).sum())]
    if both + min(single) >= 3:
        assert all(evidence[assigned == split].any(axis=0).all() for split in range(3))
    if len(evidence) >= 20:  # each split first gets one or two components, whatever its share
        assert np.abs(np.bincount(assigned, minlength=3) - len(evidence) * np.array(shares)).max() <= 2


@given(catalogs, st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_nothing_is_on_both_sides_of_a_split(items, seed):
    items = pd.concat([items, many_families(8).assign(family=lambda frame: "x" + frame["family"])], ignore_index=True)
    pairs, _ = variation_pairs(items, RULE)
    made = split_pairs(items, pairs, CONFIG, seed)
    joined = made.items.merge(items, on="id")
    for column in ("component", "family", "image_sha256"):
        assert (joined.groupby(column)["split"].nunique() <= 1).all()
    split = made.items.set_index("id")["split"]
    assert (split[made.pairs["item_a"]].to_numpy() == made.pairs["split"].to_numpy()).all()
    assert (split[made.pairs["item_b"]].to_numpy() == made.pairs["split"].to_numpy()).all()
    assert all(count > 0 for counts in count_pairs(made.pairs).values() for count in counts.values())


def test_the_same_seed_gives_the_same_split_whatever_the_order_of_the_rows():
    items = many_families()
    shuffled = items.sample(frac=1, random_state=1)
    one, two, other = (
        split_pairs(frame, variation_pairs(frame, RULE)[0], CONFIG, seed)
        for frame, seed in ((items, 0), (shuffled, 0), (items, 1))
    )
    pd.testing.assert_frame_equal(one.items, two.items)
    pd.testing.assert_frame_equal(one.pairs, two.pairs)
    assert pairs_sha256(one.pairs) == pairs_sha256(two.pairs) != pairs_sha256(other.pairs)


@pytest.mark.parametrize(
    ("varied", "label", "splits"),
    [
        (lambda family: False, "mismatching", SPLITS),
        (lambda family: True, "matching", SPLITS),
        (lambda family: family == 0, "mismatching", ("validation", "test")),
        (lambda family: family != 0, "matching", ("validation", "test")),
    ],
    ids=["no mismatch", "no match", "one mismatch", "one match"],
)
def test_a_split_without_a_label_is_refused(varied, label, splits):
    items = make_items(
        [
            (f"{family}{member}", f"f{family}", facts("ab"[member] if varied(family) else "a"), f"{family}{member}")
            for family in range(9)
            for member in range(2)
        ]
    )
    with pytest.raises(DataError) as caught:
        split_pairs(items, variation_pairs(items, RULE)[0], CONFIG, 0)
    named = "; ".join(f"the {split} split has no {label} pairs" for split in splits)
    assert str(caught.value).startswith(f"{named} (9 pairs in all)")
    assert caught.value.exit_code == 2


@given(st.integers(2, 50), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_caps_keep_the_share_of_matches(cap, seed):
    label = np.array([1] * 60 + [0] * 30, dtype=np.int8)
    pairs = pd.DataFrame({"split": "train", "label": label, "item_a": range(90)})
    chosen = choose_given(pairs, dict.fromkeys(SPLITS, cap), PairRules(), seed)
    kept = chosen.pairs
    assert len(kept) == cap == 90 - chosen.beyond_cap
    assert abs(kept["label"].sum() - cap * 2 / 3) <= 1
    assert kept["label"].nunique() == 2
    assert kept["item_a"].is_unique
    assert kept.equals(choose_given(pairs, dict.fromkeys(SPLITS, cap), PairRules(), seed).pairs)


@given(catalogs, st.integers(1, 5), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_a_family_has_at_most_so_many_pairs_and_what_goes_is_counted(items, cap, seed):
    everything, _ = variation_pairs(items, RULE)
    capped = VariationRule(("pattern", "size"), ("kind",), 4, max_pairs=cap)
    pairs, skipped = variation_pairs(items, capped, seed)
    family = items.set_index("id")["family"]
    by_family = everything.groupby(family[everything["item_a"]].to_numpy()).size()
    kept = pairs.groupby(family[pairs["item_a"]].to_numpy()).size()
    pd.testing.assert_series_equal(kept, by_family.clip(upper=cap))
    assert skipped["pair beyond max_pairs_per_family"] == len(everything) - len(pairs)
    assert len(everything.merge(pairs)) == len(pairs)
    shuffled = items.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(pairs, variation_pairs(shuffled, capped, seed)[0])


def test_a_family_cap_keeps_both_labels():
    items = many_families(families=5, size=4)
    pairs, _ = variation_pairs(items, VariationRule(("pattern",), (), 8, max_pairs=3))
    assert len(pairs) == 15
    assert (pairs.groupby(pairs["item_a"].str[:3])["label"].sum() == 1).all()  # 2 of 6 pairs match


@given(catalogs)
@settings(max_examples=25, deadline=None)
def test_only_what_may_vary_differs_and_two_empty_values_agree(items):
    known = {item["id"]: json.loads(item["attributes"]) for item in items.to_dict("records")}
    strict, skipped = variation_pairs(items, VariationRule(("size",), (), 40, agree=("pattern",)))
    loose, _ = variation_pairs(items, VariationRule(("size",), (), 40))
    agreeing = [known[a]["pattern"] == known[b]["pattern"] for a, b in loose[["item_a", "item_b"]].to_numpy()]
    pd.testing.assert_frame_equal(strict, loose[np.array(agreeing, dtype=bool)].reset_index(drop=True))
    assert skipped["pair differs in what must agree"] == len(loose) - len(strict)


@given(catalogs)
@settings(max_examples=30, deadline=None)
def test_only_items_that_differ_in_every_such_column_are_compared(items):
    known = {item["id"]: json.loads(item["facts"]) for item in items.to_dict("records")}
    strict, skipped = variation_pairs(items, VariationRule(("size",), (), 40, differ=("pattern",)))
    loose, _ = variation_pairs(items, VariationRule(("size",), (), 40))
    values = [(known[a]["pattern"], known[b]["pattern"]) for a, b in loose[["item_a", "item_b"]].to_numpy()]
    apart = np.array([all(pair) and pair[0] != pair[1] for pair in values], dtype=bool)
    pd.testing.assert_frame_equal(strict, loose[apart].reset_index(drop=True))
    assert skipped["pair agrees in what must differ"] >= 0


@given(catalogs, st.sampled_from([1.0, 2.0]))
@settings(max_examples=30, deadline=None)
def test_a_balanced_family_has_its_mismatches_to_a_match(items, balance):
    everything, _ = variation_pairs(items, RULE)
    rule = VariationRule(("pattern", "size"), ("kind",), 4, balance=balance)
    pairs, skipped = variation_pairs(items, rule)
    family = items.set_index("id")["family"]
    assert (
        len(everything.merge(pairs)) == len(pairs) == len(everything) - skipped["pair beyond the balance of its family"]
    )
    for name, whole in everything.groupby(family[everything["item_a"]].to_numpy()):
        matches = int(whole["label"].sum())
        expected = min(matches, int((len(whole) - matches) / balance))
        kept = pairs[family[pairs["item_a"]].to_numpy() == name]["label"]
        assert (kept.sum(), len(kept)) == (expected, expected * (1 + balance))


def test_near_copies_stay_in_one_component_whatever_the_order_of_the_rows():
    items = many_families(12, 4)
    order = np.random.default_rng(0).permutation(len(items))
    links = np.array([[0, 4], [4, 47]])
    moved = np.argsort(order)[links]
    pairs, _ = variation_pairs(items, RULE)
    one = split_pairs(items, pairs, CONFIG, 0, near_links=links)
    other = split_pairs(items.iloc[order], pairs, CONFIG, 0, near_links=moved)
    pd.testing.assert_frame_equal(one.items, other.items)
    component = one.items.set_index("id")["component"]
    assert component["000-0"] == component["001-0"] == component["011-3"]
    assert component.nunique() == 10


def test_both_directions_hold_each_pair_and_the_same_turned_within_the_caps():
    items = many_families(20)
    pairs, _ = variation_pairs(items, RULE)
    config = CONFIG.model_copy(update={"max_train": 31})
    made = split_pairs(items, pairs, config, 0, PairRules(directions="both"))
    both = directed(made.pairs, "both")
    assert directed(made.pairs, "one").equals(made.pairs)
    turned = both.rename(columns={"item_a": "item_b", "item_b": "item_a"})
    columns = ["item_a", "item_b", "label", "split", "kind"]
    pd.testing.assert_frame_equal(both[columns], turned[columns].sort_values(["item_a", "item_b"], ignore_index=True))
    assert not both.duplicated(["item_a", "item_b"]).any()
    assert count_pairs(both)["train"] == {label: 2 * n for label, n in count_pairs(made.pairs)["train"].items()}
    assert sum(count_pairs(both)["train"].values()) == 30


def labelled(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["item_a", "item_b", "label"], dtype="str")


def test_labelled_pairs_are_ordered_unique_and_free_of_quarantined_items():
    table = labelled(("b", "a", "1"), ("a", "b", " 1"), ("c", "a", "0"), ("a", "bad", "1"))
    pairs, skipped = user_pairs(table, "mine.csv", {"a", "b", "c"}, {"bad"})
    assert pairs[["item_a", "item_b", "label"]].to_numpy().tolist() == [["a", "b", 1], ["a", "c", 0]]
    assert skipped == {"repeated pair": 1, "quarantined item": 1}


def test_all_problems_of_labelled_pairs_are_reported_at_once():
    table = labelled(("a", "zz", "1"), ("a", "b", "yes"), ("a", "a", "1"), ("a", "c", "1"), ("c", "a", "0"))
    with pytest.raises(InputError) as caught:
        user_pairs(table, "mine.csv", {"a", "b", "c"}, set())
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "row 1: item_b `zz` is no item of the catalog",
        "row 2: label `yes` is neither 1 (match) nor 0 (mismatch)",
        "row 3: `a` is paired with itself",
        "row 5: `c` and `a` have label 0 here and 1 in row 4",
    ]


def test_ids_that_lost_their_zeros_are_named_with_those_of_the_catalog():
    table = labelled(("0", "7", "1"), ("0042", "x", "0"))
    with pytest.raises(InputError) as caught:
        user_pairs(table, "mine.csv", {"000000", "007", "0007", "00042", "x"}, set())
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "row 1: item_a `0` is no item of the catalog, but `000000` is; a spreadsheet removes leading zeros: read the "
        "column as text there",
        "row 1: item_b `7` is no item of the catalog",  # two items may be meant
        "row 2: item_a `0042` is no item of the catalog, but `00042` is; a spreadsheet removes leading zeros: read the "
        "column as text there",
    ]


def test_labels_that_pandas_made_decimals_are_read():
    table = labelled(("a", "b", "1.0"), ("a", "c", "0.0"), ("c", "a", "0"))
    pairs, _ = user_pairs(table, "mine.csv", {"a", "b", "c"}, set())
    assert pairs["label"].tolist() == [1, 0]
    with pytest.raises(InputError, match=r"label `1\.5` is neither"):
        user_pairs(labelled(("a", "b", "1.5")), "mine.csv", {"a", "b"}, set())


def test_a_long_list_of_problems_is_cut():
    table = labelled(*[("a", f"unknown{number}", "1") for number in range(100)])
    with pytest.raises(InputError) as caught:
        user_pairs(table, "mine.csv", {"a"}, set())
    assert len(caught.value.problems) == 21
    assert "and 80 more" in caught.value.problems[-1]


def test_labelled_pairs_hold_items_together_across_families():
    items = make_items([(f"i{number:02d}", None, facts(), str(number)) for number in range(40)])
    table = labelled(*[(f"i{n:02d}", f"i{n + 1:02d}", "01"[n // 2 % 2]) for n in range(0, 40, 2)])
    pairs, _ = user_pairs(table, "mine.csv", set(items["id"]), set())
    made = split_pairs(items, pairs, CONFIG, 0)
    split = made.items.set_index("id")["split"]
    assert (split[made.pairs["item_a"]].to_numpy() == split[made.pairs["item_b"]].to_numpy()).all()
    assert len(made.pairs) == 20


def test_the_fingerprint_depends_on_test_pairs_and_labels_only():
    made = split_pairs(many_families(), variation_pairs(many_families(), RULE)[0], CONFIG, 0).pairs
    train = made["split"] == "train"
    assert pairs_sha256(made[~train]) == pairs_sha256(made.sample(frac=1, random_state=0))
    assert pairs_sha256(made.assign(label=1 - made["label"])) != pairs_sha256(made)


DRAWN = ", or draw mismatches of other families with `negatives: {family: 0, text: 0.5, image: 0.5}`"
MORE = ", or other pairs.validation_share and pairs.test_share"


@pytest.mark.parametrize(
    ("rules", "labels", "advice"),
    [
        (
            {"decided_by": ["size"]},
            {1},
            "`size` never differs between compared items of one family: let another column decide",
        ),
        ({"decided_by": ["size"]}, {1}, f"(pairs.decided_by){DRAWN}"),
        ({"decided_by": ["size"]}, {0}, "`size` is never equal between compared items of one family"),
        (
            {"decided_by": ["size", "cut"]},
            {0},
            "`size` and `cut` are never all equal between compared items of one family",
        ),
        ({"labelled": "p.csv"}, {1}, f"all pairs of p.csv have the label 1: add pairs with the label 0{DRAWN}"),
        ({"labelled": "p.csv"}, {0}, "all pairs of p.csv have the label 0: add pairs with the label 1"),
        ({"labelled": "p.csv"}, {0, 1}, f"label more pairs in p.csv{MORE}"),
        ({"decided_by": ["size"]}, {0, 1}, f"give more families whose items vary in both ways{MORE}"),
    ],
)
def test_a_split_without_a_label_is_answered_with_what_gives_it(rules, labels, advice):
    """The sentence names the column or the table, and mismatches of other families where matches alone are there."""
    items = make_items([(f"i{number:02}", None, facts("a"), str(number)) for number in range(8)])
    ids = items["id"].tolist()
    given = [labels] if len(labels) == 1 else [{0}, {1}]
    candidates = pd.DataFrame(
        [(ids[2 * n], ids[2 * n + 1], *given[n % len(given)], "given") for n in range(2)],
        columns=["item_a", "item_b", "label", "kind"],
    )
    with pytest.raises(DataError) as caught:
        split_pairs(items, candidates, CONFIG, 0, PairRules.model_validate(rules))
    assert advice in str(caught.value)
    assert (DRAWN in str(caught.value)) is (labels == {1})
