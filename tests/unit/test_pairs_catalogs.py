"""The language of pairs on whole catalogs: the embedded one, a real one, rows as of Amazon's, and the examples."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pair_items import described, embedded, items_of

from mlim.catalog.defaults import describe_abo
from mlim.catalog.description import load_description
from mlim.catalog.values import DEFAULT
from mlim.console import Terminal
from mlim.errors import DataError
from mlim.files import read_json
from mlim.pairs.audit import audit_leaks
from mlim.pairs.labels import MATCH, SPLITS
from mlim.pairs.splits import count_pairs, directed, split_pairs
from mlim.pairs.variation import rule_of, variation_pairs
from mlim.quality.near_duplicates import near_duplicate_links
from mlim.recipe import load_recipe
from mlim.steps.pairs import make_pairs

ROOT = Path(__file__).resolve().parents[2]
CONFIG = load_recipe("paper").pairs
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8"), re.DOTALL)
ACROSS = ("neighbour in text", "neighbour in image", "random item")


def made_of(description, items, config=CONFIG, seed=0):
    candidates, skipped = variation_pairs(items, rule_of(description.pairs, description.text_columns), seed)
    links = near_duplicate_links(items["image_hash"].tolist(), 0)
    return split_pairs(items, candidates, config, seed, description.pairs, links), skipped


def check(description, items, made):
    """What holds for every catalog: splits are safe, labels follow the rule, and nothing hidden is read."""
    rules, known = description.pairs, items.set_index("id").join(made.items.set_index("id"))
    for column in ("family", "image_sha256", "image_hash", "component"):
        assert (known.groupby(column)["split"].nunique() == 1).all()
    for pair in made.pairs.to_dict("records"):
        one, other = known.loc[pair["item_a"]], known.loc[pair["item_b"]]
        assert one["split"] == other["split"] == pair["split"]
        both = [{**json.loads(item["attributes"]), **json.loads(item["facts"])} for item in (one, other)]
        compared = [{column: DEFAULT.comparable(value) for column, value in one.items()} for one in both]
        agree = {column: compared[0][column] == compared[1][column] for column in compared[0]}
        if pair["kind"] in ACROSS:
            assert one["family"] != other["family"]
            assert all(agree[column] for column in rules.negatives.same)
            assert pair["label"] != MATCH
        else:
            assert one["family"] == other["family"]
            assert pair["label"] == int(all(agree[column] for column in rules.decided_by))
            assert all(agree[column] for column in (*rules.same, *rules.must_agree(description.text_columns)))
    assert all(count > 0 for split in count_pairs(made.pairs).values() for count in split.values())


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_of_the_documentation_does_what_it_says(example):
    description, items = embedded(yaml.safe_load(example)["pairs"], 800)
    made, _ = made_of(description, items)
    check(description, items, made)
    rules = description.pairs
    if rules.mismatches_per_match is not None:
        for split, counts in count_pairs(made.pairs).items():
            wanted = rules.mismatches_per_match * counts["1"]
            missing = sum(kind["wanted"] - kind["made"] for kind in made.mismatches[split].values())
            assert abs(counts["0"] + missing - wanted) <= 1
    if rules.max_pairs_per_family is not None:
        family = items.set_index("id")["family"]
        assert made.pairs.groupby(family[made.pairs["item_a"]].to_numpy()).size().max() <= rules.max_pairs_per_family
    assert len(directed(made.pairs, rules.directions)) == len(made.pairs) * (2 if rules.directions == "both" else 1)


def test_the_examples_are_there():
    assert len(EXAMPLES) == 6
    assert all(set(yaml.safe_load(example)) == {"pairs"} for example in EXAMPLES)


@pytest.mark.slow
def test_a_million_items_can_be_paired():
    count = 1_000_000
    generator = np.random.default_rng(0)
    items = pd.DataFrame(
        {
            "id": [f"p{number:07d}" for number in generator.permutation(count)],
            "family": pd.Series([f"f{number // 4}" for number in range(count)], dtype="str"),
            "facts": [json.dumps({"pattern": f"p{number}"}) for number in generator.integers(0, 3, count)],
            "image_sha256": [f"{number:064x}" for number in range(count)],
            "image_hash": [f"{number:016x}" for number in generator.integers(0, 2**63, count)],
        }
    )
    description = described({"decided_by": ["pattern"]}, {"id": "id", "image": "i", "family": "f", "text": ["t"]})
    made, _ = made_of(description, items)
    assert len(made.items) == count
    assert {split: sum(labels.values()) for split, labels in count_pairs(made.pairs).items()} == {
        "train": 30_000,
        "validation": 2_000,
        "test": 10_000,
    }


ABO_ROWS = [
    {
        "key": f"B{family:03d}{member}@amazon.com",
        "image": f"{family}/{member}.jpg",
        "family": f"brand {family} / model / SHOES" if family % 7 else "",
        "product_type": "SHOES",
        "brand": f"brand {family}",
        "bullet_point": f"sole {family % 5}; lace {member}",
        "color_standard": "" if member == 4 else ("Red", "Blue")[member // 2 % 2],
        "color_language": "de_DE" if member == 3 else "en_US",
    }
    for family in range(40)
    for member in range(5)
]


@pytest.mark.parametrize("negatives", [{}, {"text": 0.3, "random": 0.2}], ids=["families", "mixed"])
def test_rows_as_of_amazons_catalog(negatives):
    known = describe_abo()
    description = described({**known["pairs"], "negatives": negatives}, known["columns"])
    items = items_of(description, [dict.fromkeys(description.needed_columns, "") | row for row in ABO_ROWS])
    made, skipped = made_of(description, items)
    check(description, items, made)
    assert skipped["no family"] == 6 * 5
    assert skipped["empty value"] == 34  # one listing of each family has no standardised colour
    assert skipped["pair differs in what must agree"] == 34 * 3  # and one names it in German
    inside = made.pairs[~made.pairs["kind"].isin(ACROSS)]
    assert set(inside["kind"]) == {"same color standard", "color standard differs"}
    assert len(inside) == 34 * 3


@pytest.fixture(scope="module")
def fashion():
    folder = os.environ.get("MLIM_HM_FASHION", "")
    if not folder or not (Path(folder) / "catalog.csv").is_file():
        pytest.skip("MLIM_HM_FASHION does not name a folder with catalog.csv")
    return pd.read_csv(Path(folder) / "catalog.csv", dtype="str", keep_default_na=False).to_dict("records")


def fashion_catalog(rows, **pairs):
    described_ = load_description(ROOT / "catalogs" / "hm_fashion.yaml")
    rules = described_.pairs.model_validate({**described_.pairs.model_dump(exclude_unset=True), **pairs})
    description = described_.model_copy(update={"pairs": rules})
    return description, items_of(description, rows)


def test_the_real_catalog_gives_the_known_pairs_and_no_rule_solves_them(fashion):
    description, items = fashion_catalog(fashion)
    made, skipped = made_of(description, items)
    # one more than by comparing strings: the type is spelled “Dog wear” and “Dog Wear”
    assert made.pairs["label"].value_counts().to_dict() == {1: 5463, 0: 2411}
    assert skipped["family too large"] == 773
    audit = audit_leaks(made.pairs, items, CONFIG, 0)
    assert not any(entry["leaks"] for entry in audit)
    assert {entry["rule"] for entry in audit} >= {"bag of words", "boosted trees"}


def test_mismatches_of_other_products_would_leak_on_the_real_catalog(fashion):
    """Why the catalog's own description takes them from families only: the description is the same in a product."""
    negatives = {"family": 0, "random": 1, "same": ["product_type_name"]}
    description, items = fashion_catalog(fashion, negatives=negatives)
    made, _ = made_of(description, items)
    leaking = [entry["rule"] for entry in audit_leaks(made.pairs, items, CONFIG, 0) if entry["leaks"]]
    assert "`detail_desc` is equal" in leaking
    assert "boosted trees" in leaking


