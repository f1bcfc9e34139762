"""When two values of a catalog are equal, and when a cell holds none."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pair_items import described, items_of

from mlim.catalog.description import load_description
from mlim.catalog.values import MISSING_WORDS, Values, WordCounts, comparable, count_words, normal_form, tidy
from mlim.pairs.audit import audit_leaks, best_rules
from mlim.pairs.components import find_components
from mlim.pairs.labels import MATCH
from mlim.pairs.similarities import attribute_similarities
from mlim.pairs.user_pairs import user_pairs
from mlim.pairs.variation import rule_of, variation_pairs
from mlim.quality.measures import UNTIDY
from mlim.quality.profile import Profile, compare
from mlim.recipe import load_recipe
from mlim.sources.abo import family_of
from mlim.sources.starter import starter_yaml

CATALOG = {"id": "sku", "image": "photo", "family": "product", "text": ["title"]}
RULES = {"decided_by": ["pattern"], "same": ["kind"]}
SAME = [
    ("Striped", "STRIPED "),
    ("navy  blue", "\tNavy\u00a0Blue\u200b"),
    ("\uff21\uff22", "ab"),
    ("caf\u00e9", "cafe\u0301"),
    ("Straße", "STRASSE"),
    ("so\u00adfa", "sofa"),
    ("P1\x00", "p1"),
]
NONE = [
    "",
    " ",
    "\u00a0",
    "\u200b\ufeff",
    "\u2800",
    "NULL",
    " nan",
    "N/A",
    "#N/A",
    "None",
    "\\N",
    "-",
    "\u2014",
    "<NA>",
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_values_that_only_look_different_are_equal(one, other):
    """Point 2: NFKC, blanks of any kind and letter case make no difference."""
    assert comparable(one) == comparable(other) is not None


@pytest.mark.parametrize("value", [*NONE, *MISSING_WORDS])
def test_words_and_blanks_that_mean_no_value(value):
    """Point 2: a declared list of words means "no value"."""
    assert comparable(value) is None


@given(st.text())
@example("N/A")
@example("\u2028 \u00a8A\u0345")
def test_the_form_is_stable_and_what_is_tidied_stays_equal(value):
    for fold in (True, False):
        once = normal_form(value, fold)
        assert normal_form(once, fold) == once
        assert normal_form(tidy(value), fold) == once
        assert normal_form(f" {value} ", fold) == once
    assert comparable(value) == comparable(f" {value}\u00a0")


def test_single_columns_compare_in_their_own_way():
    """Point 2: words and letter case are switched per column; a blank stays no value."""
    values = Values.model_validate(
        {"missing": ["tba", None], "columns": {"brand": {"missing": []}, "code": {"letter_case": "kept"}}}
    )
    assert values.of("colour").comparable("TBA") is values.of("colour").comparable("null") is None
    assert values.of("colour").comparable("NaN") == "nan"
    assert (values.of("brand").comparable("TBA"), values.of("brand").comparable(" ")) == ("tba", None)
    assert (values.of("code").comparable("aB "), values.of("code").comparable("tba")) == ("aB", None)
    assert values.of("brand").missing_word("TBA") is None
    assert values.of("code").missing_word(" TBA ") == "TBA"


def test_a_column_that_is_not_read_cannot_be_described():
    with pytest.raises(ValueError, match=r"values\.columns: no column `patern` is read \(did you mean `pattern`\?\)"):
        described(RULES, CATALOG).model_validate(
            {**described(RULES, CATALOG).model_dump(), "values": {"columns": {"patern": {"missing": []}}}}
        )


def rows_of(*cells):
    names = ("product", "pattern", "kind", "title")
    return [
        {"sku": f"i{number}", "photo": "x.jpg", **dict(zip(names, row, strict=True))}
        for number, row in enumerate(cells)
    ]


def labels_of(description, rows):
    items = items_of(description, rows)
    pairs, skipped = variation_pairs(items, rule_of(description.pairs, description.text_columns, description.values))
    return items, dict(zip(zip(pairs["item_a"], pairs["item_b"], strict=True), pairs["label"], strict=True)), skipped


def test_a_blank_or_a_word_is_no_family_and_equal_families_are_one():
    """Point 2: a family of one blank, `NULL` or `nan` joins nobody; `P1 ` is `P1`."""
    rows = rows_of(
        *[(family, "plain", "bag", "a") for family in (" ", " ", "NULL", "null", "nan", "\u00a0", "P1", "P1 ", "p1")]
    )
    items, labels, skipped = labels_of(described(RULES, CATALOG), rows)
    assert items["family"].tolist()[6:] == ["P1"] * 3
    assert items["family"].isna().tolist() == [True] * 6 + [False] * 3
    assert labels == dict.fromkeys([("i6", "i7"), ("i6", "i8"), ("i7", "i8")], MATCH)
    assert skipped["no family"] == 6
    none = pd.DataFrame({"item_a": [], "item_b": []})
    assert find_components(items, none).tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 6]


def test_letter_case_decides_nothing_and_a_missing_value_is_not_compared():
    """Point 2: `Striped` and ` STRIPED` match; `N/A` neither matches nor mismatches."""
    rows = rows_of(
        *[("p", pattern, kind, "a") for pattern, kind in (("Striped", "bag"), (" STRIPED", "Bag "), ("dots", "bag"))],
        *[("p", "N/A", "bag", "a"), ("p", "NULL", "bag", "a"), ("p", "dots", "nan", "a")],
    )
    _, labels, skipped = labels_of(described(RULES, CATALOG), rows)
    assert labels == {("i0", "i1"): 1, ("i0", "i2"): 0, ("i1", "i2"): 0}
    assert skipped["empty value"] == 3


def test_a_column_may_keep_its_words_and_letter_case():
    values = {"columns": {"pattern": {"missing": [], "letter_case": "kept"}, "product": {"missing": []}}}
    plain = described(RULES, CATALOG)
    description = plain.model_validate({**plain.model_dump(), "values": values})
    rows = rows_of(*[("NA", pattern, "bag", "a") for pattern in ("None", "none", "None")])
    items, labels, _ = labels_of(description, rows)
    assert set(items["family"]) == {"NA"}
    assert labels == {("i0", "i1"): 0, ("i0", "i2"): 1, ("i1", "i2"): 0}


def test_what_must_agree_is_compared_in_the_same_way():
    rules = {"decided_by": ["pattern"], "may_vary": []}
    rows = rows_of(*[("p", "dots", "bag", title) for title in ("Big  Bag", "big bag", "small bag")])
    _, labels, _ = labels_of(described(rules, CATALOG), rows)
    assert labels == {("i0", "i1"): 1}


def leaking_pairs(titles):
    """Pairs of two items each: in every second one the titles are equal but for letter case, and only those match."""
    items = pd.DataFrame(
        [
            {
                "id": f"{pair:02d}{side}",
                "text": titles(pair, side),
                "attributes": json.dumps({"title": titles(pair, side)}),
                "image_sha256": f"{pair}{side}",
                "image_hash": f"{pair * 2 + side:016x}",
            }
            for pair in range(60)
            for side in (0, 1)
        ]
    )
    split = ["train", "validation", "test"]
    pairs = pd.DataFrame(
        {
            "item_a": [f"{pair:02d}0" for pair in range(60)],
            "item_b": [f"{pair:02d}1" for pair in range(60)],
            "label": [pair // 3 % 2 for pair in range(60)],
            "split": [split[pair % 3] for pair in range(60)],
        }
    )
    return pairs, items


def test_the_leak_audit_knows_values_that_only_look_different():
    """Point 2: an answer that stands in the text in another letter case leaks."""

    def titles(pair, side):
        name = f"thing {pair}" if pair // 3 % 2 else f"thing {pair}.{side}"
        return name.upper() if side else name

    pairs, items = leaking_pairs(titles)
    found = {entry["rule"]: entry for entry in audit_leaks(pairs, items, load_recipe("demo").pairs, 0)}
    assert found["`title` is equal"]["accuracy"] == found["text is equal"]["accuracy"] == 1
    assert found["`title` is equal"]["leaks"]
    assert best_rules(pairs, items)["test"].solved == 1


def test_attributes_that_say_null_are_missing_for_the_baselines():
    found = attribute_similarities(
        [{"colour": "NULL"}, {"colour": "null"}, {"colour": "Red"}, {"colour": "red "}],
        pd.Series([0, 2]).to_numpy(),
        pd.Series([1, 3]).to_numpy(),
    )
    assert found["missing:colour"].tolist() == [2, 0]
    assert found["equal:colour"][1] == 1


def test_ids_of_labelled_pairs_may_have_blanks_around_them():
    table = pd.DataFrame({"item_a": ["a\u00a0"], "item_b": [" b"], "label": ["1 "]})
    pairs, _ = user_pairs(table, "pairs.csv", {"a", "b"}, set())
    assert pairs[["item_a", "item_b", "label"]].to_numpy().tolist() == [["a", "b", 1]]


@pytest.mark.parametrize("identity", ["\u00a0a", "a\u3000", "a\u200b", "\ufeffa", "a\u2060b", "a\u0085"])
def test_untidy_ids_are_found_whatever_the_blank(identity):
    """Point 2: the untidy-id check knows Unicode's blanks."""
    assert pc.match_substring_regex(pa.array([identity]), UNTIDY).to_pylist() == [True]


