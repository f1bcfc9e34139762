"""Retrieval from end to end: fine-tuned, continued, without fine-tuning, by vectors and by agreement, in one table."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from mlim.config import override, parse
from mlim.console import Terminal
from mlim.errors import DataError
from mlim.files import read_json
from mlim.recipe import Recipe
from mlim.steps.ablate import ablate
from mlim.steps.finetune import finetune
from mlim.steps.pretrain import pretrain
from mlim.steps.report import report
from mlim.training import loop
from mlim.workspace import Workspace
from tests.commands import call
from tests.dual_recipe import SETTINGS

pytestmark = pytest.mark.integration

RETRIEVAL = (
    *SETTINGS[:-1],
    "tasks={retrieval: {steps: 6, batch_size: 4, validate_every: 3, gallery: 6, checkpoint: {every_steps: 2}}}",
    "variants.dual-retrieval={label: tuned, pretraining: dual, task: retrieval}",
    "variants.dual-zero={label: as it is, pretraining: dual, task: retrieval, zero_shot: true}",
    "variants.mlim-retrieval={label: one encoder, pretraining: null, task: retrieval}",
    "main=no-pretraining",
)
KEPT = ("no-pretraining", "dual-retrieval", "dual-zero", "mlim-retrieval")
KILLED_AT = 4


def test_variants_of_retrieval_have_a_table_and_a_section(tiny_recipe, own_workspace, tmp_path, monkeypatch, capsys):
    quiet = Terminal(quiet=True)
    recipe = parse(Recipe, override(tiny_recipe.model_dump(mode="json"), RETRIEVAL), "recipe tiny")
    recipe = recipe.model_copy(update={"variants": {name: recipe.variants[name] for name in KEPT}})
    pretrain(recipe, own_workspace, quiet, "dual", 0)
    killed = Workspace(shutil.copytree(own_workspace.root, tmp_path / "killed"))
    (own_workspace.root / "given.yaml").write_text(recipe.to_yaml())
    for name in KEPT:
        options = ["--recipe", str(own_workspace.root / "given.yaml"), "--work", str(own_workspace.root)]
        assert call(monkeypatch, "finetune", name, *options) == 0
    assert "dual-zero: 0 steps, validation r1" in capsys.readouterr().err
    summaries = {name: read_json(own_workspace.finetuned(name, 0) / "summary.json") for name in KEPT}
    assert [summaries[name].get("by") for name in KEPT] == [None, "itc", "itc", "itm"]
    assert summaries["dual-zero"]["steps"] == 0

    _killed(recipe, killed, monkeypatch)
    finetune(recipe, killed, quiet, "dual-retrieval", 0)
    weights = [
        (each.finetuned("dual-retrieval", 0) / "model" / "model.safetensors") for each in (killed, own_workspace)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    start = own_workspace.pretrained("dual", 0) / "model" / "model.safetensors"
    assert (own_workspace.finetuned("dual-zero", 0) / "model" / "model.safetensors").read_bytes() == start.read_bytes()
    scores = [pd.read_parquet(own_workspace.finetuned(name, 0) / "scores.parquet") for name in KEPT[1:]]
    assert scores[0]["id"].equals(scores[1]["id"])
    assert scores[0]["id"].equals(scores[2]["id"])
    assert scores[0].groupby("split").size().to_dict() == {"test": 6, "validation": 6}

    summary = ablate(recipe, own_workspace, quiet)
    assert (list(summary["rows"]), summary["tasks"]) == (["no-pretraining"], ["retrieval"])
    table = read_json(own_workspace.ablation / "retrieval.json")
    assert (list(table["rows"]), table["main"], table["examples"]) == (list(KEPT[1:]), "dual-retrieval", 6)
    assert table["no_interval"]  # two test families
    assert "difference" in table["rows"]["dual-zero"]["r1"]
    page = Path(report(recipe, own_workspace, quiet)["path"]).read_text()
    assert "R@1, mean of both directions" in page
    assert "as it is (without fine-tuning)" in page

    path = own_workspace.finetuned("mlim-retrieval", 0) / "summary.json"
    path.write_text(json.dumps({**read_json(path), "items_seen": 5}))
    with pytest.raises(DataError, match=r"unequal budgets of items in fine-tuning: 24 for .* 5 for"):
        ablate(recipe, own_workspace, quiet)


def _weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def _killed(recipe: Recipe, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fine-tuning ends after a checkpoint in the middle."""
    save = loop.Trainer._save

    def dies(self, done: bool) -> None:
        save(self, done)
        self._saver.wait()
        if self._state.step == KILLED_AT:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "_save", dies)
    with pytest.raises(KeyboardInterrupt):
        finetune(recipe, workspace, Terminal(quiet=True), "dual-retrieval", 0)
    monkeypatch.setattr(loop.Trainer, "_save", save)
