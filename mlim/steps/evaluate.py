"""Step `evaluate`: how good the main model is on pairs it never saw, and whether simple systems beat it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, brier_score_loss

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.baselines import JUDGED, TREES
from mlim.evaluation.curves import pr_curve
from mlim.evaluation.evidence import families_of
from mlim.evaluation.gate import kinds_of, objections, plain
from mlim.evaluation.groups import describe_pairs, group_figures
from mlim.evaluation.kept_promises import kept_promises
from mlim.evaluation.pr_auc import Scores, prevalence
from mlim.evaluation.promise import Promise, Promised, promised_threshold
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
from mlim.evaluation.threshold import Rule, Threshold, calibrate, choose_threshold, decide
from mlim.files import atomic_folder, read_json, write_csv, write_json
from mlim.recipe import Modality, Recipe, Scorer
from mlim.report.figures import draw_pr_curves
from mlim.report.kit import formats
from mlim.stacking.scorers import MATCHER
from mlim.steps.pairless import require_pairs
from mlim.steps.same_settings import require_same_settings
from mlim.steps.stack import BASELINES_FILE, SCORERS_FILE, SUMMARY_FILE, finetune_command
from mlim.tracking import StageRun, stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace

STAGE: Final = "evaluate"
STACK_COMMAND: Final = "mlim stack"
METRICS_FILE: Final = "metrics.json"  # the few figures that `dvc metrics` compares; all are in summary.json
KEPT_PROMISES: Final = "kept_promises"
SCORER: Final = "scorer:"  # before the name of a scorer, some of which are called as baselines are
CURVE_NAMES: Final[Mapping[Modality, str]] = {"both": "both", "text": "text only", "image": "picture only"}
CURVE_COLUMNS = ["name", "recall", "precision"]
HARDEST_COLUMNS: Final = ["kind", "item_a", "item_b", "label", "score"]


def evaluate(recipe: Recipe, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Judge the registered scorer, the main variant's first seed and the baselines on the same test pairs.

    Returns the metrics and the run id. Needs `finetune` of that run and `stack` (`InputError` when they are missing, or
    the fine-tuning had other settings).
    Threshold and calibration come from the validation pairs. `DataError` when the scores are of other pairs than the
    current ones, or of one label only.
    """
    require_pairs(workspace, STAGE)
    require_same_settings(recipe, workspace, "finetune", recipe.main, recipe.seeds[0])
    scored = read_scored(recipe, workspace)
    pairs = _read_pairs(workspace)
    _check_pairs(recipe, pairs, scored)
    with (
        stage_run(recipe.record, workspace, STAGE, STAGE, lineage(workspace)) as run,
        atomic_folder(workspace.evaluation) as folder,
    ):
        families = families_of(part(pairs, split="test"), workspace)
        metrics = judge(recipe, scored, families)
        metrics[KEPT_PROMISES] = _kept_promises(recipe, part(scored.of_registered, split="test"), families)
        metrics |= _gate(recipe, part(scored.of_registered, split="test"), pairs, metrics)
        headline, summary = _headline(scored, metrics), {**metrics, "run_id": run.id}
        _write(folder, recipe, scored, metrics)
        write_json(folder / METRICS_FILE, {**headline, **_compared_with(metrics)})
        write_json(folder / "summary.json", summary)
        _track(run, metrics, folder)
        run.headline(headline, {})
    _say(recipe, metrics, terminal)
    return summary


class Scored(NamedTuple):
    """Scores of the same validation and test pairs, one line for each pair and system.

    `matcher` by modality, `baselines` by baseline, `scorers` (the matcher, the parts of the stack and its combinations)
    by scorer; `registered` is the name of the scorer that is registered.
    """

    matcher: pd.DataFrame
    baselines: pd.DataFrame
    scorers: pd.DataFrame
    registered: Scorer

    @property
    def of_registered(self) -> pd.DataFrame:
        """The scores of the registered scorer."""
        return part(self.scorers, scorer=self.registered)


def read_scored(recipe: Recipe, workspace: Workspace) -> Scored:
    """All scores that `finetune` of the main variant's first seed and `stack` left; `InputError` without them."""
    matcher = read_scores(workspace.finetuned(recipe.main, recipe.seeds[0]), finetune_command(recipe))
    paths = [workspace.stack / name for name in (BASELINES_FILE, SCORERS_FILE, SUMMARY_FILE)]
    missing = [f"{path} is missing; run `{STACK_COMMAND}` first" for path in paths if not path.is_file()]
    if missing:
        raise InputError(*missing)
    baselines, scorers = (pd.read_parquet(path) for path in paths[:2])
    return Scored(matcher, baselines, scorers, read_json(paths[2])["registered"])


