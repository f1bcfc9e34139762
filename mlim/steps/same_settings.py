"""Whether a training that a step uses had the settings of the recipe; its results would pass for this one's."""

from collections.abc import Mapping
from typing import Any, Final

from mlim.errors import InputError
from mlim.evaluation.evidence import WantedProbe
from mlim.files import read_json
from mlim.recipe import Recipe, Stage, stored_recipe
from mlim.recipe.layers import leaves
from mlim.workspace import Workspace

SUMMARY_FILE: Final = "summary.json"
SETTINGS: Final = "settings"  # of a training's summary: `Recipe.training_key`
NETWORK: Final = ("image", "text", "model", "systems")  # what every training follows
NOT_DECIDING: Final = ("checkpoint", "max_skipped_steps")  # of a section of training
NAMED: Final = 5  # settings in a message


def require_same_settings(recipe: Recipe, workspace: Workspace, stage: Stage, name: str, seed: int) -> None:
    """`InputError` where the training `name` with `seed` in the work folder had other settings than the recipe's.

    A training without a summary, or with one that names no settings, is taken as it is: a stage of DVC, which knows
    what is stale, is given the model or the scores alone, and early versions named none.
    """
    folder = workspace.pretrained(name, seed) if stage == "pretrain" else workspace.finetuned(name, seed)
    path = folder / SUMMARY_FILE
    found = read_json(path).get(SETTINGS) if path.is_file() else None
    if found is None or found == recipe.training_key(stage, name):
        return
    raise InputError(
        f"{folder} was trained with other settings than those of recipe {recipe.name}"
        f"{_named(_differing(recipe, workspace, stage, name, found))}; run `mlim {stage} {name} --seed {seed}` with "
        "this recipe, or choose the recipe, the settings or the --work that it was trained with"
    )


def wanted_probe(recipe: Recipe) -> WantedProbe:
    """What a probe has to be of and to be made with, so that it is evidence for the recipe."""
    start = recipe.main_variant.pretraining
    return WantedProbe(
        row=recipe.main,
        pretraining=start,
        seeds=recipe.seeds,
        key=None if start is None else recipe.training_key("pretrain", start),
        measured_with={**recipe.probe.model_dump(mode="json"), "seed": recipe.seed},
    )


def _differing(recipe: Recipe, workspace: Workspace, stage: Stage, name: str, key: str) -> list[str]:
    """The settings that differ, where the work folder still has the recipe of the training with that `key`."""
    try:
        trained = stored_recipe(workspace.recipe) if workspace.recipe.is_file() else None
    except InputError:  # of a version that this one cannot read
        return []
    entries = () if trained is None else trained.pretrainings if stage == "pretrain" else trained.variants
    if trained is None or name not in entries or trained.training_key(stage, name) != key:
        return []
    before, now = (_deciding(each, stage, name) for each in (trained, recipe))
    return [
        f"{'.'.join(setting)} was {_shown(before, setting)} and is {_shown(now, setting)}"
        for setting in dict.fromkeys([*leaves(before), *leaves(now)])
        if _shown(before, setting) != _shown(now, setting) and not {*setting} & {*NOT_DECIDING}
    ]


def _deciding(recipe: Recipe, stage: Stage, name: str) -> dict[str, Any]:
    """The part of a recipe that the key of a training is made of."""
    values = recipe.model_dump(mode="json")
    chosen: dict[str, Any] = {section: values[section] for section in NETWORK if section in values}
    start = name if stage == "pretrain" else recipe.variants[name].pretraining
    if start is not None:
        chosen |= {"pretrain": values["pretrain"], "pretrainings": {start: values["pretrainings"][start]}}
    if stage == "finetune":
        section = "finetune" if recipe.variants[name].task == "match" else "tasks"
        chosen |= {section: values[section], "variants": {name: {**values["variants"][name], "label": None}}}
    return chosen


def _shown(values: Mapping[str, Any], setting: tuple[str, ...]) -> str:
    """A setting as text; what a recipe leaves out is null."""
    value: Any = values
    for key in setting:
        value = value.get(key) if isinstance(value, Mapping) else None
    return "null" if value is None else str(value)


def _named(differing: list[str]) -> str:
    """The settings in a few words."""
    more = f", and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
    return f" ({', '.join(differing[:NAMED])}{more})" if differing else ""
