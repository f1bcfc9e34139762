"""The recipes of an experiment: the variants that it compares, and its runs, which change a few settings."""

from collections.abc import Iterable, Mapping

from mlim.config import nearest, override, parse
from mlim.errors import InputError
from mlim.evaluation.evidence import Evidence, TrainedVariant
from mlim.evaluation.label_curve import LabelPoint, label_curve
from mlim.evaluation.resampling import Resampling
from mlim.experiments import ExperimentPlan
from mlim.recipe import Recipe
from mlim.recipe.record import RecipeRecord
from mlim.recipe.tasks import FinetuneTask
from mlim.steps.task_variants import ExperimentRun
from mlim.workspace import Workspace


def variants_of(recipe: Recipe, plan: ExperimentPlan) -> Recipe:
    """The recipe with the variants of the experiment alone, the main one among them where any of these matches pairs.

    `InputError` when the recipe lacks one.
    """
    missing = [name for name in plan.variants if name not in recipe.variants]
    problems = [f"variants: no `{name}`{nearest(name, list(recipe.variants))}" for name in missing]
    if problems:
        raise InputError(*problems)
    matches = any(recipe.variants[name].task == "match" for name in plan.variants)
    return _only(recipe, (recipe.main, *plan.variants) if matches else plan.variants)


def recipe_of_run(recipe: Recipe, plan: ExperimentPlan, name: str) -> Recipe:
    """The recipe with the settings of a run and the variants that it trains alone; `InputError` when they do not fit.

    Of matching that is the main variant, of each other task the first of the experiment's variants that the settings
    change.
    """
    changed = _changed(recipe, plan, name)
    return _only(changed, _trained_by_run(recipe, changed, plan))


def record_of_run(recipe: Recipe, plan: ExperimentPlan, name: str) -> RecipeRecord:
    """What is written down beside the results of a run: the same recipe, with its main variant in any case."""
    changed = _changed(recipe, plan, name)
    return _only(changed, [changed.main, *_trained_by_run(recipe, changed, plan)]).record


def _changed(recipe: Recipe, plan: ExperimentPlan, name: str) -> Recipe:
    named = recipe.model_copy(update={"name": f"{recipe.name}-{name}"})
    return parse(Recipe, override(named.model_dump(mode="json"), plan.runs[name]), f"experiment run {name}")


def _only(recipe: Recipe, names: Iterable[str]) -> Recipe:
    return recipe.model_copy(update={"variants": {name: recipe.variants[name] for name in dict.fromkeys(names)}})


def _trained_by_run(recipe: Recipe, changed: Recipe, plan: ExperimentPlan) -> list[str]:
    first: dict[FinetuneTask, str] = {}
    for name in plan.variants:
        task = changed.variants[name].task
        if task == "match":
            first.setdefault(task, changed.main)
        elif changed.training_key("finetune", name) != recipe.training_key("finetune", name):
            first.setdefault(task, name)
    return [*first.values()]


def trained_variants(
    recipe: Recipe, workspace: Workspace, runs: Mapping[str, ExperimentRun] | None = None
) -> dict[str, TrainedVariant]:
    """Where the variants of a recipe that match pairs lie, and the main variants of an experiment's runs by name."""
    matching = recipe.of_task("match").variants
    own = {variant: _trained(ExperimentRun(recipe, workspace), variant, own=True) for variant in matching}
    others = {
        name: _trained(run, run.recipe.main, own=False)
        for name, run in (runs or {}).items()
        if run.recipe.main in run.recipe.variants  # other tasks than matching have theirs in `task_variants`
    }
    return own | others


def _trained(place: ExperimentRun, name: str, own: bool) -> TrainedVariant:
    recipe, variant = place.recipe, place.recipe.variants[name]
    all_pairs = recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update={"max_pairs": None})})
    return TrainedVariant(
        name=name,
        workspace=place.workspace,
        own=own,
        pretraining=variant.pretraining,
        modality=variant.modality,
        seeds=recipe.seeds,
        finetunings=recipe.finetunings,
        max_pairs=recipe.finetune.max_pairs,
        key=recipe.training_key("finetune", name),
        key_of_any_pairs=all_pairs.training_key("finetune", name),
    )


def label_points(recipe: Recipe, trained: Mapping[str, TrainedVariant], evidence: Evidence) -> tuple[LabelPoint, ...]:
    """The label-efficiency curve of the main variant and its like that differs in pre-training, where there is one."""
    pair, settings = recipe.pretraining_pair, recipe.evaluate
    if pair is None:
        return ()
    resampling = Resampling(settings.bootstrap_samples, settings.confidence, recipe.seed)
    return label_curve(evidence, trained, pair, resampling)
