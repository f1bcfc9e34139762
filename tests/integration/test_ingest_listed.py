"""Rows that list several images, through ingest."""

import pytest

from tests.small_catalog import described, small_catalog

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "spell", ["{0},no-{0}", "{0}|no-{0}", "{0};no-{0}", '["{0}", "no-{0}"]', "['{0}', 'no-{0}']", "{0}\nno-{0}"]
)
def test_the_first_of_several_pictures_is_the_items_picture(tmp_path, spell):
    """Point 9: a table whose image column lists several files is ingested whole."""
    catalog = small_catalog(tmp_path)
    for row in catalog.rows:
        row["picture"] = spell.format(row["picture"])
    assert catalog.ingest()["ingested"] == len(catalog.rows)


def test_the_column_and_its_separator_can_be_described(tmp_path):
    catalog = small_catalog(tmp_path)
    for row in catalog.rows:
        (catalog.images / row["picture"]).rename(catalog.images / row["sku"])
        row["picture"] = f"{row['sku']} + {row['sku']}-back"
    image = {"column": "picture", "choose": "first", "separator": "+"}
    columns = {**described()["columns"], "image": image}
    assert catalog.ingest(columns=columns)["ingested"] == len(catalog.rows)
