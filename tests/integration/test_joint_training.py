"""Systems with one encoder, from end to end: trained, killed, continued, fine-tuned and compared with MLIM's."""

import shutil

import pandas as pd
import pytest

from mlim.config import override, parse
from mlim.recipe import Recipe
from mlim.steps.finetune import finetune
from mlim.steps.pretrain import pretrain
from mlim.training import loop
from mlim.workspace import Workspace
from tests.joint_recipe import SETTINGS

pytestmark = pytest.mark.integration

KILLED_AT = 6


@pytest.mark.parametrize("name", ["vilt", "pixel-bert"])
def test_it_is_trained_killed_continued_and_fine_tuned(name, tiny_recipe, own_workspace, tmp_path, quiet, monkeypatch):
    recipe = parse(Recipe, override(tiny_recipe.model_dump(mode="json"), SETTINGS), "recipe tiny")
    killed = Workspace(shutil.copytree(own_workspace.root, tmp_path / "killed"))
    summary = pretrain(recipe, own_workspace, quiet, name, 0)
    assert summary["references"].keys() == {"mlm"}
    history = pd.read_csv(own_workspace.pretrained(name, 0) / "history.csv")
    assert set(history["mode"]) == {"text_only"}
    assert history[["mlm", "itm"]].notna().all(axis=None)
    save = loop.Trainer._save

    def dies(self, done: bool) -> None:
        save(self, done)
        self._saver.wait()
        if self._state.step == KILLED_AT:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "_save", dies)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, killed, quiet, name, 0)
    monkeypatch.setattr(loop.Trainer, "_save", save)
    pretrain(recipe, killed, quiet, name, 0)
    assert _bytes(killed, name) == _bytes(own_workspace, name)
    for variant in (name, f"{name}-scratch"):
        assert finetune(recipe, own_workspace, quiet, variant, 0)["validation_pr_auc"] > 0


def _bytes(workspace: Workspace, name: str) -> bytes:
    return (workspace.pretrained(name, 0) / "model" / "model.safetensors").read_bytes()
