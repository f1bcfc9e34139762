"""The recipes of an experiment: the rows that it compares, and its runs, which change a few settings."""

from collections.abc import Mapping
from typing import NamedTuple

from mlim.config import nearest, override, parse
from mlim.errors import InputError
from mlim.evaluation.evidence import Evidence, TrainedRow
from mlim.evaluation.label_curve import LabelPoint, Resampling, label_curve
from mlim.experiments import ExperimentPlan
from mlim.recipe import Recipe
from mlim.workspace import Workspace


class ExperimentRun(NamedTuple):
    """One run of an experiment: a recipe, and the work folder that its results lie in."""

    recipe: Recipe
    workspace: Workspace


def rows_of(recipe: Recipe, plan: ExperimentPlan) -> Recipe:
    """The recipe with the rows of the experiment alone, the main one among them; `InputError` when it lacks one."""
    problems = [f"rows: no `{row}`{nearest(row, list(recipe.rows))}" for row in plan.rows if row not in recipe.rows]
    if problems:
        raise InputError(*problems)
    wanted = dict.fromkeys((recipe.main, *plan.rows))
    return recipe.model_copy(update={"rows": {row: recipe.rows[row] for row in wanted}})


def recipe_of_run(recipe: Recipe, name: str, settings: tuple[str, ...]) -> Recipe:
    """The recipe with other settings and its main row alone; `InputError` when they do not fit it."""
    named = recipe.model_copy(update={"name": f"{recipe.name}-{name}"})
    changed = parse(Recipe, override(named.model_dump(mode="json"), settings), f"experiment run {name}")
    return changed.model_copy(update={"rows": {changed.main: changed.main_row}})


def trained_rows(
    recipe: Recipe, workspace: Workspace, runs: Mapping[str, ExperimentRun] | None = None
) -> dict[str, TrainedRow]:
    """Where the rows of a recipe lie, and the main rows of the runs of an experiment by their names."""
    own = {row: _trained(ExperimentRun(recipe, workspace), row, own=True) for row in recipe.rows}
    others = {name: _trained(run, run.recipe.main, own=False) for name, run in (runs or {}).items()}
    return own | others


def _trained(place: ExperimentRun, name: str, own: bool) -> TrainedRow:
    recipe, row = place.recipe, place.recipe.rows[name]
    all_pairs = recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update={"max_pairs": None})})
    return TrainedRow(
        name=name,
        workspace=place.workspace,
        own=own,
        pretraining=row.pretraining,
        modality=row.modality,
        seeds=recipe.seeds,
        finetunings=recipe.finetunings,
        max_pairs=recipe.finetune.max_pairs,
        key=recipe.training_key("finetune", name),
        key_of_any_pairs=all_pairs.training_key("finetune", name),
    )


def label_points(recipe: Recipe, trained: Mapping[str, TrainedRow], evidence: Evidence) -> tuple[LabelPoint, ...]:
    """The label-efficiency curve of the main row and its like without pre-training, where a recipe has both."""
    other, settings = recipe.unpretrained_row, recipe.evaluate
    if other is None or recipe.main_row.pretraining is None:
        return ()
    resampling = Resampling(settings.bootstrap_samples, settings.confidence, recipe.seed)
    return label_curve(evidence, trained, (recipe.main, other), resampling)
