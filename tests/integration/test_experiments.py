"""Declared experiments: variants and runs, trained once, compared on equal terms."""

import re
import shutil
import sys
import time
from dataclasses import replace

import psutil
import pytest
from commands import PATIENCE, call, start

from mlim.cli.main import main
from mlim.config import parse
from mlim.console import Terminal
from mlim.errors import DataError, InputError
from mlim.evaluation.evidence import read_evidence
from mlim.evaluation.pr_auc import average_precision
from mlim.evaluation.scores import labels_of, part, read_scores, scores_of
from mlim.experiments import ExperimentPlan, experiment_names, load_experiment
from mlim.files import read_json, write_json
from mlim.recipe import load_recipe
from mlim.steps.experiment import compare, describe_experiment, run_experiment
from mlim.steps.experiment_runs import recipe_of_run, trained_variants, variants_of
from mlim.steps.gathered import gather
from mlim.tracking import run_tags
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration


def recipes_of(name):
    """The recipes for CPUs whose variants an experiment compares: those that match, or those of other tasks."""
    first, systems = load_experiment(name).variants[0], load_recipe("systems")
    other = first in systems.variants and systems.variants[first].task != "match"
    return ["systems"] if other else ["demo", "small"]


@pytest.mark.parametrize(("name", "recipe"), [(name, each) for name in experiment_names() for each in recipes_of(name)])
def test_every_experiment_fits_the_recipes_for_cpus(name, recipe):
    """Each run changes what it trains, of matching the main variant, of other tasks at most one variant each."""
    experiment, chosen = load_experiment(name), load_recipe(recipe)
    matches = recipe != "systems"
    pairs = any(chosen.variants[name].task == "match" for name in experiment.variants)
    assert set(variants_of(chosen, experiment).variants) == {*experiment.variants, *([chosen.main] if pairs else [])}
    for run in experiment.runs:
        changed = recipe_of_run(chosen, experiment, run)
        assert changed.variants
        if matches:
            assert list(changed.variants) == [changed.main]
            assert changed != chosen
        for variant, each in changed.variants.items():
            assert variant in chosen.variants
            if not matches:
                assert variant in experiment.variants
                assert changed.training_key("finetune", variant) != chosen.training_key("finetune", variant)
                assert [*changed.of_task(each.task).variants] == [variant]