def test_tidy_ids_of_any_script_are_fine():
    assert not any(pc.match_substring_regex(pa.array(["a b", "Größe-1", "寿司", "کتاب‌خانه"]), UNTIDY).to_pylist())


def test_categories_written_otherwise_are_no_drift():
    def profile(*categories):
        histograms = dict.fromkeys(("text", "brightness", "contrast", "aspect"), (1,))
        return Profile(items=2, categories=categories, histograms=histograms)

    [category, *_] = compare(profile(("Bags", 9), (None, 1)), profile(("bags ", 5), ("BAGS", 4), ("n/a", 1)))
    assert (category.measure, category.jensen_shannon) == ("category", 0)


def test_families_of_listings_are_compared_in_the_same_way():
    assert family_of(["Acme", "N/A", "lamp"]) == ""
    assert family_of(["Acme\u00a0", "X 1", "lamp"]) == family_of(["ACME", "x  1", "lamp"]) != ""


def test_words_are_counted_by_column():
    words = WordCounts({("b", "-"): 1, ("a", "na"): 2, ("a", "NULL"): 5})
    assert count_words(words) == {"a": {"NULL": 5, "na": 2}, "b": {"-": 1}}


def test_init_warns_of_words_and_does_not_take_them_for_variation(tmp_path):
    """Point 2: `init` counts the words, leaves them out of its guesses, and says how to make them values."""
    rows = [
        {
            "sku": f"A{number}",
            "photo": f"{number}.jpg",
            "product_id": ["NULL", f"P{number // 4}"][number > 3],
            "title": f"Lamp number {number}",
            "finish": "n/a" if number % 2 else ["matt", "gloss"][number // 12],
            "colour": ["red", "Blue", "RED", "blue"][number % 4],
        }
        for number in range(24)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "shop.csv", index=False)
    warned = []
    text = starter_yaml(tmp_path / "shop.csv", warn=warned.append)
    assert [sentence.partition(" says")[0] for sentence in warned] == ["the column `finish`", "the column `product_id`"]
    assert '#     product_id: {missing: []}  # 4 x "NULL"' in text
    assert "# decided_by: [colour]" in text
    assert "# same: [finish]" in text
    uncommented = text.replace("# values:", "values:").replace("#   columns:", "  columns:").replace("#     ", "    ")
    (tmp_path / "catalog.yaml").write_text(uncommented)
    assert yaml.safe_load(uncommented)["values"]["columns"]["finish"] == {"missing": []}
    assert load_description(tmp_path / "catalog.yaml").values.of("finish").comparable("n/a") == "n/a"
