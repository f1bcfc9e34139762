"""The recipes of an experiment: the variants that it compares, and its runs, which change a few settings."""

from collections.abc import Mapping
from typing import NamedTuple

from mlim.config import nearest, override, parse
from mlim.errors import InputError
from mlim.evaluation.evidence import Evidence, TrainedVariant
from mlim.evaluation.label_curve import LabelPoint, label_curve
from mlim.evaluation.resampling import Resampling
from mlim.experiments import ExperimentPlan
from mlim.recipe import Recipe
from mlim.workspace import Workspace


class ExperimentRun(NamedTuple):
    """One run of an experiment: a recipe, and the work folder that its results lie in."""

    recipe: Recipe
    workspace: Workspace


def variants_of(recipe: Recipe, plan: ExperimentPlan) -> Recipe:
    """The recipe with the variants of the experiment alone, the main one among them; `InputError` when it lacks one."""
    missing = [name for name in plan.variants if name not in recipe.variants]
    problems = [f"variants: no `{name}`{nearest(name, list(recipe.variants))}" for name in missing]
    if problems:
        raise InputError(*problems)
    wanted = dict.fromkeys((recipe.main, *plan.variants))
    return recipe.model_copy(update={"variants": {variant: recipe.variants[variant] for variant in wanted}})


def recipe_of_run(recipe: Recipe, name: str, settings: tuple[str, ...]) -> Recipe:
    """The recipe with other settings and its main variant alone; `InputError` when they do not fit it."""
    named = recipe.model_copy(update={"name": f"{recipe.name}-{name}"})
    changed = parse(Recipe, override(named.model_dump(mode="json"), settings), f"experiment run {name}")
    return changed.model_copy(update={"variants": {changed.main: changed.main_variant}})


def trained_variants(
    recipe: Recipe, workspace: Workspace, runs: Mapping[str, ExperimentRun] | None = None
) -> dict[str, TrainedVariant]:
    """Where the variants of a recipe that match pairs lie, and the main variants of an experiment's runs by name."""
    matching = recipe.of_task("match").variants
    own = {variant: _trained(ExperimentRun(recipe, workspace), variant, own=True) for variant in matching}
    others = {name: _trained(run, run.recipe.main, own=False) for name, run in (runs or {}).items()}
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
    """The label-efficiency curve of the main variant and its like without pre-training, where a recipe has both."""
    other, settings = recipe.unpretrained_variant, recipe.evaluate
    if other is None or recipe.main_variant.pretraining is None:
        return ()
    resampling = Resampling(settings.bootstrap_samples, settings.confidence, recipe.seed)
    return label_curve(evidence, trained, (recipe.main, other), resampling)
