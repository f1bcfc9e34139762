"""The whole real catalog; its folder is given by the environment variable MLIM_HM_FASHION."""

import os
from pathlib import Path

import pandas as pd
import pytest

from mlim.console import Terminal
from mlim.recipe import load_recipe
from mlim.shards.shard import read_manifest, read_shard
from mlim.steps.ingest import ingest
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

ROWS = 11_800
PRODUCTS = 6_687
COPIED_PHOTOS = 28
CATALOG = Path(__file__).parents[2] / "catalogs" / "hm_fashion.yaml"


@pytest.fixture(scope="module")
def source():
    folder = os.environ.get("MLIM_HM_FASHION")
    if not folder or not Path(folder, "catalog.csv").is_file():
        pytest.skip("MLIM_HM_FASHION does not name a folder with catalog.csv and images/")


@pytest.fixture(scope="module")
def ingested(source, tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("fashion"))
    summary = ingest(load_recipe("small"), CATALOG, workspace, Terminal(quiet=True))
    columns = ["id", "family", "text", "facts", "image_sha256", "image_width", "image_height"]
    return summary, _items(workspace, columns)


def _items(workspace, columns):
    names = [entry.file for entry in read_manifest(workspace.items)]
    return pd.concat([read_shard(workspace.items / name, columns).to_pandas() for name in names], ignore_index=True)


def test_every_row_is_accounted_for(ingested):
    summary, items = ingested
    assert summary["rows_in"] == ROWS == summary["ingested"] + sum(summary["quarantined"].values())
    assert len(items) == summary["ingested"]
    assert summary["quarantined"] == {}


def test_ids_keep_their_zeros_and_families_their_number(ingested):
    _, items = ingested
    assert items.id.str.fullmatch(r"0\d{9}").all()
    assert items.family.nunique() == PRODUCTS


def test_the_pattern_is_a_fact_and_never_a_labelled_text(ingested):
    _, items = ingested
    assert items.facts.str.contains("graphical_appearance_name").all()
    assert not items.text.str.contains("pattern:").any()


def test_sizes_and_copied_photos_are_known(ingested):
    _, items = ingested
    assert (items.image_width > 0).all()
    assert items.image_height.max() == 256
    assert items.image_sha256[items.image_sha256.duplicated()].nunique() == COPIED_PHOTOS
