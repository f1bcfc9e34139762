"""The engine for real: a two-worker cluster on loopback, workers and runs that are killed, catalogs that change."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import read_json
from mlim.shards.shard import read_manifest, read_shard
from mlim.steps.ingest import ingest
from mlim.workspace import Workspace
from tests.dask_cluster import cluster, free_port
from tests.small_catalog import SmallCatalog, recipe, small_catalog

ROWS = 400
SETTINGS = ("ingest.rows_per_shard=40", "ingest.workers=2", "ingest.max_quarantined_share=0.5")
RUN_INGEST = """
import sys
from pathlib import Path
from mlim.console import Terminal
from mlim.recipe import load_recipe
from mlim.steps.ingest import ingest
from mlim.workspace import Workspace
if __name__ == "__main__":
    ingest(load_recipe("demo", sys.argv[3:]), Path(sys.argv[1]), Workspace(Path(sys.argv[2])), Terminal(quiet=True))
"""
SECONDS = 60


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> SmallCatalog:
    """Four hundred rows with a few bad ones, ingested once into `reference`."""
    made = small_catalog(tmp_path_factory.mktemp("catalog"), ROWS)
    for number in range(ROWS):
        draw(made.images / f"{number}.png", number)
    made.rows[7]["picture"] = "none.png"
    made.rows[150]["sku"] = ""
    (made.images / "300.png").write_text("words")
    made.ingest(*SETTINGS, work="reference")
    return made


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def made_at(workspace: Workspace) -> dict[str, int]:
    """When each finished shard of the cache was made."""
    records = [path for path in workspace.shards.glob("*/shard.json") if not path.parent.name.startswith(".")]
    return {path.parent.name: path.stat().st_mtime_ns for path in records}


def test_a_cluster_of_two_workers_gives_the_same_bytes(catalog, tmp_path):
    with cluster(tmp_path) as address:
        summary = catalog.ingest(*SETTINGS, f"ingest.cluster={address}", work="cluster")
    assert summary == read_json(catalog.work("reference").items / "summary.json")
    assert contents(catalog.work("cluster").items) == contents(catalog.work("reference").items)
    assert len(read_manifest(catalog.work("cluster").items)) > 8


def test_a_scheduler_that_is_not_there_is_one_clear_sentence(catalog, monkeypatch):
    monkeypatch.setattr("mlim.cluster.CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match=r"ingest\.cluster: no Dask scheduler answers at tcp://127\.0\.0\.1:"):
        catalog.ingest(*SETTINGS, f"ingest.cluster=tcp://127.0.0.1:{free_port()}", work="nobody")


def test_the_bytes_do_not_depend_on_the_number_of_processes(catalog):
    catalog.ingest(*SETTINGS, "ingest.workers=1", work="one")
    assert contents(catalog.work("one").items) == contents(catalog.work("reference").items)


@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_at_any_point_is_finished_by_the_next(catalog, tmp_path, seed):
    script = tmp_path / "run.py"
    script.write_text(RUN_INGEST)
    workspace = Workspace(tmp_path / "work")
    command = [sys.executable, str(script), str(catalog.description), str(workspace.root), *SETTINGS]
    run = subprocess.Popen(command)
    wanted = random.Random(seed).randrange(0, 10)  # finished shards before the kill
    deadline = time.monotonic() + SECONDS
    while run.poll() is None and time.monotonic() < deadline:
        if len(list(workspace.shards.glob("*/shard.json"))) >= wanted:
            time.sleep(0.05 * seed)
            run.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    run.wait()
    before = made_at(workspace)
    ingest(recipe(*SETTINGS), catalog.description, workspace, Terminal(quiet=True))
    assert contents(workspace.items) == contents(catalog.work("reference").items)
    after = made_at(workspace)
    assert {key: after[key] for key in before} == before
    left = [path.name for path in workspace.root.iterdir() if path.name.endswith((".tmp", ".old"))]
    assert left == []
    assert all(not folder.name.startswith(".") for folder in workspace.shards.iterdir())


def test_only_what_changed_is_made_again(tmp_path):
    catalog = small_catalog(tmp_path, ROWS)
    settings = (*SETTINGS, "ingest.max_quarantined_share=0.1")
    first = catalog.ingest(*settings)
    before = made_at(catalog.work())

    catalog.rows.insert(200, {**catalog.rows[0], "sku": "new", "picture": "new.png"})
    draw(catalog.images / "new.png", 1)
    catalog.rows[30]["title"] = "a changed title"
    draw(catalog.images / "350.png", 2)
    catalog.rows += [
        {**catalog.rows[0], "sku": f"more-{number}", "picture": f"more-{number}.png"} for number in range(9)
    ]
    second = catalog.ingest(*settings)

    after = made_at(catalog.work())
    kept = {key for key in before if before[key] == after.get(key)}
    assert len(before) - len(kept) <= 5  # of about 15: inserted, changed, another picture, the last one
    assert second["quarantined"] == {"missing-image": 9}
    assert second["data_version"] != first["data_version"]
    fresh = catalog.ingest(*settings, work="fresh")
    assert fresh == second
    assert contents(catalog.work().items) == contents(catalog.work("fresh").items)


def test_a_cached_shard_that_was_damaged_is_made_again(catalog, tmp_path):
    workspace = Workspace(tmp_path / "work")
    ingest(recipe(*SETTINGS), catalog.description, workspace, Terminal(quiet=True))
    whole = contents(workspace.items)
    path = workspace.items / "part-00003.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)  # a hard link: the cached shard changes with it
    ingest(recipe(*SETTINGS), catalog.description, workspace, Terminal(quiet=True))
    assert contents(workspace.items) == whole


def test_a_worker_that_dies_loses_its_shards_to_another(catalog, tmp_path):
    with cluster(tmp_path) as address:
        from distributed import Client

        script = tmp_path / "run.py"
        script.write_text(RUN_INGEST)
        settings = (*SETTINGS, f"ingest.cluster={address}")
        run = subprocess.Popen(
            [sys.executable, str(script), str(catalog.description), str(tmp_path / "work"), *settings]
        )
        workspace = Workspace(tmp_path / "work")
        deadline = time.monotonic() + SECONDS
        while not list(workspace.shards.glob("*/shard.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        with Client(address) as client:
            victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        assert run.wait(SECONDS) == 0
    assert contents(workspace.items) == contents(catalog.work("reference").items)


def test_items_keep_their_place_in_the_row_log(catalog):
    import pyarrow.parquet as pq

    folder = catalog.work("reference").items
    row_log = pq.read_table(folder / "ledger.parquet").to_pylist()
    assert [line["row"] for line in row_log] == list(range(1, ROWS + 1))
    assert {line["row"]: line["reason"] for line in row_log if line["reason"]} == {
        8: "missing-image",
        151: "empty-id",
        301: "not-an-image",
    }
    stored = {
        (entry.file, position): identity
        for entry in read_manifest(folder)
        for position, identity in enumerate(read_shard(folder / entry.file, ["id"])["id"].to_pylist())
    }
    assert {(line["shard"], line["position"]): line["id"] for line in row_log if not line["reason"]} == stored