@pytest.mark.parametrize(
    "pairs",
    [
        {"mismatches_per_match": 0.5, "negatives": {"text": 0.3, "image": 0.2, "random": 0.1, "compare": 1000}},
        {"may_vary": ["colour_group_name", "perceived_colour_value_name"], "max_pairs_per_family": 5},
    ],
    ids=["mixed", "only the colour"],
)
def test_the_real_catalog_with_other_rules(fashion, pairs):
    description, items = fashion_catalog(fashion, **pairs)
    made, _ = made_of(description, items)
    check(description, items, made)
    for split in SPLITS:
        assert all(kind["wanted"] == kind["made"] for kind in made.mismatches[split].values())


CATALOG = """
table: none.csv
images: .
columns: {id: id, image: image, family: family, text: [kind, colour]}
pairs: {decided_by: [pattern], mismatches_per_match: 1, negatives: {random: 0.5}, directions: both}
"""


def show_near_copies(workspace):
    """Items of four families show nearly the same picture."""
    index = workspace.valid / "index.parquet"
    items = pq.read_table(index).to_pandas()
    items.loc[items["family"].isin([f"family-{number}" for number in range(4)]), "image_hash"] = "8" * 16
    pq.write_table(pa.Table.from_pandas(items, preserve_index=False), index)


