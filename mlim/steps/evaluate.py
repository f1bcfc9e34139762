"""Step `evaluate`: how good the main model is on pairs it never saw, and whether simple systems beat it."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.metrics import brier_score_loss

from mlim.catalog.items import open_items
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.baselines import JUDGED, TREES, read_attributes, score_baselines, similarities
from mlim.evaluation.curves import pr_curve
from mlim.evaluation.evidence import families_of
from mlim.evaluation.pr_auc import prevalence
from mlim.evaluation.resampling import Compared, Families, JudgedPairs, compare_all
from mlim.evaluation.scores import (
    MODALITIES,
    check_same_pairs,
    in_order,
    labels_of,
    part,
    read_scores,
    scores_of,
)
from mlim.evaluation.threshold import calibrate, choose_threshold, decide
from mlim.files import atomic_folder, write_json
from mlim.recipe import Modality, Recipe
from mlim.report.figures import draw_pr_curves
from mlim.tracking import StageRun, stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace

STAGE: Final = "evaluate"
CURVE_NAMES: Final[Mapping[Modality, str]] = {"both": "both", "text": "text only", "image": "picture only"}
HARDEST_COLUMNS: Final = ["kind", "item_a", "item_b", "label", "score"]


def evaluate(recipe: Recipe, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Judge the main row's first seed and the baselines on the same test pairs; returns the metrics and the run id.

    Needs `finetune` of that cell (`InputError` when it is missing). Threshold and calibration come from the validation
    pairs. `DataError` when the scores are of other pairs than the current ones, or of one label only.
    """
    scores = read_scores(workspace.finetuned(recipe.main, recipe.seeds[0]), _finetune_command(recipe))
    pairs, training_items = _read_pairs(workspace)
    _check_pairs(recipe, pairs, scores)
    with (
        stage_run(recipe, workspace, STAGE, STAGE, lineage(workspace)) as run,
        atomic_folder(workspace.evaluation) as folder,
    ):
        baselines = _score_baselines(recipe, workspace, pairs, training_items, terminal)
        families = families_of(part(pairs, split="test"), workspace)
        metrics = judge(recipe, scores, baselines, families)
        _write(folder, recipe, scores, baselines, metrics)
        _track(run, metrics, folder)
        summary = {**metrics, "run_id": run.id}
        write_json(folder / "summary.json", summary)
    _say(recipe, metrics, terminal)
    return summary


def _finetune_command(recipe: Recipe) -> str:
    return f"mlim finetune {recipe.main} --seed {recipe.seeds[0]}"


def _read_pairs(workspace: Workspace) -> tuple[pd.DataFrame, list[str]]:
    """All pairs, and the ids of the items of the train split."""
    paths = [workspace.pairs / "pairs.parquet", workspace.pairs / "items.parquet"]
    missing = [f"{path} is missing; run `mlim pairs` first" for path in paths if not path.is_file()]
    if missing:
        raise InputError(*missing)
    pairs, items = (pd.read_parquet(path) for path in paths)
    return in_order(pairs), sorted(part(items, split="train")["id"])


def _check_pairs(recipe: Recipe, pairs: pd.DataFrame, scores: pd.DataFrame) -> None:
    for split, modality in itertools.product(JUDGED, dict.fromkeys([recipe.main_row.modality, *scores["modality"]])):
        found = part(scores, split=split, modality=modality)
        what = f"the {split} scores of row `{recipe.main}` ({modality})"
        check_same_pairs(part(pairs, split=split), found, what, _finetune_command(recipe))


def _score_baselines(
    recipe: Recipe, workspace: Workspace, pairs: pd.DataFrame, training_items: list[str], terminal: Terminal
) -> pd.DataFrame:
    store, index = open_items(recipe, workspace), workspace.valid / "index.parquet"
    with terminal.progress("baselines", len({*pairs["item_a"], *pairs["item_b"]})) as bar:
        features = similarities(pairs, store, read_attributes(index), training_items, bar)
    return score_baselines(pairs, features, recipe.seed)


def judge(
    recipe: Recipe, scores: pd.DataFrame, baselines: pd.DataFrame, families: Families | None = None
) -> dict[str, Any]:
    """Every figure of metrics.json: PR-AUC by modality, the decision at the threshold, calibration, baselines.

    `families` (n, 2) are those of the test pairs: intervals are over them, or over pairs where they are not known.
    """
    modality = recipe.main_row.modality
    test = part(scores, split="test", modality=modality)
    labels = labels_of(test)
    compared = _compare(recipe, scores, baselines, JudgedPairs(labels, families))
    found = {
        "row": recipe.main,
        "seed": recipe.seeds[0],
        "modality": modality,
        "pairs": len(labels),
        "positives": int(labels.sum()),
        "prevalence": prevalence(labels),
        "pr_auc": {shown: compared[shown].pr_auc.interval._asdict() for shown in MODALITIES if shown in compared},
        "baselines": {str(name): _baseline(compared[name]) for name in baselines["baseline"].unique()},
        **_decision(recipe, part(scores, split="validation", modality=modality), test),
    }
    return {**found, **_against_trees(found["baselines"][TREES]["difference_to_main"])}


def _compare(recipe: Recipe, scores: pd.DataFrame, baselines: pd.DataFrame, pairs: JudgedPairs) -> dict[str, Compared]:
    """The main model as it is judged, as it does when shown another modality (as far as scored), and the baselines."""
    modalities: tuple[str, ...] = (recipe.main_row.modality, *MODALITIES)
    shown = {modality: part(scores, split="test", modality=modality) for modality in modalities}
    shown |= {str(name): part(baselines, split="test", baseline=name) for name in baselines["baseline"].unique()}
    stacked = {name: scores_of(frame)[None] for name, frame in shown.items() if len(frame)}
    settings = recipe.evaluate
    return compare_all(pairs, stacked, settings.bootstrap_samples, settings.confidence, recipe.seed)


