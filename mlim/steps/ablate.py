"""Step `ablate`: Tables 1 and 2 of the paper (section 4.2.1), all variants over all seeds on the same test pairs.

Variants that are fine-tuned to other tasks than matching have a table for each task (`task_tables`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.console import Terminal
from mlim.errors import DataError, InputError
from mlim.evaluation.evidence import judged_pairs
from mlim.evaluation.pr_auc import Difference, Interval, Labels, average_precision, prevalence
from mlim.evaluation.resampling import JudgedPairs, compare_all
from mlim.evaluation.scores import SCORES_FILE, check_same_pairs, part, read_scores, scores_of
from mlim.evaluation.spreads import spread_parts
from mlim.files import atomic_folder, read_json, write_csv, write_json
from mlim.offline import RUN_ID
from mlim.recipe import Modality, Recipe
from mlim.references import load_reference
from mlim.steps.loss_curves import write_loss_curves
from mlim.steps.pairless import has_pairs, other_tasks_alone
from mlim.steps.task_tables import (
    add_task_figures,
    describe_tables,
    headlines,
    task_tables,
    with_seen,
    write_tables,
)
from mlim.tracking import add_figures, stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace

STAGE: Final = "ablate"
SUMMARY: Final = "summary.json"
METRICS: Final = "metrics.json"  # one figure for each variant; all are in the summary and the tables
DIGITS: Final = 6  # of the figures in table.csv; more would only be noise
DIFFERENCE_COLUMNS: Final = ("difference", "difference_low", "difference_high", "p_value")
COLUMNS: Final = (
    *("row", "label", "seeds", "pr_auc", "low", "high", "pr_auc_text", "pr_auc_image", "table1", "table2"),
    *DIFFERENCE_COLUMNS,
    "run_ids",
)


@dataclass(frozen=True)
class Run:
    """One variant with one seed: test scores by pair of each of its fine-tunings, and summaries of its trainings."""

    variant: str
    seed: int
    tests: Sequence[pd.DataFrame]
    finetuning: Mapping[str, Any]
    pretraining: Mapping[str, Any] | None

    def scores(self, modality: Modality) -> NDArray[np.float64]:
        """Test scores (fine-tunings, pairs) when the model is shown `modality`; no pairs when it was not scored so."""
        return np.stack([scores_of(part(test, modality=modality)) for test in self.tests])


@dataclass(frozen=True)
class VariantResult:
    """PR-AUC of one variant, averaged over its seeds; `difference` is to the main variant (None for that itself)."""

    pr_auc: Interval
    by_seed: Sequence[float]
    text: float | None
    image: float | None
    difference: Difference | None


def ablate(recipe: Recipe, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Compare all variants of the recipe over all its seeds; writes the table and returns its summary.

    `InputError` names every run that has not been trained and the command that trains it. `DataError` when variants
    were trained on unequal budgets or scored on different pairs: their difference would not be the variant's doing.
    Of a catalog without pairs the variants of other tasks are compared, and no other ones have to be there.
    """
    if not has_pairs(workspace):
        return _compare_tasks(recipe, workspace, terminal)
    check_trained(recipe, workspace)
    tables, whole = with_seen(recipe, task_tables(recipe, workspace)), recipe
    recipe = recipe.of_task("match")
    runs = read_runs(recipe, workspace)
    check_budgets(recipe, runs)
    with stage_run(whole.record, workspace, STAGE, STAGE, lineage(workspace)) as run:
        pairs = judged_pairs(_common_pairs(recipe, runs), workspace)
        results = compare_variants(recipe, runs, pairs)
        rows = {variant: _row(result) for variant, result in results.items()}
        main_figures = {f"test/pr_auc.{name}": each.pr_auc.value for name, each in results.items()} | headlines(tables)
        about = {"main": recipe.main, "seeds": [*recipe.seeds], "pairs": pairs.labels.size}
        about |= {"prevalence": prevalence(pairs.labels), "no_interval": pairs.no_interval or None}
        figures = [_figures(pairs.labels, runs[name], each.modality) for name, each in recipe.variants.items()]
        about |= {"tasks": [*tables]} if tables else {}
        summary = {**about, "rows": rows, "spread": spread_parts(figures), "run_id": run.id}
        with atomic_folder(workspace.ablation) as folder:
            write_csv(folder / "table.csv", table_rows(recipe, runs, results), COLUMNS)
            write_json(folder / METRICS, main_figures)
            write_json(folder / SUMMARY, summary)
            write_tables(folder, tables)
            write_loss_curves(folder, whole, workspace)
            run.artifact(folder)
        for name, value in main_figures.items():
            run.metric(name, value)
    _add_figures(recipe, workspace, results)
    add_task_figures(recipe, workspace, tables)
    _say(recipe, results, terminal)
    for line in describe_tables(tables):
        terminal.say(line)
    if pairs.no_interval and not _evaluated(workspace):
        terminal.warn(pairs.no_interval)
    return summary


