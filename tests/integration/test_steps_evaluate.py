"""Steps `evaluate`, `ablate` and `probe` on scores and models as the trainings leave them, with real tracking."""

import filecmp
import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest

from mlim.console import Terminal
from mlim.data.tokenize import TextTokenizer
from mlim.errors import DataError, InputError
from mlim.evaluation.pr_auc import average_precision
from mlim.evaluation.threshold import Calibration
from mlim.files import read_json, write_json
from mlim.models.hub import build_mlim
from mlim.recipe.evaluate import PromiseConfig
from mlim.shards.items import ItemStore
from mlim.steps.ablate import COLUMNS, ablate
from mlim.steps.evaluate import evaluate, hardest_pairs
from mlim.steps.probe import probe
from mlim.steps.stack import stack
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

MAIN = PRETRAINING = "recon-mlm-mam"
VARIANTS = (MAIN, "no-pretraining", "text-only")
SEEDS = (0, 1)
PAIRS_SEEN, SAMPLES_SEEN = 48, 64


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    variants = {name: tiny_recipe.variants[name] for name in VARIANTS}
    return tiny_recipe.model_copy(update={"variants": variants, "seeds": SEEDS})


def write_scores(workspace, variant, modality, seed, skill):
    """Scores of validation and test pairs that know the label by `skill`."""
    pairs = pd.read_parquet(workspace.pairs / "pairs.parquet")
    pairs = pairs[pairs["split"] != "train"].drop(columns=["component", "kind"])
    generator = np.random.default_rng([seed, int(100 * skill)])
    shown = ("both", "text", "image") if modality == "both" else (modality,)
    parts = []
    for one in shown:
        logits = skill * (2 * pairs["label"] - 1) + generator.normal(size=len(pairs))
        parts.append(pairs.assign(modality=one, score=1 / (1 + np.exp(-logits))))
    folder = workspace.finetuned(variant, seed)
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat(parts).sample(frac=1, random_state=seed).to_parquet(folder / "scores.parquet", index=False)


def copied(workspace, folder):
    return Workspace(shutil.copytree(workspace.root, folder / "work", symlinks=True))


@pytest.fixture(scope="module")
def trained_once(recipe, tiny_workspace, tmp_path_factory):
    """A work folder with the scores of every cell; read-only, as the next two are."""
    workspace = copied(tiny_workspace, tmp_path_factory.mktemp("trained"))
    skills = {MAIN: 2.0, "no-pretraining": 0.2, "text-only": 1.0}
    for name, variant in recipe.variants.items():
        for seed in SEEDS:
            write_scores(workspace, name, variant.modality, seed, skills[name])
            summary = {"row": name, "seed": seed, "pairs_seen": PAIRS_SEEN, "run_id": f"{name}{seed}"}
            write_json(workspace.finetuned(name, seed) / "summary.json", summary)
    for seed in SEEDS:
        start = workspace.pretrained(PRETRAINING, seed)
        write_json(start / "summary.json", {"samples_seen": SAMPLES_SEEN, "losses": ["mlm", "recon"]})
    return workspace


@pytest.fixture(scope="module")
def pretrained_once(recipe, trained_once, tmp_path_factory):
    """The same with a pre-trained (random) model for every seed."""
    workspace = copied(trained_once, tmp_path_factory.mktemp("pretrained"))
    store = ItemStore.open(workspace.items, workspace.valid / "index.parquet")
    tokenizer = TextTokenizer.learn([store.text(item) for item in store.ids], recipe.text.vocabulary_size)
    for seed in recipe.seeds:
        folder = workspace.pretrained(PRETRAINING, seed) / "model"
        folder.mkdir(parents=True)
        build_mlim(recipe, tokenizer, seed=seed).save_pretrained(folder)
        tokenizer.save(folder)
    return workspace