def test_the_step_writes_both_directions_the_audit_and_what_was_left_out(tiny_recipe, own_workspace, tmp_path, capfd):
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    show_near_copies(own_workspace)
    untied = {"pairs": tiny_recipe.pairs.model_copy(update={"near_duplicate_bits": None})}
    summary = make_pairs(tiny_recipe.model_copy(update=untied), catalog, own_workspace, Terminal())
    assert summary["largest_component"] == 4
    pairs = pq.read_table(own_workspace.pairs / "pairs.parquet").to_pandas()
    turned = pairs.rename(columns={"item_a": "item_b", "item_b": "item_a"}).sort_values(["item_a", "item_b"])
    assert (
        pairs[["item_a", "item_b", "label"]].to_numpy().tolist()
        == turned[["item_a", "item_b", "label"]].to_numpy().tolist()
    )
    assert summary == read_json(own_workspace.pairs / "summary.json")
    assert summary["pairs"] == len(pairs) == sum(sum(split.values()) for split in summary["counts"].values())
    assert summary["mismatches"]["test"]["random"]["made"] > 0
    assert summary["skipped"]["pair beyond mismatches_per_match"] > 0
    message = capfd.readouterr().err
    assert "the bar to beat on the test pairs: PR-AUC" in message
    assert {entry["rule"] for entry in summary["leak_audit"]} >= {"bag of words", "boosted trees"}


def test_families_of_one_item_are_named_where_no_pairs_can_be_made(tiny_recipe, own_workspace, tmp_path):
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    index = own_workspace.valid / "index.parquet"
    items = pq.read_table(index).to_pandas()
    pq.write_table(pa.Table.from_pandas(items.assign(family=items["id"]), preserve_index=False), index)
    message = (
        r"each of the 40 families \(`family`\) has one item, .* columns\.family, or .*pairs\.labelled; see `pairs` in"
    )
    with pytest.raises(DataError, match=message):
        make_pairs(tiny_recipe, catalog, own_workspace, Terminal(quiet=True))


def test_the_step_ties_near_copies_and_warns_of_a_giant_component(tiny_recipe, own_workspace, tmp_path, capfd):
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG.replace("random: 0.5", "random: 0"), encoding="utf-8")
    show_near_copies(own_workspace)
    tied = make_pairs(tiny_recipe, catalog, own_workspace, Terminal())
    assert tied["largest_component"] == 16
    assert "16 of 40 items are tied together" in capfd.readouterr().err