def _baseline(found: Compared) -> dict[str, Any]:
    """A baseline's PR-AUC, and its PR-AUC minus the main model's, paired over the test pairs."""
    difference = {} if found.minus_first is None else {"difference_to_main": found.minus_first.difference._asdict()}
    return {**found.pr_auc.interval._asdict(), **difference}


def _decision(recipe: Recipe, validation: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    """Threshold and calibration from validation pairs, and what they are worth on the test pairs."""
    labels, scores = labels_of(validation), scores_of(validation)
    threshold = choose_threshold(labels, scores, recipe.evaluate.target_precision, recipe.evaluate.min_recall)
    calibration = calibrate(labels, scores)
    reached = decide(labels_of(test), scores_of(test), threshold.value)
    probabilities = calibration.apply(scores_of(test))
    return {
        "threshold": threshold.value,
        "threshold_rule": threshold.rule,
        "target_precision": recipe.evaluate.target_precision,
        "validation_precision_at_threshold": threshold.precision,
        "validation_recall_at_threshold": threshold.recall,
        "precision_at_threshold": reached.precision,
        "recall_at_threshold": reached.recall,
        "calibration": calibration._asdict(),
        "calibrated_threshold": float(calibration.apply(np.array([threshold.value]))[0]),
        "brier": float(brier_score_loss(labels_of(test), scores_of(test))),
        "brier_calibrated": float(brier_score_loss(labels_of(test), probabilities)),
    }


def _against_trees(difference: Mapping[str, float]) -> dict[str, bool]:
    """Whether the trees' PR-AUC is the higher one, and whether the interval of the difference leaves out 0."""
    separated = difference["low"] > 0 or difference["high"] < 0
    return {"boosted_trees_win": difference["value"] > 0, "boosted_trees_separated": separated}


def hardest_pairs(test: pd.DataFrame, threshold: float, number: int) -> pd.DataFrame:
    """The `number` pairs decided wrong with the greatest certainty, then the `number` decided right but only just.

    `test` has item_a, item_b, label, score; the result has a column `kind` (wrong|right) before them.
    """
    margin = (test["score"] - threshold).abs()
    right = (test["score"] >= threshold) == (test["label"] == 1)
    shown = test.assign(kind=np.where(right, "right", "wrong"), margin=margin).sort_values("margin", kind="stable")
    worst = shown[shown["kind"] == "wrong"].iloc[::-1].head(number)
    return pd.concat([worst, shown[shown["kind"] == "right"].head(number)], ignore_index=True)[HARDEST_COLUMNS]


def _curves(recipe: Recipe, scores: pd.DataFrame, baselines: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Test curves by name: the main row, what it reaches with one modality, the baselines."""
    main = recipe.main_row.modality
    names = {main: recipe.main} | {other: CURVE_NAMES[other] for other in MODALITIES if other != main}
    shown = {name: part(scores, split="test", modality=modality) for modality, name in names.items()}
    shown |= {str(name): part(baselines, split="test", baseline=name) for name in baselines["baseline"].unique()}
    return {name: pr_curve(labels_of(frame), scores_of(frame)) for name, frame in shown.items() if len(frame)}


def _write(
    folder: Path, recipe: Recipe, scores: pd.DataFrame, baselines: pd.DataFrame, metrics: Mapping[str, Any]
) -> None:
    curves = _curves(recipe, scores, baselines)
    named = [curve.assign(name=name)[["name", "recall", "precision"]] for name, curve in curves.items()]
    pd.concat(named).to_csv(folder / "curve.csv", index=False, lineterminator="\n")
    baselines.to_parquet(folder / "baselines.parquet", index=False)
    test = part(scores, split="test", modality=recipe.main_row.modality)
    hardest = hardest_pairs(test, metrics["threshold"], recipe.evaluate.hardest)
    hardest.to_csv(folder / "hardest.csv", index=False, lineterminator="\n")
    write_json(folder / "metrics.json", metrics)
    for suffix in ("svg", "png"):
        draw_pr_curves(curves, metrics["prevalence"], folder / f"pr_curve.{suffix}")


def _track(run: StageRun, metrics: Mapping[str, Any], folder: Path) -> None:
    for modality, interval in metrics["pr_auc"].items():
        for end, value in interval.items():
            run.metric(f"pr_auc.{modality}.{end}", value)
    for name, figures in metrics["baselines"].items():
        run.metric(f"pr_auc.{name}.value", figures["value"])
    for name in ("prevalence", "threshold", "precision_at_threshold", "recall_at_threshold", "brier_calibrated"):
        run.metric(name, metrics[name])
    run.artifact(folder)


def _say(recipe: Recipe, metrics: Mapping[str, Any], terminal: Terminal) -> None:
    reached = metrics["pr_auc"][metrics["modality"]]
    terminal.say(
        f"{recipe.main}: PR-AUC {reached['value']:.3f} [{reached['low']:.3f}, {reached['high']:.3f}] on "
        f"{metrics['pairs']} test pairs (chance {metrics['prevalence']:.3f})"
    )
    if metrics["threshold_rule"] == "best-f1":
        terminal.warn(
            f"no threshold reaches precision {metrics['target_precision']:g} on the validation pairs; the one with the "
            "best F1 is used"
        )
    if metrics["boosted_trees_win"]:
        certainty = "clearly" if metrics["boosted_trees_separated"] else "though not clearly"
        terminal.warn(f"boosted trees on simple features score higher than the model, {certainty}")