@pytest.fixture(scope="module")
def stacked_once(recipe, trained_once, tmp_path_factory):
    """The same as the first with the stack of the main variant's first seed."""
    workspace = copied(trained_once, tmp_path_factory.mktemp("stacked"))
    stack(recipe, workspace, Terminal(quiet=True))
    return workspace


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of `trained_once` that one test may write to; the next two likewise."""
    return copied(trained_once, tmp_path)


@pytest.fixture
def pretrained(pretrained_once, tmp_path):
    return copied(pretrained_once, tmp_path)


@pytest.fixture
def stacked(stacked_once, tmp_path):
    return copied(stacked_once, tmp_path)


def run_of(recipe, run_id):
    return mlflow.MlflowClient(recipe.tracking.uri).get_run(run_id)


def artifacts_of(recipe, run_id):
    return {entry.path for entry in mlflow.MlflowClient(recipe.tracking.uri).list_artifacts(run_id)}


@pytest.mark.parametrize(
    ("promise", "rule", "said"),
    [
        ({"figure": "recall", "target": 0.1}, "promised-recall", "recall is at least 0.1"),
        ({"target": 0.98}, "target-precision", "not enough labels to promise precision 0.98"),
    ],
)
def test_a_promise_is_kept_or_labels_are_asked_for(recipe, stacked, quiet, promise, rule, said):
    asked = recipe.evaluate.model_copy(update={"promise": PromiseConfig(**promise), "min_recall": 0})
    summary = evaluate(recipe.model_copy(update={"evaluate": asked}), stacked, quiet)
    assert summary["threshold_rule"] == rule
    assert summary["promise"]["sentence"].startswith(said)


def test_few_families_give_no_interval_and_no_verdict(recipe, stacked, capfd):
    """Point 6: one sentence says why, and nothing is `clearly` better."""
    evaluate(recipe, stacked, Terminal())
    said = capfd.readouterr().err
    assert "warning: the test pairs hold matches of 2 families, fewer than the 10 that an interval needs" in said
    assert "clearly" not in said
    assert f"{MAIN}: PR-AUC" in said
    assert "[" not in said.partition("PR-AUC")[2].partition(" on ")[0]


def test_evaluate_judges_the_main_variant_and_the_baselines_on_the_same_pairs(recipe, stacked, quiet):
    summary = evaluate(recipe, stacked, quiet)
    folder = stacked.evaluation
    assert read_json(folder / "summary.json") == summary
    metrics, few = summary, read_json(folder / "metrics.json")
    assert len(few) <= 10
    assert few["test/pr_auc"] == metrics["registered"]["pr_auc"]["value"]
    assert few["test/boosted-trees"] == metrics["baselines"]["boosted-trees"]["value"]
    assert "test/pr_auc_low" not in few  # too few families
    scores = pd.read_parquet(stacked.finetuned(MAIN, 0) / "scores.parquet")
    test = scores[(scores["split"] == "test") & (scores["modality"] == "both")]
    assert metrics["pairs"] == len(test)
    expected = average_precision(test["label"].to_numpy(), test["score"].to_numpy())
    assert metrics["pr_auc"]["both"]["value"] == pytest.approx(expected)
    assert set(metrics["pr_auc"]) == {"both", "text", "image"}
    assert set(metrics["baselines"]) == {"tfidf-cosine", "image-hash", "boosted-trees"}
    for figures in metrics["baselines"].values():
        difference = figures["difference_to_main"]
        assert difference["value"] == pytest.approx(figures["value"] - expected)
        assert (difference["low"], difference["high"], difference["p_value"]) == (None, None, None)
    assert metrics["no_interval"].startswith("the test pairs hold matches of 2 families, fewer than the 10")
    assert not metrics["boosted_trees_separated"]
    trees = metrics["baselines"]["boosted-trees"]
    assert metrics["boosted_trees_win"] == (trees["value"] > expected)
    calibrated = Calibration(**metrics["calibration"]).apply(np.array([metrics["threshold"]]))
    assert metrics["calibrated_threshold"] == pytest.approx(calibrated[0])
    names = {path.name for path in folder.iterdir()}
    assert names >= {"curve.csv", "hardest.csv", "pr_curve.svg", "pr_curve.png"}
    curve = pd.read_csv(folder / "curve.csv")
    registered = metrics["registered"]
    shown = {registered["scorer"]} - {"matcher"}
    assert set(curve["name"]) == {MAIN, "text only", "picture only", *metrics["baselines"], *shown}
    assert metrics["scorers"]["matcher"]["value"] == pytest.approx(expected)
    assert {"stack", "stack without matcher", "trees", "words"} <= set(metrics["scorers"])
    assert registered["pr_auc"]["value"] == metrics["scorers"][registered["scorer"]]["value"]
    assert registered["scorer"] == read_json(stacked.stack / "summary.json")["registered"]
    for name, figures in registered["baselines"].items():
        lead = metrics["baselines"][name]["value"] - registered["pr_auc"]["value"]
        assert figures["difference_to_registered"]["value"] == pytest.approx(lead)
    run = run_of(recipe, summary["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/pr_auc.both.value"] == pytest.approx(expected)
    assert "test/pr_auc.both.low" not in run.data.metrics
    assert artifacts_of(recipe, summary["run_id"]) >= {"recipe.yaml", "curve.csv", "pr_curve.png", "summary.json"}


def test_evaluate_gives_the_same_bytes_again(recipe, stacked, quiet, tmp_path):
    evaluate(recipe, stacked, quiet)
    kept = tmp_path / "kept"
    stacked.evaluation.rename(kept)
    evaluate(recipe, stacked, quiet)
    names = [path.name for path in kept.iterdir() if path.name != "summary.json"]
    assert filecmp.cmpfiles(kept, stacked.evaluation, names, shallow=False) == (names, [], [])


def test_a_variant_of_one_modality_is_judged_by_it_and_registered_alone(recipe, trained, quiet):
    recipe = recipe.model_copy(update={"main": "text-only"})
    stack(recipe, trained, quiet)
    assert not (trained.stack / "stack.skops").exists()
    metrics = evaluate(recipe, trained, quiet)
    assert metrics["registered"]["scorer"] == "matcher"
    assert metrics["modality"] == "text"
    assert list(metrics["pr_auc"]) == ["text"]


def test_evaluate_without_scores_says_what_to_run(recipe, own_workspace, quiet):
    with pytest.raises(InputError, match=f"run `mlim finetune {MAIN} --seed 0` first"):
        evaluate(recipe, own_workspace, quiet)


def test_evaluate_without_a_stack_says_what_to_run(recipe, trained, quiet):
    with pytest.raises(InputError, match="run `mlim stack` first"):
        evaluate(recipe, trained, quiet)


def test_evaluate_refuses_scores_of_other_pairs(recipe, stacked, quiet):
    path = stacked.finetuned(MAIN, 0) / "scores.parquet"
    scores = pd.read_parquet(path)
    dropped = scores[scores["modality"] == "both"].iloc[0][["item_a", "item_b", "modality"]]
    scores[(scores[dropped.index] != dropped).any(axis=1)].to_parquet(path)
    for step in (stack, evaluate):
        with pytest.raises(DataError, match=rf"other pairs.*run `mlim finetune {MAIN} --seed 0` again"):
            step(recipe, stacked, quiet)


def test_the_hardest_pairs_are_sure_mistakes_and_narrow_successes():
    test = pd.DataFrame(
        {
            "item_a": list("abcde"),
            "item_b": list("vwxyz"),
            "label": [1, 0, 1, 0, 1],
            "score": [0.1, 0.95, 0.55, 0.2, 0.99],
        }
    )
    hardest = hardest_pairs(test, threshold=0.5, number=1)
    assert hardest[["kind", "item_a"]].to_numpy().tolist() == [["wrong", "b"], ["right", "c"]]


def test_ablate_compares_all_variants_in_the_order_of_the_recipe(recipe, trained, quiet):
    summary = ablate(recipe, trained, quiet)
    table = pd.read_csv(trained.ablation / "table.csv")
    assert tuple(table.columns) == COLUMNS
    assert list(table["row"]) == list(VARIANTS)
    table = table.set_index("row")
    assert table.loc[MAIN, "pr_auc"] == pytest.approx(np.mean(summary["rows"][MAIN]["by_seed"]), abs=1e-6)
    assert table.loc[MAIN, "run_ids"] == f"{MAIN}0;{MAIN}1"
    assert np.isnan(table.loc[MAIN, "difference"])
    apart = table.loc["no-pretraining"]
    assert apart["difference"] == pytest.approx(apart["pr_auc"] - table.loc[MAIN, "pr_auc"], abs=1e-6)
    intervals = table[["low", "high", "difference_low", "difference_high", "p_value"]]
    assert intervals.isna().all(axis=None)  # two families in the test split
    assert summary["no_interval"].startswith("the test pairs hold matches of 2 families")
    assert np.isnan(table.loc["text-only", "pr_auc_image"])
    assert table.loc["text-only", "pr_auc_text"] == table.loc["text-only", "pr_auc"]
    figures = read_json(trained.ablation / "metrics.json")
    assert figures == {f"test/pr_auc.{name}": summary["rows"][name]["pr_auc"] for name in VARIANTS}
    assert run_of(recipe, summary["run_id"]).data.tags["mlflow.runName"] == "ablate"


def test_ablate_gives_the_run_of_each_seed_its_figure_on_the_test_pairs(recipe, trained, quiet):
    """MLflow's page of two runs side by side shows what the tables show."""
    store = mlflow.MlflowClient(recipe.tracking.uri)
    path = trained.finetuned(MAIN, SEEDS[1]) / "summary.json"
    run_id = store.create_run(store.create_experiment("finetuned")).info.run_id
    write_json(path, {**read_json(path), "run_id": run_id})
    rows = ablate(recipe, trained, quiet)["rows"]
    assert run_of(recipe, run_id).data.metrics == {"test/pr_auc": pytest.approx(rows[MAIN]["by_seed"][1])}


