"""Where the variants lie that are fine-tuned to a task besides matching: a recipe's own, and runs of experiments."""

from collections.abc import Mapping
from typing import NamedTuple

from mlim.evaluation.task_evidence import TaskVariant
from mlim.recipe import Recipe
from mlim.recipe.tasks import OtherTask
from mlim.workspace import Workspace


class ExperimentRun(NamedTuple):
    """One run of an experiment: a recipe, and the work folder that its results lie in."""

    recipe: Recipe
    workspace: Workspace


def task_variants(
    task: OtherTask, recipe: Recipe, workspace: Workspace, runs: Mapping[str, ExperimentRun] | None = None
) -> dict[str, TaskVariant]:
    """Where the variants of a recipe that are fine-tuned to a task lie, and those of runs, by the run's name.

    The variant of a run is called as the run, unless it has another label than the recipe's variant of its name.
    """
    place = ExperimentRun(recipe, workspace)
    own = {name: _fine_tuned(place, name, variant.label) for name, variant in recipe.of_task(task).variants.items()}
    labels = {name: variant.label for name, variant in recipe.variants.items()}
    others = {
        name: _fine_tuned(run, variant, name if each.label == labels.get(variant) else each.label)
        for name, run in (runs or {}).items()
        for variant, each in run.recipe.of_task(task).variants.items()
    }
    return own | others


def _fine_tuned(place: ExperimentRun, name: str, label: str) -> TaskVariant:
    recipe = place.recipe
    return TaskVariant(
        variant=recipe.variants[name].model_copy(update={"label": label}),
        name=name,
        workspace=place.workspace,
        seeds=recipe.seeds,
        finetunings=recipe.finetunings,
        key=recipe.training_key("finetune", name),
    )
