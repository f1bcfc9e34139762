"""A model says when a catalog is not of the kind that it was trained on."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlim.files import write_json
from mlim.matching.catalog_drift import CatalogProfile, drift_of, read_profile
from mlim.quality.profile import CELLS, EDGES, Profile
from mlim.recipe.data import DriftConfig

ITEMS = 2000


def profile_of(seed: int, categories=(("bags", 1200), ("shoes", 800)), **shifted: int) -> Profile:
    """Items drawn from one distribution; `shifted` measures lie so many cells further up."""
    source = np.random.default_rng(seed)
    cells = {name: np.minimum(source.binomial(9, 0.5, ITEMS) + shifted.get(name, 0), CELLS - 1) for name in EDGES}
    histograms = {name: tuple(np.bincount(each, minlength=CELLS).tolist()) for name, each in cells.items()}
    return Profile(items=ITEMS, categories=categories, histograms=histograms)


def catalog(columns=("colour", "name"), **changes) -> CatalogProfile:
    return CatalogProfile(columns=columns, profile=profile_of(**{"seed": 1, **changes}))


def drifts(present: CatalogProfile) -> dict[str, str]:
    return {found.measure: found.sentence for found in drift_of(catalog(seed=0), present, DriftConfig())}


def test_another_sample_of_the_same_kind_has_not_drifted():
    assert not drifts(catalog())
    assert not drifts(catalog(columns=("colour", "name", "price")))


@pytest.mark.parametrize("measure", EDGES)
def test_each_measure_is_told_with_its_figure(measure):
    [(found, sentence)] = drifts(catalog(**{measure: 4})).items()
    assert found == measure
    assert "bits beyond chance (limit 0.05" in sentence


def test_other_categories_and_missing_columns_are_told():
    found = drifts(catalog(columns=("name", "title"), categories=(("toys", ITEMS),)))
    assert set(found) == {"columns", "category"}
    assert "the text columns colour, name, and this catalog has no colour;" in found["columns"]


def test_an_empty_catalog_has_nothing_that_moved():
    empty = Profile(items=0, categories=(), histograms=dict.fromkeys(EDGES, (0,) * CELLS))
    assert not drifts(CatalogProfile(columns=("colour", "name"), profile=empty))


def test_a_profile_is_read_from_what_validation_left(tmp_path):
    assert read_profile(tmp_path) is None
    write_json(tmp_path / "profile.json", profile_of(0).model_dump(mode="json"))
    rows = [json.dumps({"name": "bag"}), json.dumps({"colour": "red", "name": "bag"})]
    pq.write_table(pa.table({"attributes": rows}), tmp_path / "index.parquet")
    assert read_profile(tmp_path) == CatalogProfile(columns=("colour", "name"), profile=profile_of(0))
