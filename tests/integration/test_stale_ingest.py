"""A catalog that changed since it was ingested is named: which files, and what to run."""

import contextlib
import shlex

import pytest

from mlim.catalog.description import load_description
from mlim.console import Terminal
from mlim.errors import DataError
from mlim.files import read_json
from mlim.report.contact.gather import gather
from mlim.report.contact.problems import find_problems
from mlim.report.contact.settings import ContactSettings
from mlim.steps.pairs import _Inputs, _warn_of_stale_items
from mlim.steps.validate import validate
from tests.small_catalog import recipe, small_catalog

pytestmark = pytest.mark.integration


@pytest.fixture
def shop(tmp_path):
    shop = small_catalog(tmp_path / "my shop", rows=12)
    shop.ingest()
    return shop


def warnings(shop, capfd) -> list[str]:
    chosen = recipe()
    with contextlib.suppress(DataError):  # of so small a catalog; what is accepted does not matter here
        validate(chosen, shop.description, shop.work(), Terminal(quiet=True))
    said = capfd.readouterr().err.splitlines()
    inputs = _Inputs(chosen, shop.description, load_description(shop.description), shop.work())
    _warn_of_stale_items(inputs, Terminal(quiet=True))
    assert "older than the catalog" not in capfd.readouterr().err  # `mlim validate` said it
    return [line for line in said if "older than the catalog" in line]


def test_what_did_not_change_is_not_called_stale(shop, capfd):
    assert warnings(shop, capfd) == []
    shop.write(pairs={"decided_by": ["pattern"], "max_family_size": 20})  # read by later steps
    assert warnings(shop, capfd) == []


def test_a_changed_table_and_description_are_named_with_the_command(shop, capfd):
    shop.rows[0]["title"] = "another"
    shop.write()
    (sentence,) = warnings(shop, capfd)
    assert "since `mlim ingest`, catalog.csv changed; run `" in sentence
    command = shlex.split(sentence.split("run `")[1].split("`")[0])
    assert command == ["mlim", "ingest", "--catalog", str(shop.description), "--work", str(shop.work().root)]
    assert read_json(shop.work().valid / "summary.json")["changed_since_ingest"] == ["catalog.csv"]
    shop.write(
        pairs={"decided_by": ["colour"]},
        columns={"id": "sku", "image": "picture", "family": "product", "text": ["title"]},
    )
    (sentence,) = warnings(shop, capfd)
    assert "catalog.csv, catalog.yaml changed" in sentence
    worst = find_problems(gather(shop.description, shop.work(), ContactSettings()))[0]
    assert worst.sentence.startswith(
        "The items are older than the catalog: since the last ingest, catalog.csv, catalog"
    )
