"""What the report is made from: the results in a work folder, with those of the runs of experiments."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from mlim.errors import InputError
from mlim.evaluation.evidence import TEST, read_evidence
from mlim.evaluation.judges import judge_of
from mlim.evaluation.resampling import Resampling
from mlim.evaluation.task_evidence import TaskEvidence
from mlim.evaluation.task_scores import read_task_evidence
from mlim.experiments import judged_on_test
from mlim.recipe import Recipe, stored_recipe
from mlim.recipe.tasks import OtherTask
from mlim.report.gather import Gathered, gather_results
from mlim.report.reported import ReportedRecipe
from mlim.steps.experiment_runs import label_points, trained_variants
from mlim.steps.same_settings import wanted_probe
from mlim.steps.task_variants import ExperimentRun, task_variants
from mlim.workspace import Workspace


def reported(recipe: Recipe) -> ReportedRecipe:
    """What is reported of a recipe."""
    matching = recipe.of_task("match")
    others = {name: variant for name, variant in recipe.variants.items() if name not in matching.variants}
    known: dict[str, Any] = {"other_variants": others, "as_yaml": recipe.record.text}
    parts = {field.name: getattr(matching, field.name) for field in fields(ReportedRecipe) if field.name not in known}
    return ReportedRecipe(**parts, **known)


def gather(recipe: Recipe, workspace: Workspace) -> Gathered:
    """Read every result that the report shows; a file that exists but cannot be read is an `InputError`."""
    runs = _runs(workspace)
    trained = trained_variants(recipe, workspace, runs)
    try:
        evidence = read_evidence(workspace, trained, probed=wanted_probe(recipe))
        evidence = replace(evidence, tasks=dict(_tasks(recipe, workspace, runs)))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{workspace.root}: scores cannot be read ({error}); run the step that wrote them again"
        ) from None
    points = label_points(recipe, trained, evidence)
    return gather_results(reported(recipe), workspace, evidence, trained, points)


def _tasks(
    recipe: Recipe, workspace: Workspace, runs: Mapping[str, ExperimentRun]
) -> Iterator[tuple[OtherTask, TaskEvidence]]:
    """What was measured of each task besides matching."""
    settings = recipe.evaluate
    resampling = Resampling(settings.bootstrap_samples, settings.confidence, recipe.seed)
    for task in recipe.other_tasks:
        variants = task_variants(task, recipe, workspace, runs)
        found = read_task_evidence(judge_of(task), variants, TEST, workspace, resampling)
        if found is not None:
            yield task, found


def _runs(workspace: Workspace) -> dict[str, ExperimentRun]:
    """What `mlim ablate --experiment` trained beside the recipe's variants, where it is judged on the test pairs."""
    runs = [workspace.experiment_run(name) for name in sorted(judged_on_test())]
    return {run.root.name: ExperimentRun(stored_recipe(run.recipe), run) for run in runs if run.recipe.is_file()}
