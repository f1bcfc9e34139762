"""The examples of work pools and the image: complete, accepted by Prefect, and built from what is there."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from prefect.utilities.templating import apply_values, find_placeholders
from prefect.workers.process import ProcessJobConfiguration

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments"
POOLS = ("process", "docker", "kubernetes")
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()


def template(pool: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{pool}.json").read_text(encoding="utf-8"))
    return loaded


def defaults(pool: str) -> dict[str, Any]:
    return {k: v["default"] for k, v in template(pool)["variables"]["properties"].items() if "default" in v}


def instructions(word: str) -> list[list[str]]:
    """The arguments of each such instruction of the Dockerfile, without its options."""
    joined = DOCKERFILE.replace("\\\n", " ")
    found = re.findall(rf"^{word} (.*)$", joined, flags=re.MULTILINE)
    return [[part for part in shlex.split(line) if not part.startswith("--")] for line in found]


@pytest.mark.parametrize("pool", POOLS)
def test_a_template_uses_every_variable_and_explains_it(pool):
    given = template(pool)
    variables = given["variables"]["properties"]
    assert {found.name for found in find_placeholders(given["job_configuration"])} == set(variables)
    assert all(each["title"] and each["description"].endswith((".", '"1".')) for each in variables.values())
    jsonschema.Draft202012Validator.check_schema(given["variables"])
    jsonschema.validate(defaults(pool), given["variables"])


def test_prefect_takes_the_template_of_processes():
    filled = apply_values(template("process")["job_configuration"], {**defaults("process"), "working_dir": "/"})
    configuration = ProcessJobConfiguration.model_validate(filled)
    assert (configuration.stream_output, configuration.command, configuration.env) == (True, None, {})


@pytest.mark.parametrize("pool", ["docker", "kubernetes"])
def test_containers_work_in_the_folder_of_the_image(pool):
    given = json.dumps(template(pool))
    (folder,) = {place for (place,) in instructions("WORKDIR")}
    assert defaults(pool)["env"]["MLIM_ROOT"] == folder
    assert f"MLIM_ROOT={folder}" in DOCKERFILE
    assert {f"{folder}/{name}" in given for name in ("data", "build")} == {True}


def test_a_cluster_gives_a_training_time_for_its_checkpoint():
    from flows.children import GRACE_SECONDS

    pod = template("kubernetes")["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > GRACE_SECONDS


def test_the_image_copies_what_is_there_and_nothing_hides_it():
    copied = [source for parts in instructions("COPY") for source in parts[:-1]]
    assert {"constraints.txt", "pyproject.toml", "mlim", "flows", "prefect.yaml"} <= set(copied)
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert IGNORED[1] == "*"
    assert {line.removeprefix("!") for line in IGNORED if line.startswith("!")} == set(copied)


def test_the_image_has_every_folder_that_the_installation_reads():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = {source for parts in instructions("COPY") for source in parts[:-1]}
    folders = {name.partition(".")[0] for name in settings["tool"]["setuptools"]["packages"]}
    folders |= set(settings["tool"]["setuptools"]["package-dir"].values())
    files = {settings["project"]["readme"], *settings["project"]["license-files"]}
    assert folders | files <= copied
    extras = re.search(r"'\.\[(.*)\]'", DOCKERFILE)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(settings["project"]["optional-dependencies"])


def test_the_image_is_made_from_the_lock_with_a_fitting_python_and_runs_as_nobody_special():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "pip install --no-cache-dir --constraint constraints.txt" in DOCKERFILE
    ((image,),) = instructions("FROM")
    found = re.match(r"python:(\d+\.\d+)-", image)
    assert found is not None
    assert found[1] in SpecifierSet(settings["project"]["requires-python"])
    assert instructions("USER") == [["1000"]]


def test_a_worker_on_ray_has_what_it_needs_and_no_secret():
    environment = yaml.safe_load((FOLDER / "ray.yaml").read_text(encoding="utf-8"))
    assert list(environment) == ["env_vars"]
    assert {"MLIM_ROOT", "PREFECT_API_URL"} <= set(environment["env_vars"])
    assert all(isinstance(value, str) for value in environment["env_vars"].values())
    assert "PREFECT_API_AUTH_STRING" not in environment["env_vars"]
