"""The command a person types, killed while it trains, and typed again."""

import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
from commands import finish, run, start, wait_for_checkpoint

from mlim.files import read_json, sha256_of
from mlim.recipe import Recipe
from mlim.training.metric_logger import TIMED
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

NAME, STEPS, EVERY = "recon-itm-mlm-mam", 240, 20


@pytest.fixture(scope="module")
def work(tiny_workspace, tiny_recipe, tmp_path_factory):
    """A maker of work folders that all hold the same data and the same recipe."""
    checkpoint = tiny_recipe.pretrain.checkpoint.model_copy(update={"every_steps": EVERY})
    shorter = {"steps": STEPS, "validate_every": 60, "checkpoint": checkpoint}
    changes = {stage: getattr(tiny_recipe, stage).model_copy(update=shorter) for stage in ("pretrain", "finetune")}
    recipe: Recipe = tiny_recipe.model_copy(update=changes)

    def make(name: str) -> Workspace:
        root = tmp_path_factory.mktemp(name) / "work"
        shutil.copytree(tiny_workspace.root, root)
        (root / "given.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        return Workspace(root)

    return make


def losses(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv").drop(columns=list(TIMED), errors="ignore")


@pytest.fixture(scope="module")
def undisturbed(work):
    workspace = work("undisturbed")
    run(workspace, "pretrain", NAME)
    return workspace.pretrained(NAME, 0)


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow), (signal.SIGTERM, 1)],
)
def test_a_killed_training_continues_to_the_same_model(work, undisturbed, number, code):
    workspace = work(number.name)
    place = workspace.checkpoints("pretrain", NAME, 0)
    process = start(workspace, "pretrain", NAME)
    wait_for_checkpoint(process, place, 2 * EVERY)
    process.send_signal(number)
    assert finish(process)[0] == code
    assert not workspace.pretrained(NAME, 0).exists()
    said = run(workspace, "pretrain", NAME)
    assert "continuing from the checkpoint of step" in said
    result = workspace.pretrained(NAME, 0)
    assert sha256_of(result / "model" / "model.safetensors") == sha256_of(undisturbed / "model" / "model.safetensors")
    pd.testing.assert_frame_equal(losses(result), losses(undisturbed))
    assert read_json(result / "summary.json")["final"] == read_json(undisturbed / "summary.json")["final"]
    assert not place.exists()


def test_sigterm_says_how_to_continue_and_never_starts_anew(work):
    workspace = work("told")
    place = workspace.checkpoints("finetune", "no-pretraining", 0)
    process = start(workspace, "finetune", "no-pretraining")
    wait_for_checkpoint(process, place, EVERY)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 1
    assert "stopped by SIGTERM after step" in said
    assert "the same command continues from it" in said
    assert "Traceback" not in said
    said = run(workspace, "finetune", "no-pretraining", "--resume", "never")
    assert "continuing" not in said
    summary = read_json(workspace.finetuned("no-pretraining", 0) / "summary.json")
    assert summary["steps"] == STEPS
    scores = pd.read_parquet(workspace.finetuned("no-pretraining", 0) / "scores.parquet")
    assert list(scores.columns) == ["item_a", "item_b", "label", "split", "modality", "score"]
    assert scores.groupby(["split", "modality"]).size().to_dict() == {
        (split, modality): 12 for split in ("test", "validation") for modality in ("both", "image", "text")
    }
    assert scores["score"].between(0, 1, inclusive="neither").all()
