"""The bill of materials of a version: valid by CycloneDX's schema, with every package and what the model came from."""

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from mlim.errors import InputError
from mlim.report.sbom import bill_of_materials
from mlim.steps.lineage import write_bill

FOUND = {
    "model": "mlim-matcher",
    "version": "3",
    "files": "a" * 64,
    "catalog": "shop/catalog.yaml",
    "data_version": "5eed.dir",
    "manifest": "b" * 64,
    "commit": "c0ffee",
    "dirty": "false",
    "recipe": "demo",
    "recipe_sha256": "d" * 64,
    "validation": "passed",
    "environment": {"needs": ["torch==2.13.0"], "packages": {"PyYAML": "6.0.3", "torch": "2.13.0+cpu"}},
}


@pytest.mark.parametrize("found", [FOUND, {**FOUND, "files": "unknown", "manifest": "unknown", "catalog": "unknown"}])
def test_it_holds_what_the_schema_asks_for(found):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill_of_materials(found)) is None


def test_it_names_model_data_and_packages():
    bill = json.loads(bill_of_materials(FOUND))
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "mlim-matcher", "3")
    assert model["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert {"name": "mlim:commit", "value": "c0ffee"} in model["properties"]
    components = {each["name"]: each for each in bill["components"]}
    assert components["shop/catalog.yaml"]["hashes"][0]["content"] == "b" * 64
    assert components["torch"]["purl"].startswith("pkg:pypi/torch@2.13.0")
    assert (components["torch"]["scope"], components["PyYAML"]["scope"]) == ("required", "optional")


def test_it_is_written_again_but_never_over_a_file_of_somebody_else(tmp_path):
    out = tmp_path / "sbom.json"
    write_bill(FOUND, out)
    write_bill({**FOUND, "version": "4"}, out)
    assert json.loads(out.read_text())["metadata"]["component"]["version"] == "4"
    out.write_text("mine")
    with pytest.raises(InputError, match="mlim did not make it"):
        write_bill(FOUND, out)
    with pytest.raises(InputError, match="its packages were not recorded"):
        write_bill({**FOUND, "environment": "unknown"}, tmp_path / "other.json")
