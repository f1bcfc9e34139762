"""What a catalog says of values, followed from its table through ingest to its pairs."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mlim.console import Terminal
from mlim.recipe import load_recipe
from mlim.shards.shard import read_manifest, read_shard
from mlim.steps.pairs import make_pairs
from mlim.steps.validate import validate
from tests.small_catalog import small_catalog

pytestmark = pytest.mark.integration


def test_ingest_says_what_it_takes_for_no_value_and_keeps_what_is_written(tmp_path, capsys):
    """Point 2: a loud warning with the counts, a summary, and stored texts as the source writes them."""
    catalog = small_catalog(tmp_path)
    catalog.rows[0] |= {"product": " ", "pattern": " Plain "}
    catalog.rows[1] |= {"product": "NULL", "pattern": "n/a", "title": "NULL"}
    catalog.rows[2] |= {"product": "P1 "}
    catalog.rows[3] |= {"product": "p1", "sku": "NULL"}
    summary = catalog.ingest("ingest.max_quarantined_share=0.5")
    assert summary["missing_words"] == {"pattern": {"n/a": 1}, "product": {"NULL": 1}, "sku": {"NULL": 1}}
    said = capsys.readouterr().err
    assert "warning: the column `product` says in 1 row that it has no value (1 x `NULL`)" in said
    assert '`values: {columns: {"product": {missing: []}}}`' in said
    assert summary["quarantined"] == {"empty-id": 1}
    folder = catalog.work().items
    index = pd.concat([read_shard(folder / entry.file).to_pandas() for entry in read_manifest(folder)]).set_index("id")
    assert index["family"].isna().tolist() == [True, True, False, False, False]
    assert index.loc["002", "family"] == "P1"
    assert json.loads(index.loc["000", "facts"]) == {"pattern": " Plain "}
    assert index.loc["001", "text"] == "NULL; colour: green"


def test_pairs_of_a_whole_catalog_follow_its_values(tmp_path):
    catalog = small_catalog(tmp_path, 36)
    for number, row in enumerate(catalog.rows):
        row["product"] = f"P{number // 4}" + ["", " ", "\u00a0", ""][number % 4]
        row["pattern"] = ["Plain", "PLAIN ", "dots", "Dots"][number % 4]
        row["title"] = f"thing {number}"
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(catalog.images / row["picture"])
    catalog.ingest()
    recipe = load_recipe("demo", ["validation.min_label_share=0.05"])
    validate(recipe, catalog.description, catalog.work(), Terminal(quiet=True))
    summary = make_pairs(recipe, catalog.description, catalog.work(), Terminal(quiet=True))
    assert summary["kinds"] == {"pattern differs": 36, "same pattern": 18}