def test_ablate_writes_the_same_table_again(recipe, trained, quiet):
    ablate(recipe, trained, quiet)
    first = (trained.ablation / "table.csv").read_bytes()
    ablate(recipe, trained, quiet)
    assert (trained.ablation / "table.csv").read_bytes() == first


def test_ablate_names_every_missing_cell_and_its_command(recipe, trained, quiet):
    (trained.finetuned(MAIN, 1) / "scores.parquet").unlink()
    (trained.finetuned("text-only", 0) / "summary.json").unlink()
    (trained.pretrained(PRETRAINING, 1) / "summary.json").unlink()
    with pytest.raises(InputError) as caught:
        ablate(recipe, trained, quiet)
    commands = [
        f"mlim finetune {MAIN} --seed 1",
        f"mlim pretrain {PRETRAINING} --seed 1",
        "mlim finetune text-only --seed 0",
    ]
    assert len(caught.value.problems) == len(commands)
    for problem, command in zip(caught.value.problems, commands, strict=True):
        assert f"run `{command}` first" in problem


@pytest.mark.parametrize(
    ("name", "field"), [("finetune/text-only-s1", "pairs_seen"), (f"pretrain/{PRETRAINING}-s1", "samples_seen")]
)
def test_ablate_refuses_unequal_budgets_and_names_the_variants(recipe, trained, quiet, name, field):
    path = trained.root / name / "summary.json"
    write_json(path, read_json(path) | {field: 999})
    with pytest.raises(DataError, match=r"unequal budgets.*999 for .*`text-only` seed 1"):
        ablate(recipe, trained, quiet)
    assert not trained.ablation.exists()


