"""`mlim ablate --experiment NAME`: train what a declared experiment needs and is not there, and compare it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlim.console import Terminal
from mlim.errors import DataError, InputError
from mlim.evaluation.evidence import Evidence, read_evidence
from mlim.evaluation.resampling import compare_all
from mlim.experiments import ExperimentPlan, load_experiment
from mlim.files import mark, write_json
from mlim.recipe import Recipe
from mlim.report.figures import draw_label_curves
from mlim.report.labels import label_lines
from mlim.steps.experiment_runs import label_points, recipe_of_run, record_of_run, trained_variants, variants_of
from mlim.steps.pairless import comparable
from mlim.steps.probe import probe
from mlim.steps.stored_again import store_items, stored_images
from mlim.steps.task_tables import describe_tables, task_tables
from mlim.steps.task_variants import ExperimentRun
from mlim.steps.trainings import train_missing
from mlim.workspace import Workspace
from mlim.writer import record_recipe


def run_experiment(
    recipe: Recipe,
    workspace: Workspace,
    terminal: Terminal,
    name: str,
    jobs: int | None = None,
    catalog: Path | None = None,
) -> dict[str, Any]:
    """Train (`jobs` at a time) and compare one plan; writes experiments/NAME.json into the work folder and returns it.

    Runs that read images of another size need the `catalog`: its items are stored in one size.

    Each variant and run has its PR-AUC by seed and its difference to the one that the plan compares with, on the same
    pairs, with an interval over families and seeds; variants of other tasks have a table for each task (`tasks`). Where
    runs learn from fewer pairs, the curve over their numbers is there too (`label_curve`), drawn in
    experiments/NAME.png.
    `InputError` for an unknown experiment, missing inputs or results of other settings, `DataError` when budgets differ
    that have to be equal.
    """
    plan = load_experiment(name)
    terminal.say(f"experiment {name}: {plan.question}")
    chosen = comparable(variants_of(recipe, plan), workspace)
    runs = _prepare_runs(recipe, workspace, terminal, plan, catalog)
    train_missing([ExperimentRun(chosen, workspace), *runs.values()], terminal, jobs)
    if plan.probe:
        probe(recipe, workspace, terminal)
    summary: dict[str, Any] = {"experiment": name, "question": plan.question, "judged_on": plan.judged_on}
    summary |= {"main": recipe.main, "seeds": list(recipe.seeds), "compared_with": plan.compared_with or recipe.main}
    summary |= {"settings": {run: [*settings] for run, settings in plan.runs.items()}, "rows": {}}
    if chosen.of_task("match").variants:
        summary |= _matching(chosen, workspace, runs, plan)
    if tables := task_tables(chosen, workspace, plan.judged_on, runs, plan.equal_budgets):
        summary["tasks"] = tables
    if points := summary.get("label_curve"):
        place = workspace.experiments / f"{name}.png"
        draw_label_curves([("", points)], place, f"PR-AUC on the {plan.judged_on} pairs")
    write_json(workspace.experiments / f"{name}.json", summary)
    return summary


def _matching(
    chosen: Recipe, workspace: Workspace, runs: Mapping[str, ExperimentRun], plan: ExperimentPlan
) -> dict[str, Any]:
    """What became of the variants and runs that match pairs, and the curve over the number of pairs, if any."""
    trained = trained_variants(chosen, workspace, runs)
    evidence = read_evidence(workspace, trained, plan.judged_on)
    points = [point.plain() for point in label_points(chosen, trained, evidence)]
    rows = {"rows": compare(chosen, evidence, plan.equal_budgets, plan.compared_with)}
    return {**rows, "label_curve": points} if points else rows


def _prepare_runs(
    recipe: Recipe, workspace: Workspace, terminal: Terminal, plan: ExperimentPlan, catalog: Path | None
) -> dict[str, ExperimentRun]:
    """A work folder for every run, on the same items and pairs, and the same pre-training where that is equal."""
    if not workspace.pairs.is_dir():
        raise InputError(f"{workspace.pairs} is missing; run `mlim pairs` first, or give --catalog")
    runs = {}
    for name in plan.runs:
        changed = comparable(recipe_of_run(recipe, plan, name), workspace)
        run = ExperimentRun(changed, workspace.experiment_run(name))
        run.workspace.root.mkdir(parents=True, exist_ok=True)
        mark(run.workspace.root)
        shared = [workspace.pairs]
        same_images = stored_images(changed) == stored_images(recipe)
        shared += [workspace.items, workspace.valid, workspace.cache] if same_images else []
        shared += [folder for folder in (workspace.annotations, workspace.region_sources) if folder.is_dir()]
        if _same_pretraining(recipe, run.recipe):
            shared.append(workspace.pretrained("", 0).parent)
        for folder in shared:
            folder.mkdir(exist_ok=True)
            place = run.workspace.root / folder.name
            if not place.exists():
                place.symlink_to(os.path.relpath(folder, place.parent), target_is_directory=True)
        record_recipe(run.workspace, record_of_run(recipe, plan, name))
        if not same_images and not run.workspace.valid.is_dir():
            store_items(run, catalog, terminal)
        runs[name] = run
    return runs


def _same_pretraining(recipe: Recipe, run: Recipe) -> bool:
    """Whether the run's variants start from weights of the recipe, so that they need not be trained twice."""
    names = {variant.pretraining for variant in run.variants.values()}
    return all(
        name is not None
        and name in recipe.pretrainings
        and recipe.training_key("pretrain", name) == run.training_key("pretrain", name)
        for name in names
    )


