"""Electricity, emissions and cost of a tracked stage."""

import sys

import pytest

from mlim.errors import InputError
from mlim.recipe import load_recipe
from mlim.tracking import check_server, client, stage_run
from mlim.versions import Lineage
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

LINEAGE = Lineage("c0ffee", False, "5eed.dir", "passed")
GERMANY = "tracking.energy={country: DEU, price: 0.5}"


def test_a_stage_has_its_energy_emissions_and_cost(tmp_path, new_store):
    pytest.importorskip("codecarbon", reason="the extra [energy] is not installed")
    recipe = load_recipe("demo", [f"tracking.uri={new_store(tmp_path / 'own.db')}", GERMANY])
    with stage_run(recipe.record, Workspace(tmp_path / "work"), "probe", "probe", LINEAGE) as run:
        sum(number * number for number in range(1_000_000))
    found = client(recipe.tracking).get_run(run.id).data.metrics
    assert 0 < found["energy_kwh"] < 0.01
    assert found["energy_cost"] == pytest.approx(0.5 * found["energy_kwh"])
    assert found["emissions_kg"] == pytest.approx(0.35 * found["energy_kwh"], rel=0.5)  # Germany: 0.3 to 0.4 kg per kWh
    assert not list(tmp_path.rglob("emissions.csv"))


def test_an_unknown_country_is_said_before_any_work(tmp_path, new_store):
    pytest.importorskip("codecarbon", reason="the extra [energy] is not installed")
    recipe = load_recipe("demo", [f"tracking.uri={new_store(tmp_path / 'own.db')}", "tracking.energy={country: XXX}"])
    with pytest.raises(InputError, match="`XXX` is no country"):
        check_server(recipe.tracking)


def test_a_missing_package_is_said_before_any_work(tmp_path, new_store, monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon.input", None)
    recipe = load_recipe("demo", [f"tracking.uri={new_store(tmp_path / 'own.db')}", GERMANY])
    with pytest.raises(InputError, match=r"pip install 'mlim\[energy\]'"):
        check_server(recipe.tracking)
