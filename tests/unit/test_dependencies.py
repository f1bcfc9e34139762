"""Which versions pyproject.toml allows: none with a known vulnerability, all that constraints.txt names."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORDS = [*PROJECT["dependencies"], *(word for extra in PROJECT["optional-dependencies"].values() for word in extra)]
ALLOWED = {canonicalize_name(requirement.name): requirement.specifier for requirement in map(Requirement, WORDS)}
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
TESTED = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("aiohttp", "3.14.0"),
        ("dask", "2025.12.0"),
        ("distributed", "2025.12.0"),
        ("filelock", "3.20.2"),
        ("huggingface-hub", "1.28.0"),
        ("jinja2", "3.1.5"),
        ("mlflow", "3.15.2"),
        ("opencv-python-headless", "4.13.0.92"),
        ("pillow", "12.2.0"),
        ("prefect", "3.4.25"),
        ("pyarrow", "23.0.0"),
        ("pytest", "9.0.2"),
        ("starlette", "1.3.0"),
        ("torch", "2.9.1"),
        ("transformers", "5.8.0"),
    ],
)
def test_a_version_with_a_known_vulnerability_is_not_allowed(package: str, version: str) -> None:
    """Floors: the last version that docs/dependencies.md speaks of is below each."""
    assert version not in ALLOWED[package]


@pytest.mark.parametrize("package", sorted(ALLOWED.keys() & TESTED.keys()))
def test_the_tested_version_is_allowed(package: str) -> None:
    assert TESTED[package] in ALLOWED[package]


def test_the_reason_for_every_package_is_written_down() -> None:
    documented = canonicalize_name((ROOT / "docs/dependencies.md").read_text())
    needed = [canonicalize_name(Requirement(word).name) for word in PROJECT["dependencies"]]
    assert [name for name in needed if name not in documented] == []