def test_the_help_names_every_experiment(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mlim", "ablate", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert set(experiment_names()) <= set(re.findall(r"[\w-]+", capsys.readouterr().out))


def test_an_unknown_experiment_is_named():
    with pytest.raises(InputError, match=r"tabel2: no such experiment.*table2"):
        load_experiment("tabel2")


@pytest.fixture(scope="module")
def two_seeds(tiny_recipe):
    """The tiny recipe with two seeds."""
    return tiny_recipe.model_copy(update={"seeds": (0, 1)})


@pytest.fixture(scope="module")
def compared(two_seeds, tiny_workspace, tmp_path_factory):
    """The experiment `mdo`, trained once: its work folder, which tests only read, and its summary."""
    place = Workspace(shutil.copytree(tiny_workspace.root, tmp_path_factory.mktemp("experiment") / "work"))
    return place, run_experiment(two_seeds, place, Terminal(quiet=True), "mdo")


@pytest.fixture
def own_folder(compared, tmp_path):
    """A copy of that work folder which one test may write to."""
    return Workspace(shutil.copytree(compared[0].root, tmp_path / "experiment", symlinks=True))


def test_an_experiment_trains_variants_and_runs(compared, two_seeds):
    workspace, summary = compared
    assert summary["judged_on"] == "test"
    assert set(summary["rows"]) == {"recon-mlm-mam", "no-mdo", "mdo-lower", "mdo-higher"}
    assert summary["rows"]["recon-mlm-mam"]["minus"] is None
    for variant in ("no-mdo", "mdo-lower"):
        found = summary["rows"][variant]
        main = summary["rows"]["recon-mlm-mam"]["by_seed"]
        mean = sum(found["by_seed"][seed] - main[seed] for seed in ("0", "1")) / 2
        assert found["minus"]["value"] == pytest.approx(mean)
        assert found["minus"]["low"] is None  # two families in the test split
    assert read_json(workspace.experiments / "mdo.json") == summary
    shared = workspace.experiment_run("mdo-lower").pretrained("recon-mlm-mam", 0)
    assert shared.resolve() == workspace.pretrained("recon-mlm-mam", 0).resolve()  # equal, so trained once
    trained = run_tags(two_seeds.tracking, read_json(shared / "summary.json")["run_id"])
    assert trained["mlim.recipe"] == two_seeds.name  # and for the recipe, not for a run of an experiment


def test_an_experiment_goes_on_where_it_was(two_seeds, own_folder, compared, quiet):
    there = own_folder.experiment_run("mdo-lower").finetuned("recon-mlm-mam", 1) / "summary.json"
    before = there.stat().st_mtime_ns
    gone = own_folder.finetuned("no-mdo", 0)
    shutil.rmtree(gone)
    assert run_experiment(two_seeds, own_folder, quiet, "mdo") == compared[1]
    assert there.stat().st_mtime_ns == before
    assert gone.is_dir()


def test_several_trainings_at_a_time_give_what_one_after_another_gives(two_seeds, own_folder, compared, quiet):
    for variant in ("recon-mlm-mam", "no-mdo"):
        shutil.rmtree(own_folder.finetuned(variant, 0))
    together = run_experiment(two_seeds, own_folder, quiet, "table1", jobs=2)
    for variant, found in together["rows"].items():
        for seed, value in found["by_seed"].items():
            assert value == pytest.approx(compared[1]["rows"][variant]["by_seed"][seed], abs=1e-3)


def training_processes(experiment):
    children = psutil.Process(experiment.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in str(child.cmdline())]


MOMENTS = {
    "when its processes start": lambda experiment, folder: training_processes(experiment),
    "when its trainings start": lambda experiment, folder: list(folder.glob(".*.lock")),
    "when its trainings have saved": lambda experiment, folder: list(folder.glob("*/step-00000002/manifest.json")),
}


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("when its processes start", marks=pytest.mark.slow),
        pytest.param("when its trainings start", marks=pytest.mark.slow),
        "when its trainings have saved",
    ],
)
def test_an_experiment_that_is_stopped_leaves_no_process_that_trains_on(moment, tiny_recipe, own_workspace):
    checkpoint = tiny_recipe.pretrain.checkpoint.model_copy(update={"keep": 100_000})
    pretrain = tiny_recipe.pretrain.model_copy(update={"steps": 100_000, "checkpoint": checkpoint})
    endless = tiny_recipe.model_copy(update={"pretrain": pretrain})
    (own_workspace.root / "given.yaml").write_text(endless.to_yaml(), encoding="utf-8")
    experiment = start(own_workspace, "ablate", "--experiment", "table2", "--jobs", "2")
    folder = own_workspace.root / "checkpoints" / "pretrain"
    until = time.monotonic() + PATIENCE
    while len(MOMENTS[moment](experiment, folder)) < 2 and time.monotonic() < until:
        assert experiment.poll() is None, experiment.communicate()[0]
        time.sleep(0.02)
    trainers = training_processes(experiment)
    assert len(trainers) == 2
    experiment.terminate()
    experiment.communicate(timeout=PATIENCE)
    _, still_there = psutil.wait_procs(trainers, timeout=PATIENCE)
    assert not still_there
    assert len(list(folder.glob(".*.lock"))) <= 2  # no other training was begun


def test_results_of_other_settings_are_neither_reused_nor_lost(two_seeds, compared, quiet):
    place, _ = compared
    longer = two_seeds.model_copy(update={"finetune": two_seeds.finetune.model_copy(update={"steps": 7})})
    with pytest.raises(InputError) as refused:
        run_experiment(longer, place, quiet, "table1")
    finetuned, pretrained = place.finetuned("recon-mlm-mam", 0), place.pretrained("recon-mlm-mam", 0)
    assert f"{finetuned} was trained with other settings" in str(refused.value)
    assert (finetuned / "scores.parquet").is_file()
    assert str(pretrained) not in str(refused.value)
    evidence = gather(longer, place).evidence
    assert set(evidence.variants) == {"mdo-lower", "mdo-higher"}  # which bring the recipe that they were trained with
    assert "variant `no-mdo`, seed 0: trained with other settings than the recipe's" in evidence.left_out


def test_what_is_chosen_is_judged_on_the_validation_pairs(two_seeds, compared):
    evidence = read_evidence(compared[0], trained_variants(two_seeds, compared[0]), split="validation")
    alone = two_seeds.model_copy(update={"variants": {"recon-mlm-mam": two_seeds.main_variant}})
    found = compare(alone, replace(evidence, variants={"recon-mlm-mam": evidence.variants["recon-mlm-mam"]}))
    scores = read_scores(compared[0].finetuned("recon-mlm-mam", 1), "")
    validation = part(scores, split="validation", modality="both")
    expected = average_precision(labels_of(validation), scores_of(validation))
    assert found["recon-mlm-mam"]["by_seed"]["1"] == pytest.approx(expected)


