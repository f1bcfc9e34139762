"""The splits of Karpathy's files: restval joins train, families stay together, and every item needs one."""

import json

import pyarrow.parquet as pq
import pytest

from mlim.console import Terminal
from mlim.errors import DataError
from mlim.steps.pairs import make_pairs
from tests.conftest import FAMILIES, FAMILY_SIZE

CATALOG = """
table: none.csv
images: .
columns: {id: id, image: image, text: [kind, colour]}
pairs: none
annotations: {files: {karpathy: splits.json}}
"""
WRITTEN = ("restval", "train", "val", "test")


def written(number: int) -> str:
    return WRITTEN[number // FAMILY_SIZE % len(WRITTEN)]


def images() -> list[dict]:
    sentences = [{"raw": "a thing", "sentid": 1}]
    return [
        {"filename": f"item-{number:03d}.jpg", "split": written(number), "sentences": sentences}
        for number in range(FAMILIES * FAMILY_SIZE)
    ]


@pytest.fixture
def catalog(tmp_path):
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    return tmp_path / "catalog.yaml"


@pytest.fixture
def untied(tiny_recipe):
    return tiny_recipe.model_copy(update={"pairs": tiny_recipe.pairs.model_copy(update={"near_duplicate_bits": None})})


def test_karpathys_splits_are_the_catalogs(untied, own_workspace, catalog):
    (catalog.parent / "splits.json").write_text(json.dumps({"images": images()}))
    make_pairs(untied, catalog, own_workspace, Terminal(quiet=True))
    made = pq.read_table(own_workspace.pairs / "items.parquet").to_pandas().set_index("id")["split"]
    expected = {"restval": "train", "train": "train", "val": "validation", "test": "test"}
    for number in range(FAMILIES * FAMILY_SIZE):
        assert made[f"item-{number:03d}"] == expected[written(number)]


def test_an_item_that_the_file_does_not_have_is_named(untied, own_workspace, catalog):
    (catalog.parent / "splits.json").write_text(json.dumps({"images": images()[2:]}))
    with pytest.raises(DataError, match=r"annotations.files.karpathy: the split of 2 items says 'nothing' \(2\)"):
        make_pairs(untied, catalog, own_workspace, Terminal(quiet=True))
