"""A registered version trained again: the same losses and figures to the last bit, and what is refused."""

import math
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from mlim.embedded.generate import synthesize
from mlim.errors import InputError
from mlim.recipe import load_recipe
from mlim.registry import Registry
from mlim.steps.evaluate import evaluate
from mlim.steps.finetune import finetune
from mlim.steps.ingest import ingest
from mlim.steps.pairs import make_pairs
from mlim.steps.pretrain import pretrain
from mlim.steps.register import register
from mlim.steps.reproduce import largest_difference, reproduce
from mlim.steps.stack import stack
from mlim.steps.validate import validate
from mlim.tracking import client
from mlim.workspace import Workspace
from mlim.writer import claim_work
from tests.conftest import TINY_SETTINGS

pytestmark = pytest.mark.integration


def test_a_version_trained_again_is_the_same_to_the_last_bit(tmp_path, new_store, quiet, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthesize(tmp_path / "data", 240, 0, 32, 1, quiet)
    catalog = tmp_path / "data" / "catalog.yaml"
    settings = [*TINY_SETTINGS, "ingest.workers=1", f"tracking.uri={new_store(tmp_path / 'own.db')}"]
    recipe, workspace = load_recipe("demo", settings), Workspace(tmp_path / "work")
    claim_work(workspace)
    for step in (ingest, validate, make_pairs):
        step(recipe, catalog, workspace, quiet)
    pretrain(recipe, workspace, quiet, str(recipe.main_variant.pretraining), 0)
    finetune(recipe, workspace, quiet, recipe.main, 0)
    for step in (stack, evaluate, register):
        step(recipe, workspace, quiet)
    registry, again = Registry(recipe.tracking), Workspace(tmp_path / "again")
    with pytest.raises(InputError, match="holds the results of a tracked pipeline, which would be replaced"):
        reproduce(recipe.tracking, registry, "1", catalog, workspace, quiet, anyway=True)
    with pytest.raises(InputError, match="does not say which commit trained it"):  # there is no repository here
        reproduce(recipe.tracking, registry, "1", catalog, again, quiet)
    found = reproduce(recipe.tracking, registry, "1", catalog, again, quiet, anyway=True)
    assert found["same"], found
    assert found["trainings"].keys() == {"pretrain", "finetune"}
    assert all(each["rows"] > 0 for each in found["trainings"].values())
    assert found["figures"]["test/pr_auc"]["now"] > 0
    run = client(recipe.tracking).get_run(registry.tags("1")["mlim.run.finetune"])
    (Path(url2pathname(urlsplit(run.info.artifact_uri).path)) / "history.csv").unlink()
    with pytest.raises(InputError, match="the history of the finetune run is gone"):
        reproduce(recipe.tracking, registry, "1", catalog, Workspace(tmp_path / "third"), quiet, anyway=True)
    assert not (tmp_path / "third").exists()


def row(step, loss, kind="train"):
    return {"step": step, "kind": kind, "mode": "all", "mlm": loss, "samples_per_second": 7.0 * loss}


def test_the_largest_difference_of_two_histories():
    first = [row(1, 0.5), row(2, 0.25), row(2, math.nan, "validation")]
    assert largest_difference(first, [dict(each, samples_per_second=1.0) for each in first]) == 0
    assert largest_difference(first, [row(1, 0.5), row(2, 0.75), first[2]]) == 0.5
    assert largest_difference(first, first[:2]) == math.inf
    assert largest_difference(first, [row(1, math.nan), *first[1:]]) == math.inf
