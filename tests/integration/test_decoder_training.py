"""Systems that find objects and write, from annotations to a matcher."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
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

pytestmark = pytest.mark.integration

QUIET = Terminal(quiet=True)
NAMES = {"labels": ["left", "right"], "attributes": {"size": ["small", "large"]}}
KILLED_AT = 3


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    return parse(Recipe, override(tiny_recipe.model_dump(mode="json"), SETTINGS), "recipe tiny")


def annotate(workspace: Workspace) -> None:
    """One or two objects in two thirds of the pictures, and captions of all."""
    ids = pq.read_table(workspace.pairs / "items.parquet", columns=["id"])["id"].to_pylist()
    rows = [(item, side) for number, item in enumerate(ids) for side in range(number % 3)]
    corners = np.array([(0.1 + 0.4 * side, 0.2, 0.4 + 0.4 * side, 0.7) for _, side in rows])
    regions = {
        "id": [item for item, _ in rows],
        **dict(zip(("x0", "y0", "x1", "y1"), corners.T, strict=True)),
        "label": [NAMES["labels"][side] for _, side in rows],
        "attributes": [[{"kind": "size", "value": NAMES["attributes"]["size"][side]}] for _, side in rows],
        "crowd": np.zeros(len(rows), dtype=bool),
        "score": np.ones(len(rows)),
    }
    captions = {"id": ids * 2, "caption_id": list(map(str, range(2 * len(ids)))), "caption": ["one", "two"] * len(ids)}
    workspace.annotations.mkdir()
    for name, columns in (("regions", regions), ("captions", captions)):
        table = pa.table(columns)
        with pa.ipc.new_file(str(workspace.annotations / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)
    counted = {"labels": _counted(NAMES["labels"]), "attributes": {"size": _counted(NAMES["attributes"]["size"])}}
    (workspace.annotations / "vocabularies.json").write_text(json.dumps(counted))


def _counted(names: list[str]) -> list[dict]:
    return [{"name": name, "count": 1} for name in names]


def test_they_are_trained_on_annotations_killed_continued_and_compare_items(
    recipe, own_workspace, tmp_path, monkeypatch
):
    with pytest.raises(InputError, match="no objects are annotated, which task detect learns from"):
        pretrain(recipe, own_workspace, QUIET, "e2e-vlp", 0)
    annotate(own_workspace)
    killed = Workspace(shutil.copytree(own_workspace.root, tmp_path / "killed"))
    for name in ("e2e-vlp", "detector", "git"):
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
    with pytest.raises(KeyboardInterrupt):
        pretrain(same, killed, QUIET, "e2e-vlp", 0)
    monkeypatch.setattr(loop.Trainer, "_save", save)
    pretrain(same, killed, QUIET, "e2e-vlp", 0)
    weights = [work.pretrained("e2e-vlp", 0) / "model" / "model.safetensors" for work in (own_workspace, killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    detector = load_system(own_workspace.pretrained("detector", 0) / "model").model
    assert detector.inputs.model_dump(mode="json")["objects"] == NAMES
    for variant in ("e2e-vlp", "git"):
        assert finetune(recipe, own_workspace, QUIET, variant, 0)["validation_pr_auc"] > 0
    writes = {name: finetune(recipe, own_workspace, QUIET, name, 0) for name in ("git-caption", "e2e-caption")}
    assert {name: summary["steps"] for name, summary in writes.items()} == {"git-caption": 4, "e2e-caption": 0}
    scores = pd.read_parquet(own_workspace.finetuned("git-caption", 0) / "scores.parquet")
    assert scores.groupby("split").size().to_dict() == {"test": 6, "validation": 6}
    assert {tuple(texts) for texts in scores["references"]} == {("one", "one"), ("two", "two")}
    main = {"main": "git", "variants": {name: recipe.variants[name] for name in ("git", "git-caption", "e2e-caption")}}
    summary = ablate(recipe.model_copy(update=main), own_workspace, QUIET)
    assert summary["tasks"] == ["caption"]
    table = read_json(own_workspace.ablation / "caption.json")
    assert {"cider", "bleu4", "rouge"} <= table["rows"]["git-caption"].keys()
    judged = judge_of("caption")
    perfect = scores.assign(written=[texts[0] for texts in scores["references"]])
    figures = dict(zip(("cider", "bleu4", "rouge"), plain_figures(judged.measure(perfect), len(perfect)), strict=True))
    assert figures["rouge"] == pytest.approx(1.0)
