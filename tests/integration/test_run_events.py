"""Stages as OpenLineage events, written by its client to a file."""

import json
import uuid
from datetime import datetime

import jsonschema
import pytest

from mlim import run_events
from mlim.errors import InputError
from mlim.workspace import Workspace
from tests.commands import call as mlim
from tests.small_catalog import small_catalog

pytestmark = pytest.mark.integration

# What spec 2-0-2 of OpenLineage.json asks of a RunEvent, of its parts and of every facet
FACETS = {"additionalProperties": {"type": "object", "required": ["_producer", "_schemaURL"]}}
NAMED = {"type": "object", "required": ["namespace", "name"], "properties": {"facets": FACETS}}
RUN_EVENT = {
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "run": {"type": "object", "required": ["runId"], "properties": {"facets": FACETS}},
        "job": NAMED,
        "inputs": {"type": "array", "items": NAMED},
        "outputs": {"type": "array", "items": NAMED},
    },
}


@pytest.fixture
def events(tmp_path, monkeypatch):
    """Reads what was sent to a file, as the environment asks for."""
    pytest.importorskip("openlineage.client", reason="the extra [openlineage] is not installed")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(tmp_path / "events.jsonl"))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    return lambda: [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]


def test_a_stage_says_what_it_read_and_wrote_and_how_it_ended(events, tmp_path, monkeypatch):
    parent = str(uuid.uuid4())
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", f"airflow/nightly.train/{parent}")
    catalog, work = small_catalog(tmp_path / "shop", rows=12).write(), tmp_path / "work"
    options = ("--work", str(work), "--set", "tracking.uri=none", "--quiet")
    assert mlim(monkeypatch, "ingest", "--catalog", str(catalog), *options) == 0
    assert mlim(monkeypatch, "validate", "--catalog", str(tmp_path / "missing.yaml"), *options) == 2
    first, last, again, failed = events()
    for event in (first, last, again, failed):
        jsonschema.validate(event, RUN_EVENT)
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        assert event["run"]["facets"]["parent"]["run"]["runId"] == parent
    assert [event["eventType"] for event in (first, last, again, failed)] == ["START", "COMPLETE", "START", "FAIL"]
    assert (first["job"]["namespace"], first["job"]["name"]) == ("mlim", "work.ingest")
    assert first["run"]["runId"] == last["run"]["runId"] != again["run"]["runId"]
    assert [one["name"] for one in last["inputs"]] == [str(catalog.parent)]
    assert [one["name"] for one in last["outputs"]] == [str(work / "items")]
    tags = {one["key"]: one["value"] for one in last["run"]["facets"]["tags"]["tags"]}
    assert tags["recipe"] == "demo"
    assert len(tags["manifest"]) == 64
    assert "missing.yaml" in failed["run"]["facets"]["errorMessage"]["message"]


def test_a_receiver_that_is_away_costs_events_and_not_the_stage(monkeypatch, tmp_path):
    pytest.importorskip("openlineage.client", reason="the extra [openlineage] is not installed")
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    heard: list[str] = []
    stage = run_events.StageFiles("probe", "figures", [], [], dict)
    with pytest.raises(InputError), run_events.told(stage, Workspace(tmp_path), heard.append):
        raise InputError("what went wrong is what a person hears")
    assert [sentence.split(" was not sent")[0] for sentence in heard] == [
        "the OpenLineage event START",
        "the OpenLineage event FAIL",
    ]


def test_nothing_is_sent_unless_the_environment_says_where(monkeypatch):
    for name in run_events.CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    assert not run_events.wanted()
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    assert run_events.wanted()
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    assert not run_events.wanted()
