"""LXMERT over stored regions of every source: trained, killed, continued, fine-tuned."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from mlim.config import override, parse
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.recipe import Recipe
from mlim.steps.finetune import finetune
from mlim.steps.missing_regions import make_missing_regions, require_regions
from mlim.steps.pretrain import pretrain
from mlim.steps.regions import regions
from mlim.steps.task_variants import ExperimentRun
from mlim.steps.trainings import train_missing
from mlim.training import loop
from mlim.workspace import Workspace
from tests.region_files import annotate, write_tsv
from tests.regions_recipe import SETTINGS
from tests.small_catalog import described

pytestmark = pytest.mark.integration

QUIET = Terminal(quiet=True)
KILLED_AT = 3


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    return parse(Recipe, override(tiny_recipe.model_dump(mode="json"), SETTINGS), "recipe tiny")


def weights(workspace: Workspace, name: str) -> bytes:
    return (workspace.pretrained(name, 0) / "model" / "model.safetensors").read_bytes()


def test_lxmert_learns_from_regions_of_every_source_killed_and_continued(recipe, own_workspace, tmp_path, monkeypatch):
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(yaml.safe_dump(described()))
    annotate(own_workspace)
    with pytest.raises(InputError, match=r"regions/annotated is missing; run `mlim regions annotated` first"):
        pretrain(recipe, own_workspace, QUIET, "annotated", 0)
    with pytest.raises(InputError, match="run `mlim pretrain detector` first"):
        regions(recipe, catalog, own_workspace, QUIET, "detector:detector")
    some = {name: recipe.variants[name] for name in ("annotated", "detected")}
    compared = recipe.model_copy(update={"variants": some})
    with pytest.raises(InputError, match="run `mlim pretrain detector --seed 0`; `mlim regions") as refused:
        train_missing([ExperimentRun(compared, own_workspace)], QUIET)
    assert "`mlim regions detector:detector`" in str(refused.value)
    assert not own_workspace.pretrained("annotated", 0).exists()
    make_missing_regions(compared, catalog, own_workspace, QUIET)
    require_regions(compared, own_workspace)
    sources = {"annotated": "annotated", "grid": "grid", "detected": "detector:detector"}
    sources["tsv"] = f"tsv:{write_tsv(tmp_path / 'f.tsv')}"
    for source in sources.values():
        made = regions(recipe, catalog, own_workspace, QUIET, source)
        files = {path.name: path.read_bytes() for path in own_workspace.regions(source).iterdir()}
        assert regions(recipe, catalog, own_workspace, QUIET, source) == made
        assert {path.name: path.read_bytes() for path in own_workspace.regions(source).iterdir()} == files
    assert made["regions"] == 2 * 38
    killed = Workspace(shutil.copytree(own_workspace.root, tmp_path / "killed"))
    for name in sources:
        pretrain(recipe, own_workspace, QUIET, name, 0)
        history = pd.read_csv(own_workspace.pretrained(name, 0) / "history.csv")
        for loss in recipe.pretrainings[name].loss_names:
            assert np.isfinite(history[loss]).all(), (name, loss)
        assert finetune(recipe, own_workspace, QUIET, name, 0)["validation_pr_auc"] > 0
    save = loop.Trainer._save

    def dies(self, done: bool) -> None:
        save(self, done)
        self._saver.wait()
        if self._state.step == KILLED_AT:
            raise KeyboardInterrupt

    often = recipe.pretrain.checkpoint.model_copy(update={"every_steps": KILLED_AT})
    same = recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update={"checkpoint": often})})
    monkeypatch.setattr(loop.Trainer, "_save", dies)
    with pytest.raises(KeyboardInterrupt):
        pretrain(same, killed, QUIET, "annotated", 0)
    monkeypatch.setattr(loop.Trainer, "_save", save)
    pretrain(same, killed, QUIET, "annotated", 0)
    assert weights(own_workspace, "annotated") == weights(killed, "annotated")
    trained_again = recipe.model_copy(update={"seeds": (1,)})
    with pytest.raises(InputError, match="detector-s1/model is missing; run `mlim pretrain detector"):
        regions(trained_again, catalog, own_workspace, QUIET, "detector:detector")