def test_the_report_judges_claims_by_experiments_on_test_pairs_alone(two_seeds, own_folder):
    shutil.copytree(
        own_folder.experiment_run("mdo-lower").root, own_folder.experiment_run("lr-1e-4").root, symlinks=True
    )
    variants = set(gather(two_seeds, own_folder).evidence.variants)
    assert variants == {"recon-mlm-mam", "no-mdo", "mdo-lower", "mdo-higher"}


def test_the_curve_over_the_number_of_pairs_comes_with_its_experiment(two_seeds, own_folder, quiet, monkeypatch):
    """Two lines of as many points; a run may train another variant; the report reads the same curve from the scores."""
    runs = {"labels-500": ["finetune.max_pairs=12"]}
    runs["labels-500-no-pretraining"] = ["finetune.max_pairs=12", "main=no-pretraining"]
    fewer = parse(ExperimentPlan, {**load_experiment("labels").model_dump(), "runs": runs}, "experiment labels")
    monkeypatch.setattr("mlim.steps.experiment.load_experiment", lambda name: fewer)
    summary = run_experiment(two_seeds, own_folder, quiet, "labels")
    points = summary["label_curve"]
    assert [point["pairs"] for point in points] == [12, 36]
    for point, variants in zip(points, (list(runs), ["recon-mlm-mam", "no-pretraining"]), strict=True):
        means = [summary["rows"][variant]["pr_auc"] for variant in variants]
        assert [point["pretrained"]["value"], point["unpretrained"]["value"]] == pytest.approx(means)
        assert point["difference"]["value"] == pytest.approx(means[0] - means[1])
    unpretrained = own_folder.experiment_run("labels-500-no-pretraining")
    assert read_json(unpretrained.finetuned("no-pretraining", 1) / "summary.json")["training_pairs"] == 12
    assert "12 training pairs: " in describe_experiment(summary)
    assert (own_folder.experiments / "labels.png").is_file()
    gathered = gather(two_seeds, own_folder)
    assert [point.plain() for point in gathered.label_curve] == points
    assert not runs.keys() & gathered.variant_curves.keys()
    other = two_seeds.model_copy(update={"finetune": two_seeds.finetune.model_copy(update={"head_dropout": 0.5})})
    assert not gather(other, own_folder).label_curve  # of other settings: no point of this recipe's curve


def test_a_claim_is_never_judged_by_unequal_budgets():
    experiment = load_experiment("table1").model_dump()
    with pytest.raises(InputError, match="a claim about unequal spending is none"):
        parse(ExperimentPlan, {**experiment, "equal_budgets": False}, "experiment unfair")


def test_unequal_budgets_are_never_compared(two_seeds, own_folder):
    path = own_folder.finetuned("no-mdo", 0) / "summary.json"
    summary = read_json(path)
    write_json(path, {**summary, "pairs_seen": summary["pairs_seen"] + 1})
    with pytest.raises(DataError, match="another budget than `recon-mlm-mam`: no-mdo"):
        compare(two_seeds, read_evidence(own_folder, trained_variants(two_seeds, own_folder)))


def ablate(monkeypatch, recipe, workspace, *words):
    """The exit code of `mlim ablate` with that recipe in that work folder."""
    given = workspace.root / "given.yaml"
    given.write_text(recipe.to_yaml(), encoding="utf-8")
    return call(monkeypatch, "ablate", "--recipe", str(given), "--work", str(workspace.root), *words)


def test_one_command_from_the_work_folder(tiny_recipe, own_workspace, monkeypatch, capsys):
    assert ablate(monkeypatch, tiny_recipe, own_workspace, "--experiment", "figure2", "--seeds", "1") == 0
    assert "What does each modality gain" in capsys.readouterr().err
    assert (own_workspace.probe / "summary.json").is_file()


def test_the_pairs_of_another_catalog_are_never_compared(tiny_recipe, own_workspace, monkeypatch, capsys):
    assert ablate(monkeypatch, tiny_recipe, own_workspace, "--experiment", "table1", "--catalog", "other.yaml") == 2
    assert "holds the pairs of tiny, not of other.yaml; choose another folder" in capsys.readouterr().err