def _read_pairs(workspace: Workspace) -> pd.DataFrame:
    path = workspace.pairs / "pairs.parquet"
    if not path.is_file():
        raise InputError(f"{path} is missing; run `mlim pairs` first")
    return in_order(pd.read_parquet(path))


def _check_pairs(recipe: Recipe, pairs: pd.DataFrame, scored: Scored) -> None:
    modalities = dict.fromkeys([recipe.main_variant.modality, *scored.matcher["modality"]])
    for split in JUDGED:
        expected = part(pairs, split=split)
        for modality in modalities:
            what = f"the {split} scores of variant `{recipe.main}` ({modality})"
            found = part(scored.matcher, split=split, modality=modality)
            check_same_pairs(expected, found, what, finetune_command(recipe))
        registered = part(scored.of_registered, split=split)
        check_same_pairs(expected, registered, f"the {split} scores of the registered scorer", STACK_COMMAND)


def judge(recipe: Recipe, scored: Scored, families: Families | None = None) -> dict[str, Any]:
    """Every figure of summary.json but the gate's: PR-AUCs, the decision at the threshold, calibration.

    `pr_auc` is the matcher's by modality, `baselines` are compared with the matcher; `registered` and `scorers` are
    about what is registered, and so are threshold and calibration. `matcher` has those of the network alone, and
    `matcher_by_modality` those for each modality that pairs are read as. `families` (n, 2) are those of the test pairs:
    intervals are over them, or over pairs where they are not known.
    """
    modality = recipe.main_variant.modality
    test = part(scored.of_registered, split="test")
    labels = labels_of(test)
    pairs = JudgedPairs(labels, families)
    systems = _test_scores(recipe, scored)
    compared = _compare(recipe, pairs, systems, first=modality)
    against = _compare(recipe, pairs, systems, first=f"{SCORER}{scored.registered}")
    baselines = [str(name) for name in scored.baselines["baseline"].unique()]
    by_modality = {shown: _matcher_decision(recipe, scored, shown) for shown in MODALITIES if shown in compared}
    found = {
        "row": recipe.main,
        "seed": recipe.seeds[0],
        "modality": modality,
        "pairs": len(labels),
        "positives": int(labels.sum()),
        "prevalence": prevalence(labels),
        "no_interval": compared[modality].figure.why or None,
        "pr_auc": {shown: compared[shown].figure.interval._asdict() for shown in MODALITIES if shown in compared},
        "baselines": {name: _compared(compared[name], "difference_to_main") for name in baselines},
        "registered": _registered(scored.registered, against, baselines),
        "scorers": {
            name.removeprefix(SCORER): {
                **_compared(compared[name], "difference_to_main"),
                **_compared(figures, "difference_to_registered"),
            }
            for name, figures in against.items()
            if name.startswith(SCORER)
        },
        "matcher": by_modality[modality],
        "matcher_by_modality": by_modality,
        **_decision(recipe, part(scored.of_registered, split="validation"), test, pairs),
    }
    return {**found, **_against_trees(compared[TREES])}


def _test_scores(recipe: Recipe, scored: Scored) -> dict[str, Scores]:
    """Test scores by system: the matcher as it is judged and as it does when shown another modality, the rest."""
    modalities: tuple[str, ...] = (recipe.main_variant.modality, *MODALITIES)
    shown = {modality: part(scored.matcher, split="test", modality=modality) for modality in modalities}
    for prefix, column, frame in (("", "baseline", scored.baselines), (SCORER, "scorer", scored.scorers)):
        names = dict.fromkeys(frame[column])
        shown |= {f"{prefix}{name}": part(frame, split="test", **{column: str(name)}) for name in names}
    return {name: scores_of(frame) for name, frame in shown.items() if len(frame)}


def _compare(recipe: Recipe, pairs: JudgedPairs, systems: Mapping[str, Scores], first: str) -> dict[str, Compared]:
    """Every system's PR-AUC, and what it has more than `first`, paired over the test pairs."""
    settings = recipe.evaluate
    ordered = {name: systems[name][None] for name in dict.fromkeys((first, *systems))}
    return compare_all(pairs, ordered, settings.bootstrap_samples, settings.confidence, recipe.seed)