def test_ablate_refuses_cells_scored_on_other_pairs(recipe, trained, quiet):
    path = trained.finetuned("no-pretraining", 1) / "scores.parquet"
    scores = pd.read_parquet(path)
    scores.assign(label=1 - scores["label"]).to_parquet(path)
    with pytest.raises(DataError, match="variant `no-pretraining`, seed 1"):
        ablate(recipe, trained, quiet)


def test_probe_draws_figure_2_and_says_what_it_shows(recipe, pretrained, quiet):
    summary = probe(recipe, pretrained, quiet)
    folder = pretrained.probe
    assert {path.name for path in folder.iterdir()} == {
        *(f"figure2{half}.{suffix}" for half in "ab" for suffix in ("csv", "svg", "png")),
        *(f"{sheet}.png" for sheet in ("reconstructions", "neighbours", "attention")),
        "summary.json",
    }
    for half in "ab":
        table = pd.read_csv(folder / f"figure2{half}.csv")
        assert list(table.columns) == ["probability", "partner", "loss", "low", "high"]
        assert len(table) == 3 * len(recipe.probe.probabilities)
        assert np.isfinite(table["loss"]).all()
        figure = summary[f"figure2{half}"]
        assert figure["items"] == recipe.probe.items
        below = [point["own"] < point["random"] for point in figure["points"]]
        assert [point["own_below_random"] for point in figure["points"]] == below
        assert figure["own_below_random_everywhere"] == all(below)
        for point in figure["points"]:
            by_seed = point["random_minus_own"]["by_seed"]
            assert len(set(by_seed)) == len(recipe.seeds) == 2  # a model for each seed
            assert np.mean(by_seed) == pytest.approx(point["random"] - point["own"], abs=1e-6)
    assert summary["text_to_image_is_stronger"] == (
        summary["random_text_hurts_recon"] > summary["random_image_hurts_mlm"]
    )
    assert read_json(folder / "summary.json") == summary
    stored = artifacts_of(recipe, summary["run_id"])
    assert stored >= {
        "recipe.yaml",
        "figure2a.csv",
        "figure2a.png",
        "figure2b.svg",
        "reconstructions.png",
        "neighbours.png",
    }


