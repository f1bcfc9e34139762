"""What a person sees of flows: the run form, the names of runs, how they end, and what is deployed."""

import importlib
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.states import Failed

from flows.events import DATA, DATA_ACCEPTED
from flows.outcome import describe
from flows.parameters import STARTS, describe_run
from flows.said import Said, level_of
from flows.slot import why_waiting
from flows.stage import is_temporary
from mlim.errors import InputError, MlimError, UnavailableError, UnreachableError
from mlim.recipe import load_recipe, recipe_names
from mlim.steps.plan import everything
from mlim.versions import Lineage

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
FLOWS = ("pipeline", "ingest", "pretrain", "finetune", "sweep", "report", "match", "systems", "labels")


def flow_of(entrypoint: str) -> Flow[..., Any]:
    file, _, name = entrypoint.partition(":")
    return getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)


def form(name: str) -> dict[str, Any]:
    return flow_of(f"flows/{name}.py:{name}").parameters.model_dump()["properties"]


@pytest.mark.parametrize("name", FLOWS)
def test_the_run_form_explains_every_parameter(name):
    for parameter, shown in form(name).items():
        assert shown["title"] != parameter
        assert shown["description"].endswith((".", "=200."))
        assert "default" in shown


def test_recipes_can_be_chosen_by_name_or_given_as_a_file():
    chosen, given = form("pipeline")["recipe"]["anyOf"]
    assert chosen["enum"] == recipe_names()
    assert (given["type"], "enum" in given) == ("string", False)


def test_what_may_be_left_out_says_what_happens_then():
    assert [one["title"] for one in form("match")["work"]["anyOf"]] == ["a folder", "build/NAME of the recipe"]
    assert form("match")["precision"]["anyOf"][1] == {"type": "null", "title": "the model's own threshold"}


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_run_can_start_at_every_stage_of_every_recipe(recipe):
    commands = list(dict.fromkeys(stage.command for stage in everything(load_recipe(recipe))))
    assert commands == [start for start in STARTS if start in commands]
    assert form("pipeline")["start"]["enum"] == list(STARTS)


def test_the_name_of_a_run_says_catalog_recipe_and_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("extends: demo\nname: shoes-small\n")
    assert describe_run("data/catalog.yaml", "demo", "by hand") == "data, demo, by hand"
    assert describe_run("/srv/shoes/catalog.yaml", "own.yaml", "nightly") == "shoes, shoes-small, nightly"
    assert describe_run("catalog.yaml", "missing.yaml", "by hand") == f"{tmp_path.name}, missing, by hand"
    assert describe_run("asked.yaml", "nonsense", "new labels") == "asked, nonsense, new labels"


def test_a_run_that_changed_nothing_says_since_when_and_of_what():
    origin = Lineage("c0ffee" * 7, True, "5eed" * 8 + ".dir", "passed")
    assert describe(origin, datetime(2026, 12, 1, 3, 4, tzinfo=UTC)) == (
        "nothing changed since 2026-12-01 03:04 UTC (commit c0ffeec0ffee with uncommitted changes, data version "
        "5eed5eed5eed)"
    )


def failure(lines: list[str], code: int) -> MlimError:
    said = Said()
    for line in lines:
        said.hear(line)
    return said.failure("ingest", code, Path("logs/ingest.log"))


BROKEN = ["loading ...", "error: data/catalog.yaml: is missing", "error: data/x.csv: is empty"]
DVC = "ERROR: failed to reproduce 'ingest': failed to run: mlim ingest --work build/demo, exited with {}"


@pytest.mark.parametrize(
    ("lines", "code", "kind", "sentence"),
    [
        (BROKEN, 2, InputError, "data/catalog.yaml: is missing\ndata/x.csv: is empty (exit 2; log: logs/ingest.log)"),
        ([*BROKEN, DVC.format(2)], 255, InputError, "data/catalog.yaml: is missing\ndata/x.csv: is empty (exit 2"),
        (["error: server away", DVC.format(75)], 255, UnavailableError, "server away (exit 75"),
        (["Traceback ...", "ValueError: bug", ""], 1, MlimError, "ValueError: bug (exit 1"),
        (["Traceback ...", "ValueError: bug", DVC.format(1)], 255, MlimError, "ValueError: bug (exit 1"),
        (["step 10"], -9, MlimError, "ended by SIGKILL, perhaps because memory ran out"),
        (["step 10", DVC.format(-15)], 255, MlimError, "ended by SIGTERM (exit -15"),
        (["ERROR: Unable to acquire lock", "Having any troubles?"], 255, MlimError, "Unable to acquire lock (exit 255"),
        ([], 1, MlimError, "stage ingest failed (exit 1); see the lines above"),
    ],
)
def test_a_failed_stage_says_what_it_said(lines, code, kind, sentence):
    error = failure(lines, code)
    assert type(error) is kind
    assert sentence in str(error)
    assert str(error).startswith("stage ingest failed")


def test_the_page_shows_errors_and_warnings_as_such():
    lines = ("error: a.yaml: is missing", "warning: few items", "loading ...", DVC.format(2))
    assert [logging.getLevelName(level_of(line)) for line in lines] == ["ERROR", "WARNING", "INFO", "ERROR"]


def test_only_what_may_succeed_later_is_tried_again():
    def tried_again(error: Exception) -> bool:
        return is_temporary(None, None, Failed(data=error))

    assert tried_again(UnavailableError("away"))
    assert tried_again(UnreachableError("away"))
    assert not tried_again(InputError("a wrong recipe"))
    assert not tried_again(MlimError("the disk is full"))
    assert issubclass(UnreachableError, InputError)
    assert UnreachableError.exit_code == UnavailableError.exit_code == 75


def test_every_flow_has_a_deployment_with_known_parameters():
    assert {one["entrypoint"] for one in DEPLOYMENTS} == {f"flows/{name}.py:{name}" for name in FLOWS}
    for one in DEPLOYMENTS:
        known = flow_of(one["entrypoint"]).parameters.model_dump()["properties"]
        assert set(one.get("parameters", {})) <= set(known)
        for trigger in one.get("triggers", ()):
            assert set(trigger.get("parameters", {})) <= set(known)


def test_schedules_are_there_and_off():
    found = {f"{one['entrypoint'].rpartition(':')[2]}/{one['name']}": one.get("schedules", []) for one in DEPLOYMENTS}
    scheduled = {name: [each["active"] for each in schedules] for name, schedules in found.items() if schedules}
    assert scheduled == {"ingest/nightly": [False], "match/nightly": [False], "pipeline/weekly": [False]}


def test_fine_tuning_waits_for_the_event_of_an_accepted_data_version():
    (found,) = [one for one in DEPLOYMENTS if one["name"] == "new-data"]
    (trigger,) = found["triggers"]
    assert (trigger["expect"], trigger["match"]) == ([DATA_ACCEPTED], {"prefect.resource.id": DATA})
    assert not trigger["enabled"]


@pytest.mark.parametrize(
    ("taken", "runs", "said"),
    [
        (1, ["run night (process 7)"], "run night (process 7) has it; this run goes on when it is free"),
        (1, [], "another program has it; this run goes on when it is free"),
        (0, [], "it is free; the server has not answered yet"),  # a slow server is no other program
    ],
)
def test_a_run_that_waits_says_for_what(taken, runs, said):
    assert why_waiting(taken, runs) == said