def _compared(found: Compared, difference: str) -> dict[str, Any]:
    """A system's PR-AUC, and its PR-AUC minus that of the one it is compared with."""
    minus = {} if found.minus_first is None else {difference: found.minus_first.difference._asdict()}
    return {**found.figure.interval._asdict(), **minus}


def _registered(name: str, against: Mapping[str, Compared], baselines: Sequence[str]) -> dict[str, Any]:
    """The registered scorer's PR-AUC, and the baselines' minus it."""
    differences = {one: _compared(against[one], "difference_to_registered") for one in baselines}
    return {"scorer": name, "pr_auc": against[f"{SCORER}{name}"].figure.interval._asdict(), "baselines": differences}


def _decision(recipe: Recipe, validation: pd.DataFrame, test: pd.DataFrame, pairs: JudgedPairs) -> dict[str, Any]:
    """Threshold and calibration from validation pairs, and what they are worth on the test pairs.

    Where the recipe asks for a promise, the threshold keeps it on the test `pairs`, if these are enough.
    """
    labels, scores = labels_of(validation), scores_of(validation)
    threshold = choose_threshold(labels, scores, recipe.evaluate.target_precision, recipe.evaluate.min_recall)
    promised = _promised(recipe, test, pairs)
    if promised is not None and promised.threshold is not None:
        kept = decide(labels, scores, promised.threshold)
        rule: Rule = "promised-precision" if promised.promise.figure == "precision" else "promised-recall"
        threshold = Threshold(promised.threshold, *kept, rule)
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
        **({} if promised is None else {"promise": {**promised.summary(), "sentence": promised.sentence}}),
    }


def _promised(recipe: Recipe, test: pd.DataFrame, pairs: JudgedPairs) -> Promised | None:
    """What comes of the promise that the recipe asks for; None where it asks for none."""
    asked = recipe.evaluate.promise
    if asked is None:
        return None
    return promised_threshold(pairs, scores_of(test), Promise(asked.figure, asked.target, recipe.evaluate.confidence))


def _kept_promises(recipe: Recipe, test: pd.DataFrame, families: Families | None) -> list[dict[str, Any]]:
    """How often thresholds that were promised on resampled test pairs keep the promise on all of them."""
    return kept_promises(
        JudgedPairs(labels_of(test), families), scores_of(test), recipe.evaluate.confidence, recipe.seed
    )


def _matcher_decision(recipe: Recipe, scored: Scored, modality: Modality) -> dict[str, float]:
    """Threshold and calibration of the matcher's own scores of the validation pairs, read as `modality`."""
    validation = part(scored.matcher, split="validation", modality=modality)
    labels, scores = labels_of(validation), scores_of(validation)
    threshold = choose_threshold(labels, scores, recipe.evaluate.target_precision, recipe.evaluate.min_recall)
    return {"threshold": threshold.value, **calibrate(labels, scores)._asdict()}


