"""Scoring in many processes, and after being killed: the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from mlim.errors import InputError
from mlim.matching import batch
from mlim.matching.batch import score_table
from mlim.steps.score import score_pairs
from tests.dask_cluster import cluster
from tests.unit.test_loading import build
from tests.unit.test_score_pairs import run_of, some_pairs, store, written

pytestmark = pytest.mark.integration

__all__ = ["store"]  # a fixture

PROGRAM = """
import sys
from pathlib import Path
import mlim
from mlim.console import Terminal
from mlim.matching import batch
from mlim.shards.items import ItemStore

batch.ITEMS_PER_BLOCK = 8
if __name__ == "__main__":
    model, items, index, folder = map(Path, sys.argv[1:])
    store = ItemStore.open(items, index)
    run = batch.ScoringRun(mlim.load(model, device="cpu"), "both", store, {}, folder / "cache", 0.5, chunk=4)
    batch.score_table(run, batch.PairsTable(folder / "p.parquet"), folder / "out.parquet", 1, Terminal(quiet=True))
"""
SECONDS = 300


def test_any_number_of_processes_gives_the_same_bytes(store, tiny_recipe, tmp_path, quiet, monkeypatch):
    """Even where others are started in the middle, because the rest is worth it."""
    started, pool = [], batch._pool
    monkeypatch.setattr(batch, "PROCESS_SECONDS", 0)
    monkeypatch.setattr(batch, "cores", lambda: 2)
    monkeypatch.setattr(batch, "_pool", lambda *given: started.append(given[-1]) or pool(*given))
    model = build(tiny_recipe, "separate")
    table = written(some_pairs(store, 120), tmp_path / "p.parquet")
    for workers in (1, None):
        run = run_of(model, store, tmp_path / f"cache{workers}")
        score_table(run, table, tmp_path / f"{workers}.parquet", workers, quiet)
    assert started == [2]
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "None.parquet").read_bytes()


def test_a_dask_cluster_gives_the_same_bytes(store, tiny_recipe, tmp_path, quiet):
    table = written(some_pairs(store, 120), tmp_path / "p.parquet")
    with cluster(tmp_path) as address:
        for name, model in (("joint", build(tiny_recipe)), ("late", build(tiny_recipe, "joint", 1))):
            here, there = (
                run_of(model, store, tmp_path / f"{name}-{at is None}", cluster=at) for at in (None, address)
            )
            score_table(here, table, tmp_path / "here.parquet", 1, quiet)
            counts = score_table(there, table, tmp_path / "there.parquet", 1, quiet)
            assert counts["scored"] == 120
            assert (tmp_path / "there.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
            assert not list((tmp_path / f"{name}-there").glob("scoring-*"))


def test_a_killed_run_goes_on_to_the_same_bytes(store, tiny_workspace, tiny_recipe, tmp_path, quiet, monkeypatch):
    model = build(tiny_recipe, "separate")
    model.save(tmp_path / "model")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    table = written(some_pairs(store, 160), tmp_path / "p.parquet")
    items, index = tiny_workspace.items, tiny_workspace.valid / "index.parquet"

    def start() -> subprocess.Popen:
        words = map(str, [sys.executable, program, tmp_path / "model", items, index, tmp_path])
        return subprocess.Popen([*words], env={**os.environ, "PYTHONPATH": str(Path.cwd())})

    kill_when_some_chunks_are_done(start(), tmp_path)
    assert not (tmp_path / "out.parquet").exists()
    assert start().wait(SECONDS) == 0
    monkeypatch.setattr(batch, "ITEMS_PER_BLOCK", 8)
    score_table(run_of(model, store, tmp_path / "whole", chunk=4), table, tmp_path / "whole.parquet", 1, quiet)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def kill_when_some_chunks_are_done(process: subprocess.Popen, folder: Path) -> None:
    """Kill -9 when the first chunks are done, long before the last."""
    end = time.monotonic() + SECONDS
    while not list(folder.glob("cache/scoring-*/scores-*.f8")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(SECONDS) == -signal.SIGKILL


def test_the_step_scores_the_items_of_a_work_folder(store, own_workspace, tiny_recipe, tmp_path, quiet):
    model = build(tiny_recipe, "separate")
    frame = pd.DataFrame({"item_a": [store.ids[0], store.ids[1]], "item_b": [store.ids[1], "gone"]})
    table = written(frame, tmp_path / "p.csv").path
    out = tmp_path / "out.csv"
    found = score_pairs(model, table, out, tiny_recipe, own_workspace, quiet, workers=1)
    assert (found["scored"], found["not_scored"], found["model"]) == (1, {"unknown-item": 1}, model.sha256)
    with pytest.raises(InputError, match=r"out\.csv: exists already"):
        score_pairs(model, table, out, tiny_recipe, own_workspace, quiet)
    with pytest.raises(InputError, match=r"the name must end in \.parquet or \.csv"):
        score_pairs(model, table, tmp_path / "out.xlsx", tiny_recipe, own_workspace, quiet)
    other = build(tiny_recipe, "separate")
    other.settings = other.settings.model_copy(update={"image_size": 32})
    with pytest.raises(InputError, match="images have 16 x 16 pixels, but the model reads 32 x 32"):
        score_pairs(other, table, tmp_path / "o.csv", tiny_recipe, own_workspace, quiet)
