"""Experiments whose runs read images of another size."""

import pytest

from mlim.config import parse
from mlim.embedded.generate import synthesize
from mlim.errors import InputError
from mlim.experiments import ExperimentPlan, load_experiment
from mlim.files import read_json
from mlim.steps.experiment import run_experiment
from mlim.steps.ingest import ingest
from mlim.steps.pairs import make_pairs
from mlim.steps.validate import validate
from mlim.workspace import Workspace
from mlim.writer import claim_work

pytestmark = pytest.mark.integration

LARGER = ["main=no-pretraining", "image.size=32", "image.grid=8"]
FINER = [
    "main=no-pretraining",
    "image.grid=8",
    "model.embedder={strides: [2], channels: [8]}",
    "model.decoder={strides: [2], channels: [8]}",
]


def test_runs_with_images_of_another_size_store_them_and_use_the_same_pairs(tiny_recipe, tmp_path, quiet, monkeypatch):
    catalog, work = tmp_path / "data" / "catalog.yaml", Workspace(tmp_path / "work")
    synthesize(tmp_path / "data", 240, 0, 64, 1, quiet)
    claim_work(work)
    ingest(tiny_recipe, catalog, work, quiet)
    validate(tiny_recipe, catalog, work, quiet)
    make_pairs(tiny_recipe, catalog, work, quiet)
    runs = {"images-of-32": LARGER, "patches-of-2": FINER}
    plan = parse(ExperimentPlan, {**load_experiment("images").model_dump(), "runs": runs}, "experiment images")
    monkeypatch.setattr("mlim.steps.experiment.load_experiment", lambda name: plan)

    with pytest.raises(InputError, match="images are of 32 pixels, which have to be ingested; give --catalog"):
        run_experiment(tiny_recipe, work, quiet, "images")
    summary = run_experiment(tiny_recipe, work, quiet, "images", catalog=catalog)

    assert set(summary["rows"]) == {"recon-mlm-mam", "no-pretraining", *runs}
    assert summary["rows"]["images-of-32"]["minus"] is not None  # judged on the same pairs
    larger, finer = map(work.experiment_run, runs)
    assert read_json(larger.items / "summary.json")["ingested"] == read_json(work.items / "summary.json")["ingested"]
    assert larger.items.resolve() != work.items.resolve() == finer.items.resolve()
    stored = (larger.items / "summary.json").stat().st_mtime_ns
    assert run_experiment(tiny_recipe, work, quiet, "images", catalog=catalog) == summary
    assert (larger.items / "summary.json").stat().st_mtime_ns == stored