def compare(
    recipe: Recipe, evidence: Evidence, equal_budgets: bool = True, compared_with: str | None = None
) -> dict[str, Any]:
    """PR-AUC of each variant by seed, and its difference to one of them (the main one unless another is named) with an
    interval over families and seeds."""
    if evidence.pairs is None:
        raise DataError(evidence.too_few or "there are no pairs to compare on")
    if evidence.left_out:
        raise DataError(f"{'; '.join(evidence.left_out)}; remove these results and run the same command again")
    main = evidence.variants[recipe.main]
    unequal = [variant for variant, scores in evidence.variants.items() if not scores.same_budget(main)]
    if unequal and equal_budgets:
        raise DataError(
            f"trained on another budget than `{recipe.main}`: {', '.join(unequal)}; there is nothing to compare"
        )
    settings = recipe.evaluate
    order = dict.fromkeys((compared_with or recipe.main, *evidence.variants))
    stacked = {name: evidence.variants[name].at(recipe.seeds) for name in order}
    compared = compare_all(evidence.pairs, stacked, settings.bootstrap_samples, settings.confidence, recipe.seed)
    variants: dict[str, Any] = {}
    for variant, (pr_auc, minus) in compared.items():
        by_seed = dict(zip(map(str, recipe.seeds), pr_auc.by_seed, strict=True))
        difference = None if minus is None else minus.difference._asdict()
        variants[variant] = {"pr_auc": pr_auc.value, "by_seed": by_seed, "minus": difference}
    return {name: variants[name] for name in evidence.variants}


def describe_experiment(summary: dict[str, Any]) -> str:
    """The comparison as lines for a terminal."""
    judged = f" PR-AUC on the {summary['judged_on']} pairs:" if summary["rows"] else ""
    lines = [f"{summary['question']}{judged}"]
    width = max(map(len, summary["rows"]), default=0)
    for variant, found in summary["rows"].items():
        minus = found["minus"]
        shown = "" if minus is None else f"  {minus['value']:+.4f}"
        if minus is not None and minus["low"] is not None:
            shown += f" [{minus['low']:+.4f}, {minus['high']:+.4f}]"
        lines.append(f"{variant:<{width}} {found['pr_auc']:.4f}{shown}")
    lines += describe_tables(summary.get("tasks", {}))
    return "\n".join([*lines, *label_lines(summary.get("label_curve", ()))])