def _evaluated(workspace: Workspace) -> bool:
    """Whether `mlim evaluate` judged these pairs: then it said how few they are."""
    return (workspace.evaluation / "summary.json").is_file()


def _compare_tasks(recipe: Recipe, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """The tables of the tasks besides matching alone, of a catalog that has no pairs."""
    record, recipe = recipe.record, other_tasks_alone(recipe)
    check_trained(recipe, workspace)
    tables = with_seen(recipe, task_tables(recipe, workspace))
    main_figures = headlines(tables)
    with stage_run(record, workspace, STAGE, STAGE, lineage(workspace)) as run:
        summary = {"seeds": [*recipe.seeds], "pairs": 0, "tasks": [*tables], "rows": {}, "run_id": run.id}
        with atomic_folder(workspace.ablation) as folder:
            write_json(folder / METRICS, main_figures)
            write_json(folder / SUMMARY, summary)
            write_tables(folder, tables)
            write_loss_curves(folder, recipe, workspace)
            run.artifact(folder)
        for name, value in main_figures.items():
            run.metric(name, value)
    add_task_figures(recipe, workspace, tables)
    for line in describe_tables(tables):
        terminal.say(line)
    return summary


def check_trained(recipe: Recipe, workspace: Workspace) -> None:
    """`InputError` with one line for each training of a variant that is not there."""
    if missing := dict.fromkeys(_missing(recipe, workspace)):
        raise InputError(*missing)


def read_runs(recipe: Recipe, workspace: Workspace) -> dict[str, list[Run]]:
    """The runs of every variant, seed by seed, which have to be there."""
    return {name: [_read_run(recipe, workspace, name, seed) for seed in recipe.seeds] for name in recipe.variants}


def _missing(recipe: Recipe, workspace: Workspace) -> Iterator[str]:
    for name, variant in recipe.variants.items():
        for seed in recipe.seeds:
            for again in range(recipe.finetunings):
                trained = workspace.finetuned(name, seed, again)
                if not all((trained / file).is_file() for file in (SCORES_FILE, SUMMARY)):
                    command = _command(name, seed, again)
                    yield f"variant `{name}`, seed {seed}: {trained} is missing; run `{command}` first"
            start = variant.pretraining
            if start and not (found := workspace.pretrained(start, seed) / SUMMARY).is_file():
                yield f"{found} is missing; run `mlim pretrain {start} --seed {seed}` first"


def _command(variant: str, seed: int, again: int = 0) -> str:
    return f"mlim finetune {variant} --seed {seed}{f' --again {again}' if again else ''}"


def _read_run(recipe: Recipe, workspace: Workspace, variant: str, seed: int) -> Run:
    folder, start = workspace.finetuned(variant, seed), recipe.variants[variant].pretraining
    return Run(
        variant,
        seed,
        [
            part(read_scores(workspace.finetuned(variant, seed, again), _command(variant, seed, again)), split="test")
            for again in range(recipe.finetunings)
        ],
        read_json(folder / SUMMARY),
        read_json(workspace.pretrained(start, seed) / SUMMARY) if start else None,
    )


def check_budgets(recipe: Recipe, runs: Mapping[str, Sequence[Run]]) -> None:
    """`DataError` unless all pre-trainings saw equally many samples and all fine-tunings equally many pairs."""
    seen: dict[str, dict[int, list[str]]] = {"pairs in fine-tuning": {}, "samples in pre-training": {}}
    fine, pre = seen.values()
    for run in (run for variant in recipe.variants for run in runs[variant]):
        name = f"`{run.variant}` seed {run.seed}"
        fine.setdefault(run.finetuning["pairs_seen"], []).append(name)
        if run.pretraining is not None:
            pre.setdefault(run.pretraining["samples_seen"], []).append(name)
    problems = [
        f"the variants have unequal budgets of {what}: "
        + "; ".join(f"{number} for {', '.join(names)}" for number, names in budgets.items())
        for what, budgets in seen.items()
        if len(budgets) > 1
    ]
    if problems:
        raise DataError("\n".join([*problems, "train them again with one recipe, so that they can be compared"]))


def _common_pairs(recipe: Recipe, runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """The test pairs; `DataError` when a run was scored on other pairs than the main variant."""
    expected = part(runs[recipe.main][0].tests[0], modality=recipe.main_variant.modality)
    for run in (run for variant in recipe.variants for run in runs[variant]):
        for again, test in enumerate(run.tests):
            found = part(test, modality=recipe.variants[run.variant].modality)
            what = f"the test scores of variant `{run.variant}`, seed {run.seed},"
            check_same_pairs(expected, found, what, _command(run.variant, run.seed, again))
    return expected


def compare_variants(recipe: Recipe, runs: Mapping[str, Sequence[Run]], pairs: JudgedPairs) -> dict[str, VariantResult]:
    """PR-AUC of each variant, averaged over its seeds, and its difference to the main one, over families and seeds."""
    settings = recipe.evaluate
    order = dict.fromkeys((recipe.main, *recipe.variants))
    stacked = {name: np.stack([run.scores(recipe.variants[name].modality) for run in runs[name]]) for name in order}
    main = recipe.main_variant
    alike = [name for name in order if recipe.variants[name].modality == main.modality]  # as those of the claims are
    compared = compare_all(pairs, stacked, settings.bootstrap_samples, settings.confidence, recipe.seed, alike)

    def result(variant: str) -> VariantResult:
        pr_auc, minus_main = compared[variant]
        return VariantResult(
            pr_auc=pr_auc.interval,
            by_seed=pr_auc.by_seed,
            text=_mean(pairs.labels, runs[variant], "text"),
            image=_mean(pairs.labels, runs[variant], "image"),
            difference=None if minus_main is None else minus_main.difference,
        )

    return {variant: result(variant) for variant in recipe.variants}


def _figures(labels: Labels, runs: Sequence[Run], modality: Modality) -> NDArray[np.float64]:
    """PR-AUC (seeds, fine-tunings) of a variant."""
    return np.array([[average_precision(labels, one) for one in run.scores(modality)] for run in runs])


def _mean(labels: Labels, runs: Sequence[Run], modality: Modality) -> float | None:
    """PR-AUC with one modality at test time, averaged over seeds; None when the variant is not scored so."""
    found = [average_precision(labels, one) for run in runs for one in run.scores(modality) if one.size]
    return float(np.mean(found)) if found else None


def _add_figures(recipe: Recipe, workspace: Workspace, results: Mapping[str, VariantResult]) -> None:
    """Add what each variant reaches on the test pairs to the run of each seed, so that MLflow can compare them.

    The interval is that of the variant; where several seeds are averaged, it is of none of them.
    """
    for variant, result in results.items():
        ends = {"low": result.pr_auc.low, "high": result.pr_auc.high} if len(recipe.seeds) == 1 else {}
        known = {f"test/pr_auc/{name}": end for name, end in ends.items() if end is not None}
        for seed, value in zip(recipe.seeds, result.by_seed, strict=True):
            figures = {"test/pr_auc": value, **known}
            if run_id := read_json(workspace.finetuned(variant, seed) / SUMMARY).get(RUN_ID):
                add_figures(recipe.tracking, run_id, figures)


def _row(result: VariantResult) -> dict[str, Any]:
    """What the summary says of one variant."""
    difference = {} if result.difference is None else {"difference": result.difference._asdict()}
    alone = {name: value for name, value in (("text", result.text), ("image", result.image)) if value is not None}
    interval = {"pr_auc": result.pr_auc.value, "low": result.pr_auc.low, "high": result.pr_auc.high}
    return {**interval, "by_seed": [*result.by_seed], **alone, **difference}


def table_rows(
    recipe: Recipe, runs: Mapping[str, Sequence[Run]], results: Mapping[str, VariantResult]
) -> list[dict[str, Any]]:
    """table.csv, one mapping for each variant, in the order of the recipe; what does not apply is None."""
    return [_table_row(recipe, name, runs[name], result) for name, result in results.items()]


def _table_row(recipe: Recipe, name: str, runs: Sequence[Run], result: VariantResult) -> dict[str, Any]:
    reference = load_reference()
    figures = {
        **dict(zip(("pr_auc", "low", "high"), result.pr_auc, strict=True)),
        "pr_auc_text": result.text,
        "pr_auc_image": result.image,
        **dict(zip(DIFFERENCE_COLUMNS, result.difference or [None] * len(DIFFERENCE_COLUMNS), strict=True)),
    }
    return {
        "row": name,
        "label": recipe.variants[name].label,
        "seeds": len(runs),
        "table1": reference.figure("table1", name),
        "table2": reference.figure("table2", name),
        "run_ids": ";".join(run.finetuning.get("run_id") or "" for run in runs),
        **{column: None if figure is None else round(figure, DIGITS) for column, figure in figures.items()},
    }


def _say(recipe: Recipe, results: Mapping[str, VariantResult], terminal: Terminal) -> None:
    for variant, result in results.items():
        apart = "" if result.difference is None else f", {result.difference.value:+.3f} to {recipe.main}"
        terminal.say(f"{recipe.variants[variant].label}: PR-AUC {result.pr_auc.value:.3f}{apart}")