def test_probe_leaves_out_what_the_model_was_not_trained_for(recipe, pretrained, quiet):
    itm = recipe.pretrainings[PRETRAINING].model_copy(update={"losses": ("mlm", "itm")})
    summary = probe(recipe.model_copy(update={"pretrainings": {PRETRAINING: itm}}), pretrained, quiet)
    assert "trained on mlm, itm only" in summary["figure2b"]["skipped"]
    assert summary["figure2a"]["skipped"] is None
    assert summary["text_to_image_is_stronger"] is None
    assert not (pretrained.probe / "reconstructions.png").exists()


def test_neighbours_and_attention_need_no_loss(recipe, pretrained, quiet):
    itm = recipe.pretrainings[PRETRAINING].model_copy(update={"losses": ("itm",)})
    summary = probe(recipe.model_copy(update={"pretrainings": {PRETRAINING: itm}}), pretrained, quiet)
    assert {path.name for path in pretrained.probe.iterdir()} == {"neighbours.png", "attention.png", "summary.json"}
    found = summary["neighbours"]
    assert found["items"] == recipe.probe.items  # all of two families of four
    assert found["by_chance"] == pytest.approx(3 / 7)
    assert 0 <= found["same_family"] <= 1
    assert 0 <= found["with_random_weights"] <= 1


def test_neighbours_are_found_among_whole_families(recipe, pretrained, quiet):
    """Two drawn items are too few to meet a relative; the rest of their families is looked at, too."""
    few = recipe.model_copy(update={"probe": recipe.probe.model_copy(update={"items": 2})})
    found = probe(few, pretrained, quiet)["neighbours"]
    assert found["items"] == 2
    assert found["by_chance"] in (1.0, pytest.approx(3 / 7))  # one family, or two


def test_probe_of_a_variant_without_pre_training_says_so(recipe, trained, quiet):
    summary = probe(recipe.model_copy(update={"main": "no-pretraining"}), trained, quiet)
    assert {summary[f"figure2{half}"]["skipped"] for half in "ab"} == {"variant `no-pretraining` has no pre-training"}
    assert "neighbours" not in summary
    assert [path.name for path in trained.probe.iterdir()] == ["summary.json"]


def test_probe_without_the_model_says_what_to_run(recipe, trained, quiet):
    with pytest.raises(InputError, match=f"run `mlim pretrain {PRETRAINING} --seed 0` first"):
        probe(recipe, trained, quiet)
