"""Pre-training and fine-tuning as steps: what they leave in the work folder and with the tracked run."""

import shutil

import pandas as pd
import pytest

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.pr_auc import average_precision
from mlim.evaluation.scores import labels_of, part, read_scores, scores_of
from mlim.files import read_json, sha256_of, write_json
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.steps.ablate import ablate
from mlim.steps.finetune import finetune
from mlim.steps.pretrain import pretrain
from mlim.steps.task_variants import ExperimentRun
from mlim.steps.trainings import train_missing
from mlim.tracking import client
from mlim.training.metric_logger import ROW
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

NAME = "recon-mlm-mam"


@pytest.fixture(scope="module")
def trained(tiny_recipe, tiny_workspace, tmp_path_factory):
    """A work folder after pre-training, the main variant and the variants of one modality."""
    root = tmp_path_factory.mktemp("trained") / "work"
    shutil.copytree(tiny_workspace.root, root)
    workspace, terminal = Workspace(root), Terminal(quiet=True)
    summaries = {"pretrain": pretrain(tiny_recipe, workspace, terminal, NAME, 0)}
    for variant in (tiny_recipe.main, "text-only", "image-only"):
        summaries[variant] = finetune(tiny_recipe, workspace, terminal, variant, 0)
    return workspace, summaries


def test_pre_training_leaves_a_model_its_losses_and_a_summary(trained, tiny_recipe):
    workspace, summaries = trained
    folder, summary = workspace.pretrained(NAME, 0), summaries["pretrain"]
    assert read_json(folder / "summary.json") == summary
    assert summary["samples_seen"] == tiny_recipe.pretrain.steps * tiny_recipe.pretrain.batch_size
    assert summary["final"].keys() == {"mlm", "recon"}
    model = Mlim.from_pretrained(folder / "model")
    assert summary["parameters"]["total"] == sum(parameter.numel() for parameter in model.parameters())
    history = pd.read_csv(folder / "history.csv")
    assert {*history.columns[:6]} == {*ROW, "mlm", "recon", "total"}
    last = history[(history["kind"] == "validation") & (history["step"] == tiny_recipe.pretrain.steps)]
    assert set(last["mode"]) == {"heavy_image", "heavy_text", "light", "all"}
    assert summary["references"].keys() == summary["final"].keys()
    assert summary["not_beaten"]  # after a handful of steps
    assert not workspace.checkpoints("pretrain", NAME, 0).exists()


def test_fine_tuning_leaves_scores_of_all_three_ways(trained, tiny_recipe):
    workspace, summaries = trained
    folder, summary = workspace.finetuned(tiny_recipe.main, 0), summaries[tiny_recipe.main]
    assert read_json(folder / "summary.json") == summary
    scores = pd.read_parquet(folder / "scores.parquet")
    assert set(scores["modality"]) == {"both", "text", "image"}
    chosen = scores[(scores["split"] == "validation") & (scores["modality"] == "both")]
    found = average_precision(chosen["label"].to_numpy(dtype="int64"), chosen["score"].to_numpy())
    assert found == pytest.approx(summary["validation_pr_auc"])
    Matcher.from_pretrained(folder / "model")


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_variant_of_one_modality_is_scored_by_it_alone(trained, modality):
    workspace, summaries = trained
    scores = pd.read_parquet(workspace.finetuned(f"{modality}-only", 0) / "scores.parquet")
    assert set(scores["modality"]) == {modality}
    assert summaries[f"{modality}-only"]["modality"] == modality


def test_every_loss_by_mode_reaches_the_tracked_run(trained, tiny_recipe):
    _, summaries = trained
    run = client(tiny_recipe.tracking).get_run(summaries["pretrain"]["run_id"])
    assert run.info.status == "FINISHED"
    wanted = {"train/recon", "validation/mlm/light", "validation/recon/heavy_image", "learning_rate", "grad_norm"}
    wanted |= {"samples_per_second"}
    assert wanted <= run.data.metrics.keys()
    stored = {entry.path for entry in client(tiny_recipe.tracking).list_artifacts(run.info.run_id)}
    assert stored == {"history.csv", "recipe.yaml", "samples"}  # strips of reconstructions
    assert run.data.metrics["validation/mlm"] == pytest.approx(summaries["pretrain"]["final"]["mlm"])


def test_the_same_recipe_data_and_seed_give_the_same_bytes(trained, tiny_recipe, own_workspace, quiet):
    workspace, _ = trained
    pretrain(tiny_recipe, own_workspace, quiet, NAME, 0)
    finetune(tiny_recipe, own_workspace, quiet, tiny_recipe.main, 0)
    variant = tiny_recipe.main
    for one, other in (
        (workspace.pretrained(NAME, 0), own_workspace.pretrained(NAME, 0)),
        (workspace.finetuned(variant, 0), own_workspace.finetuned(variant, 0)),
    ):
        for name in ("model/model.safetensors", "model/tokenizer.json"):
            assert sha256_of(one / name) == sha256_of(other / name)
    scores = [each.finetuned(variant, 0) / "scores.parquet" for each in (workspace, own_workspace)]
    assert sha256_of(scores[0]) == sha256_of(scores[1])


def test_a_new_training_leaves_nothing_of_an_earlier_one_to_look_at(tiny_recipe, own_workspace, quiet):
    folder = own_workspace.samples("pretrain", NAME, 0) / "reconstructions"
    folder.mkdir(parents=True)
    (folder / "step-99999999.png").touch()
    pretrain(tiny_recipe, own_workspace, quiet, NAME, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000003.png", "step-00000006.png"]


def test_further_fine_tunings_start_from_the_same_pre_training_and_leave_the_first_alone(
    trained, tiny_recipe, tmp_path
):
    workspace = Workspace(shutil.copytree(trained[0].root, tmp_path / "work"))
    variants = {name: tiny_recipe.variants[name] for name in (tiny_recipe.main, "text-only")}
    recipe = tiny_recipe.model_copy(update={"variants": variants, "finetunings": 2})
    first = {variant: sha256_of(workspace.finetuned(variant, 0) / "scores.parquet") for variant in variants}
    place = ExperimentRun(recipe, workspace)
    train_missing([place], Terminal(quiet=True))
    summary = ablate(recipe, workspace, Terminal(quiet=True))
    for variant, sha256 in first.items():
        folder, again = workspace.finetuned(variant, 0), workspace.finetuned(variant, 0, 1)
        assert sha256_of(folder / "scores.parquet") == sha256 != sha256_of(again / "scores.parquet")
        further, of_first = (read_json(place / "summary.json") for place in (again, folder))
        assert (further["seed"], further["again"], further["made_from"]) == (0, 1, of_first["made_from"])
        scores = [part(read_scores(place, ""), split="test") for place in (folder, again)]
        shown = [part(one, modality=recipe.variants[variant].modality) for one in scores]
        figures = [average_precision(labels_of(one), scores_of(one)) for one in shown]
        assert summary["rows"][variant]["by_seed"] == pytest.approx([sum(figures) / 2])
    assert summary["spread"]["finetunings"] > 0
    changed = workspace.finetuned(tiny_recipe.main, 0) / "summary.json"
    write_json(changed, {**read_json(changed), "made_from": "another pre-training"})
    with pytest.raises(InputError, match=r"-s0\.1 was trained with other settings"):
        train_missing([place], Terminal(quiet=True))