def _gate(recipe: Recipe, test: pd.DataFrame, pairs: pd.DataFrame, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The answers of the scorer that is registered on the `test` pairs, and the objections that follow from them."""
    kinds = kinds_of(group_figures(describe_pairs(test, pairs, {}), "kind", metrics["threshold"]))
    answered = {"called_matches": float((scores_of(test) >= metrics["threshold"]).mean()), "kinds": kinds}
    return {**answered, "objections": plain(objections({**metrics, **answered}, kinds, recipe.gate))}


def _against_trees(trees: Compared) -> dict[str, bool]:
    """Whether the trees' PR-AUC is the higher one, and whether the interval of the difference leaves out 0."""
    difference = trees.minus_first
    win, separated = (False, False) if difference is None else (difference.value > 0, difference.separated)
    return {"boosted_trees_win": win, "boosted_trees_separated": separated}


def hardest_pairs(test: pd.DataFrame, threshold: float, number: int) -> pd.DataFrame:
    """The `number` pairs decided wrong with the greatest certainty, then the `number` decided right but only just.

    `test` has item_a, item_b, label, score; the result has a column `kind` (wrong|right) before them.
    """
    margin = (test["score"] - threshold).abs()
    right = (test["score"] >= threshold) == (test["label"] == 1)
    shown = test.assign(kind=np.where(right, "right", "wrong"), margin=margin).sort_values("margin", kind="stable")
    worst = shown[shown["kind"] == "wrong"].iloc[::-1].head(number)
    return pd.concat([worst, shown[shown["kind"] == "right"].head(number)], ignore_index=True)[HARDEST_COLUMNS]


def _curves(recipe: Recipe, scored: Scored) -> dict[str, pd.DataFrame]:
    """Test curves by name: what is registered, the main variant, what it reaches with one modality, the baselines."""
    main = recipe.main_variant.modality
    names = {main: recipe.main} | {other: CURVE_NAMES[other] for other in MODALITIES if other != main}
    shown: dict[str, pd.DataFrame] = {}
    if scored.registered != MATCHER:
        shown[scored.registered] = part(scored.of_registered, split="test")
    shown |= {name: part(scored.matcher, split="test", modality=modality) for modality, name in names.items()}
    baselines = dict.fromkeys(scored.baselines["baseline"])
    shown |= {str(name): part(scored.baselines, split="test", baseline=str(name)) for name in baselines}
    return {name: pr_curve(labels_of(frame), scores_of(frame)) for name, frame in shown.items() if len(frame)}


def _write(folder: Path, recipe: Recipe, scored: Scored, metrics: Mapping[str, Any]) -> None:
    curves = _curves(recipe, scored)
    named = [curve.assign(name=name)[CURVE_COLUMNS] for name, curve in curves.items()]
    write_csv(folder / "curve.csv", pd.concat(named).to_dict("records"), CURVE_COLUMNS)
    test = part(scored.of_registered, split="test")
    hardest = hardest_pairs(test, metrics["threshold"], recipe.evaluate.hardest)
    write_csv(folder / "hardest.csv", hardest.to_dict("records"), HARDEST_COLUMNS)
    for suffix in ("svg", "png"):
        draw_pr_curves(curves, metrics["prevalence"], folder / f"pr_curve.{suffix}")


def _track(run: StageRun, metrics: Mapping[str, Any], folder: Path) -> None:
    for modality, interval in metrics["pr_auc"].items():
        for end, value in interval.items():
            if value is not None:
                run.metric(f"test/pr_auc.{modality}.{end}", value)
    for name, figures in metrics["baselines"].items():
        run.metric(f"test/pr_auc.{name}.value", figures["value"])
    run.metric("threshold", metrics["threshold"])
    run.metric("test/brier_calibrated", metrics["brier_calibrated"])
    run.artifact(folder)


def _headline(scored: Scored, metrics: Mapping[str, Any]) -> dict[str, float]:
    """What the registered scorer reaches, by split and figure, as tables of runs are read."""
    validation = part(scored.of_registered, split="validation")
    reached = {
        "validation/pr_auc": float(average_precision_score(labels_of(validation), scores_of(validation))),
        "test/pr_auc": metrics["registered"]["pr_auc"]["value"],
        "test/prevalence": metrics["prevalence"],
    }
    for name in ("precision", "recall"):
        reached |= {
            f"validation/{name}": metrics[f"validation_{name}_at_threshold"],
            f"test/{name}": metrics[f"{name}_at_threshold"],
        }
    return reached


def _compared_with(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The interval of what is registered, where there is one, and the PR-AUC of the trees on the same test pairs."""
    reached = metrics["registered"]["pr_auc"]
    interval = {f"test/pr_auc_{end}": reached[end] for end in ("low", "high") if reached[end] is not None}
    return {**interval, f"test/{TREES}": metrics["baselines"][TREES]["value"]}


def _say(recipe: Recipe, metrics: Mapping[str, Any], terminal: Terminal) -> None:
    reached = metrics["pr_auc"][metrics["modality"]]
    terminal.say(
        f"{recipe.main}: PR-AUC {formats.interval(**reached)} on {metrics['pairs']} test pairs (chance "
        f"{metrics['prevalence']:.3f})"
    )
    registered = metrics["registered"]
    if registered["scorer"] != MATCHER:
        terminal.say(f"registered is the {registered['scorer']}: PR-AUC {formats.interval(**registered['pr_auc'])}")
    if metrics["no_interval"]:
        terminal.warn(metrics["no_interval"])
    if metrics["threshold_rule"] == "best-f1":
        terminal.warn(
            f"no threshold reaches precision {metrics['target_precision']:g} on the validation pairs; the one with the "
            "best F1 is used"
        )
    if "promise" in metrics:
        terminal.say(metrics["promise"]["sentence"])
    for objection in metrics["objections"]:
        terminal.warn(f"not fit to be champion: {objection['sentence']}")
    if metrics["boosted_trees_win"] and not metrics["no_interval"]:
        certainty = "clearly" if metrics["boosted_trees_separated"] else "though not clearly"
        terminal.warn(f"boosted trees on simple features score higher than the model, {certainty}")
