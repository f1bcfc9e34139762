"""Systems that learn from annotations, from annotations to a matcher."""

import shutil

import numpy as np
import pandas as pd
import pytest

from mlim.config import override, parse
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.judges import judge_of
from mlim.evaluation.metrics.measure import plain_figures
from mlim.files import read_json
from mlim.models.systems import load_system
from mlim.recipe import Recipe
from mlim.steps.ablate import ablate
from mlim.steps.finetune import finetune
from mlim.steps.pretrain import pretrain
from mlim.training import loop
from mlim.workspace import Workspace
from tests.decoder_recipe import SETTINGS
from tests.object_tables import NAMES, annotate

pytestmark = pytest.mark.integration

QUIET = Terminal(quiet=True)
KILLED_AT = 3


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    return parse(Recipe, override(tiny_recipe.model_dump(mode="json"), SETTINGS), "recipe tiny")


def test_they_are_trained_on_annotations_killed_continued_and_compare_items(
    recipe, own_workspace, tmp_path, monkeypatch
):
    with pytest.raises(InputError, match="annotations is missing; run `mlim annotate` first"):
        pretrain(recipe, own_workspace, QUIET, "e2e-vlp", 0)
    annotate(own_workspace)
    killed = Workspace(shutil.copytree(own_workspace.root, tmp_path / "killed"))
    for name in ("e2e-vlp", "detector", "git", "lxmert"):
        pretrain(recipe, own_workspace, QUIET, name, 0)
        history = pd.read_csv(own_workspace.pretrained(name, 0) / "history.csv")
        for loss in recipe.pretrainings[name].loss_names:
            assert np.isfinite(history[loss]).all(), (name, loss)
    save = loop.Trainer._save

    def dies(self, done: bool) -> None:
        save(self, done)
        self._saver.wait()
        if self._state.step == KILLED_AT:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "_save", dies)
    often = recipe.pretrain.checkpoint.model_copy(update={"every_steps": KILLED_AT})
    same = recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update={"checkpoint": often})})
    for name in ("e2e-vlp", "lxmert"):
        with pytest.raises(KeyboardInterrupt):
            pretrain(same, killed, QUIET, name, 0)
    monkeypatch.setattr(loop.Trainer, "_save", save)
    for name in ("e2e-vlp", "lxmert"):
        pretrain(same, killed, QUIET, name, 0)
        weights = [work.pretrained(name, 0) / "model" / "model.safetensors" for work in (own_workspace, killed)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    detector = load_system(own_workspace.pretrained("detector", 0) / "model").model
    assert detector.inputs.model_dump(mode="json")["objects"] == NAMES
    for variant in ("e2e-vlp", "git", "lxmert"):
        assert finetune(recipe, own_workspace, QUIET, variant, 0)["validation_pr_auc"] > 0
    steps = {"git-caption": 4, "e2e-caption": 0, "mlim-caption": 4}
    writes = {name: finetune(recipe, own_workspace, QUIET, name, 0) for name in steps}
    assert {name: summary["steps"] for name, summary in writes.items()} == steps
    scores = pd.read_parquet(own_workspace.finetuned("git-caption", 0) / "scores.parquet")
    assert scores.groupby("split").size().to_dict() == {"test": 6, "validation": 6}
    assert {tuple(texts) for texts in scores["references"]} == {("one", "one"), ("two", "two")}
    main = {"main": "git", "variants": {name: recipe.variants[name] for name in ("git", *steps)}}
    summary = ablate(recipe.model_copy(update=main), own_workspace, QUIET)
    assert summary["tasks"] == ["caption"]
    table = read_json(own_workspace.ablation / "caption.json")
    assert all({"cider", "bleu4", "rouge"} <= table["rows"][name].keys() for name in steps)
    judged = judge_of("caption")
    perfect = scores.assign(written=[texts[0] for texts in scores["references"]])
    figures = dict(zip(("cider", "bleu4", "rouge"), plain_figures(judged.measure(perfect), len(perfect)), strict=True))
    assert figures["rouge"] == pytest.approx(1.0)
