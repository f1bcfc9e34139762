"""Amazon Berkeley Objects from the published layout to pairs: the sample, a small tree, and one of the real size."""

import os
import resource
from pathlib import Path

import pytest
import yaml
from abo_tree import write_abo_tree

from mlim.catalog.defaults import describe_abo
from mlim.console import Terminal
from mlim.steps.ingest import ingest
from mlim.steps.pairs import make_pairs
from mlim.steps.validate import validate
from mlim.workspace import Workspace
from tests.small_catalog import recipe

GIBIBYTE = 2**30
QUIET = Terminal(quiet=True)
SETTINGS = ("ingest.max_quarantined_share=0.9", "ingest.workers=2", "pairs.max_train=2000", "pairs.max_test=1000")
TOLERANT = (
    "validation.max_copied_share=1",
    "validation.max_picture_uses=1000000",
    "validation.min_family_share=0",
    "pairs.near_duplicate_bits=null",
)


def catalog_of(folder: Path, place: Path, **abo) -> Path:
    path = folder / "catalog.yaml"
    values = {"source": "abo", "abo": {"folder": str(place), **abo}, **describe_abo()}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def assert_adds_up(summary: dict, rows: int) -> None:
    assert summary["rows_in"] == rows == summary["ingested"] + sum(summary["quarantined"].values())


def test_the_sample_is_ingested_and_its_missing_photos_are_reported(tmp_path):
    place = os.environ.get("MLIM_ABO_SAMPLE")
    if not place:
        pytest.skip("MLIM_ABO_SAMPLE does not say where the ABO sample lies")
    catalog = catalog_of(tmp_path, Path(place), family_by=["brand"])
    summary = ingest(recipe(*SETTINGS), catalog, Workspace(tmp_path / "work"), QUIET)
    assert_adds_up(summary, 5)
    assert summary["quarantined"] == {"missing-image": 2}


def test_a_tree_goes_all_the_way_to_pairs(tmp_path):
    tree = write_abo_tree(tmp_path / "abo", listings=1500, pictures=4000)
    workspace, settings = Workspace(tmp_path / "work"), recipe(*SETTINGS, *TOLERANT)
    catalog = catalog_of(tmp_path, tmp_path / "abo", max_picture_uses=10)
    summary = ingest(settings, catalog, workspace, QUIET)
    assert_adds_up(summary, 1500)
    assert summary["source"]["boilerplate pictures"] == len(tree.boilerplate)
    assert validate(settings, catalog, workspace, QUIET)["accepted"] > 1200
    made = make_pairs(settings, catalog, workspace, QUIET)
    assert made["pairs"] > 100


@pytest.mark.slow
def test_a_tree_of_the_published_size_is_ingested_in_flat_memory(tmp_path):
    write_abo_tree(tmp_path / "abo", listings=150_000, pictures=20_000)
    summary = ingest(recipe(*SETTINGS), catalog_of(tmp_path, tmp_path / "abo"), Workspace(tmp_path / "work"), QUIET)
    assert_adds_up(summary, 150_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 2 * GIBIBYTE
