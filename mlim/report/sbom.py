"""What a registered version is made of, as a CycloneDX bill of materials: the model, its data, every package."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from mlim.versions import UNKNOWN

SIGN: Final = '"bomFormat": "CycloneDX"'  # near the beginning of a file that may be written again
KEPT: Final = ("commit", "dirty", "recipe", "recipe_sha256", "data_version", "validation")  # as properties


def bill_of_materials(found: Mapping[str, Any]) -> str:
    """The bill of a version (what `mlim lineage --json` gives of it) in CycloneDX 1.6, as JSON.

    Packages are those installed when it was registered; what its code needs is marked as required. The hash of the
    model is that of the manifest of its files, the hash of the data that of their manifest.
    """
    model = Component(
        name=found["model"],
        version=found["version"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        hashes=_hashes(found["files"]),
        properties=[Property(name=f"mlim:{name}", value=str(found[name])) for name in KEPT],
    )
    data = Component(
        name=str(found["catalog"]),
        type=ComponentType.DATA,
        version=found["data_version"],
        hashes=_hashes(found["manifest"]),
    )
    packages = list(_packages(found["environment"]))
    bill = Bom(metadata=BomMetaData(component=model), components=[data, *packages])
    bill.register_dependency(model, [data, *(each for each in packages if each.scope is ComponentScope.REQUIRED)])
    values = json.loads(JsonV1Dot6(bill).output_as_string())
    return json.dumps({"bomFormat": values.pop("bomFormat"), **values}, indent=2) + "\n"


def _hashes(sha256: str) -> list[HashType]:
    return [] if sha256 == UNKNOWN else [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]


def _packages(environment: Mapping[str, Any]) -> Iterator[Component]:
    """One component for each package."""
    needed = {requirement.partition("==")[0].lower() for requirement in environment["needs"]}
    for name, version in environment["packages"].items():
        purl = PackageURL("pypi", name=name.lower(), version=version)
        yield Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            purl=purl,
            bom_ref=str(purl),
            scope=ComponentScope.REQUIRED if name.lower() in needed else ComponentScope.OPTIONAL,
        )
