"""A shop delivers again: more rows, some of them bad, as a new data version through DVC, MLflow and Prefect."""

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pytest

from tests.integration.conftest import make_checkout, run_in

pytestmark = pytest.mark.integration

PREPARED = ("ingest", "validate", "pairs")
NEW_ROWS, BAD_ROWS = 20, 3


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, forks: Mapping[str, str]) -> Path:
    """The pipeline's data stages, done once through DVC, with small shards."""
    folder = make_checkout(tmp_path_factory.mktemp("versions"))
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("rows_per_shard: 500", "rows_per_shard: 40"))
    run_in(folder, ["dvc", "repro", *PREPARED], **forks)
    return folder


def deliver(folder: Path) -> None:
    """Append rows to the table: good ones, and some without a picture."""
    table = folder / "data" / "catalog.csv"
    with table.open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    donors = [row for row in rows if (folder / "data" / "images" / row["image"]).is_file()][:NEW_ROWS]
    with table.open("a", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, rows[0])
        for number, donor in enumerate(donors):
            picture = f"new-{number}.jpg"
            if number >= BAD_ROWS:
                place = folder / "data" / "images" / picture
                shutil.copy(folder / "data" / "images" / donor["image"], place)
            writer.writerow({**donor, "item_id": f"new-{number}", "image": picture})


def made_at(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("build/demo/shards/*/shard.json")}


def summary(folder: Path, stage: str) -> dict:
    return json.loads((folder / "build/demo" / stage / "summary.json").read_text())


def tags_of(folder: Path, stage: str) -> list[dict[str, str]]:
    """The tags of a stage's runs, the oldest first."""
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, order_by=["attributes.start_time ASC"])
    return [run.data.tags for run in runs if run.data.tags.get("mlim.stage") == stage]


def test_a_new_delivery_is_a_new_version_and_only_its_shards_are_made(checkout: Path, forks: Mapping[str, str]) -> None:
    before, shards = summary(checkout, "items"), made_at(checkout)
    deliver(checkout)
    run_in(checkout, ["dvc", "add", "--quiet", "data"])
    done = run_in(checkout, ["dvc", "repro", *PREPARED], **forks)
    assert done.stdout.count("Running stage") == len(PREPARED)

    after = summary(checkout, "items")
    assert after["rows_in"] == before["rows_in"] + NEW_ROWS
    assert after["ingested"] == before["ingested"] + NEW_ROWS - BAD_ROWS
    assert after["quarantined"]["missing-image"] == before["quarantined"].get("missing-image", 0) + BAD_ROWS
    assert after["data_version"] != before["data_version"]

    kept = {key for key, when in made_at(checkout).items() if shards.get(key) == when}
    assert len(kept) >= len(shards) - 1  # the last shard grew, the others were not touched
    assert len(made_at(checkout)) > len(kept)

    versions = [[tags["mlim.data_version"] for tags in tags_of(checkout, stage)] for stage in PREPARED]
    assert all(old != new for old, new in versions)
    assert len({new for _, new in versions}) == 1
    recorded = next(line.split()[-1] for line in (checkout / "data.dvc").read_text().splitlines() if "md5:" in line)
    assert versions[0][1] == recorded


def test_the_prefect_flow_finds_the_new_version_up_to_date(checkout: Path) -> None:
    made = made_at(checkout)
    script = "from flows.ingest import ingest; print(ingest(recipe='params.yaml', return_state=True).message)"
    done = run_in(checkout, ["python", "-c", script], PREFECT_LOGGING_LEVEL="CRITICAL")
    assert "Running stage" not in done.stdout + done.stderr
    assert done.stdout.startswith("nothing changed since 20")
    assert made_at(checkout) == made
