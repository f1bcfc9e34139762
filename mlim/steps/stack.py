"""Step `stack`: simple systems on the same pairs, and the matcher combined with them; the best one is registered."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.baselines import JUDGED, score_baselines, similarities
from mlim.evaluation.evidence import families_of
from mlim.evaluation.scores import check_same_pairs, in_order, labels_of, part, read_scores, scores_of
from mlim.files import atomic_folder, write_json
from mlim.pairs.labels import TRAIN, VALIDATION
from mlim.recipe import Recipe
from mlim.shards.items import open_items
from mlim.stacking.attributes import chosen_attributes
from mlim.stacking.features import LITE0, LiteFeatures
from mlim.stacking.items import Items, describe
from mlim.stacking.parts import Learned, Parts, fit_parts
from mlim.stacking.pictures import picture_of
from mlim.stacking.scorers import MATCHER
from mlim.stacking.stack import Stacked, only_matcher, stack_parts
from mlim.stacking.storage import save_stack
from mlim.steps.pairless import require_pairs
from mlim.steps.same_settings import require_same_settings
from mlim.tracking import StageRun, stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace

STAGE: Final = "stack"
BASELINES_FILE, SCORERS_FILE, SUMMARY_FILE = "baselines.parquet", "scores.parquet", "summary.json"
SHOWN: Final = ["item_a", "item_b", "label", "split"]


def stack(recipe: Recipe, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Score the baselines, fit the stack, choose what is registered; writes workspace.stack and returns its summary.

    Needs `finetune` of the main variant's first seed (`InputError` when it is missing, or had other settings). Parts
    are fitted on the training pairs, their combination on the validation pairs. `DataError` when the matcher's scores
    are of other pairs, or the training pairs have one label only.
    """
    require_pairs(workspace, STAGE)
    require_same_settings(recipe, workspace, "finetune", recipe.main, recipe.seeds[0])
    catalog = _read(recipe, workspace)
    matcher = _matcher_scores(recipe, workspace, catalog)
    with (
        stage_run(recipe.record, workspace, STAGE, STAGE, lineage(workspace)) as run,
        atomic_folder(workspace.stack) as folder,
    ):
        store = open_items(recipe.loader, workspace)
        both = recipe.main_variant.modality == "both"  # else the parts, which read both, are left out
        network = LiteFeatures.from_package() if recipe.stack.features == LITE0 and both else None
        with terminal.progress("measure pictures", len(catalog.ids)) as bar:
            items = describe(store, catalog.ids, bar, picture_of if network is None else network.measure)
        features = similarities(items, catalog.training_items, catalog.first, catalog.second)
        baselines = score_baselines(catalog.pairs, features, recipe.seed)
        learned = _learned(recipe, catalog, items)
        parts = fit_parts(learned, recipe.stack.folds, recipe.seed) if both else None
        stacked = _stack(recipe, workspace, catalog, items, parts, matcher)
        if parts is not None and stacked.chosen != MATCHER:
            save_stack(folder, stacked.stack(parts, network))
        baselines.to_parquet(folder / BASELINES_FILE, index=False)
        _long(catalog.judged, stacked.scores).to_parquet(folder / SCORERS_FILE, index=False)
        summary = {**_summary(recipe, stacked), "run_id": run.id}
        write_json(folder / SUMMARY_FILE, summary)
        _track(run, stacked)
    _say(stacked, terminal)
    return summary


def finetune_command(recipe: Recipe) -> str:
    """What makes the scores of the main variant's first seed."""
    return f"mlim finetune {recipe.main} --seed {recipe.seeds[0]}"


@dataclass(frozen=True)
class _Catalog:
    """All pairs in one order, and the items that something is learned from or judged on, with what is known of them."""

    pairs: pd.DataFrame
    items: pd.DataFrame

    @cached_property
    def ids(self) -> list[str]:
        return [str(item) for item in self.items["id"]]

    @cached_property
    def training_items(self) -> NDArray[np.bool_]:
        return np.asarray(self.items["split"] == TRAIN)

    @cached_property
    def attributes(self) -> list[Mapping[str, Any]]:
        return [json.loads(cell) for cell in self.items["attributes"]]

    @cached_property
    def facts(self) -> list[Mapping[str, Any]]:
        """What the pair rules read."""
        return [json.loads(cell) for cell in self.items["facts"]]

    @cached_property
    def first(self) -> NDArray[np.int64]:
        return self._places("item_a")

    @cached_property
    def second(self) -> NDArray[np.int64]:
        return self._places("item_b")

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The validation and test pairs."""
        return self.pairs.loc[self.pairs["split"].isin(JUDGED), SHOWN].reset_index(drop=True)

    def of(self, split: str) -> NDArray[np.bool_]:
        return np.asarray(self.pairs["split"] == split)

    def _places(self, side: str) -> NDArray[np.int64]:
        places = pd.Series(np.arange(len(self.items)), index=self.items["id"])
        return np.asarray(self.pairs[side].map(places), dtype=np.int64)


def _read(recipe: Recipe, workspace: Workspace) -> _Catalog:
    paths = {
        workspace.pairs / "pairs.parquet": "mlim pairs",
        workspace.pairs / "items.parquet": "mlim pairs",
        workspace.valid / "index.parquet": "mlim validate",
    }
    missing = [f"{path} is missing; run `{command}` first" for path, command in paths.items() if not path.is_file()]
    if missing:
        raise InputError(*missing)
    pairs, items, index = (pd.read_parquet(path) for path in paths)
    pairs = in_order(pairs)
    training = items.loc[items["split"] == TRAIN, "id"].sort_values()
    step = max(math.ceil(len(training) / recipe.stack.items), 1)
    wanted = items["id"].isin({*pairs["item_a"], *pairs["item_b"], *training.iloc[::step]})
    known = index[["id", "attributes", "facts"]]
    return _Catalog(pairs, items[wanted].merge(known, on="id", how="left", validate="1:1"))


def _matcher_scores(recipe: Recipe, workspace: Workspace, catalog: _Catalog) -> NDArray[np.float64]:
    """The main variant's scores of the validation and test pairs, in their order."""
    command = finetune_command(recipe)
    scores = read_scores(workspace.finetuned(recipe.main, recipe.seeds[0]), command)
    found = part(scores, modality=recipe.main_variant.modality)
    check_same_pairs(catalog.judged, found, f"the scores of variant `{recipe.main}`", command)
    return scores_of(found)


def _learned(recipe: Recipe, catalog: _Catalog, items: Items) -> Learned:
    """What the parts are fitted on; `items` are those of the catalog."""
    return Learned(
        items=items,
        training_items=catalog.training_items,
        families=catalog.items["component"].to_numpy(np.int64),
        values=chosen_attributes(
            catalog.facts,
            catalog.attributes,
            catalog.training_items,
            recipe.stack.attributes,
            recipe.stack.attribute_values,
        ),
        first=catalog.first,
        second=catalog.second,
        labels=labels_of(catalog.pairs),
        training=catalog.of(TRAIN),
        validation=catalog.of(VALIDATION),
    )


def _stack(
    recipe: Recipe,
    workspace: Workspace,
    catalog: _Catalog,
    items: Items,
    parts: Parts | None,
    matcher: NDArray[np.float64],
) -> Stacked:
    labels, validation = labels_of(catalog.judged), np.asarray(catalog.judged["split"] == VALIDATION)
    if parts is None:
        return only_matcher(matcher, labels, validation)
    judged = catalog.pairs["split"].isin(JUDGED).to_numpy()
    scores = parts.scores(items, catalog.first[judged], catalog.second[judged])
    scores.insert(0, MATCHER, matcher)
    families = families_of(catalog.judged, workspace)
    if families is None:
        raise InputError(f"{workspace.pairs / 'items.parquet'} lacks items of the pairs; run `mlim pairs` again")
    return stack_parts(scores, labels, families, validation, recipe.stack)


def _long(pairs: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """One line for each pair and scorer."""
    return pd.concat(
        [pairs.assign(scorer=str(name), score=scores[name].to_numpy()) for name in scores], ignore_index=True
    )


def _summary(recipe: Recipe, stacked: Stacked) -> dict[str, Any]:
    combination = stacked.combinations.get(stacked.chosen)
    return {
        "row": recipe.main,
        "seed": recipe.seeds[0],
        "registered": stacked.chosen,
        "policy": recipe.stack.register_policy,
        "validation_pr_auc": dict(stacked.validation),
        "weights": {} if combination is None else combination.weights,
    }


def _track(run: StageRun, stacked: Stacked) -> None:
    for name, value in stacked.validation.items():
        run.metric(f"validation/pr_auc.{name}".replace(" ", "-").replace(":", "-"), value)
    run.tag("mlim.registered_scorer", stacked.chosen)


def _say(stacked: Stacked, terminal: Terminal) -> None:
    reached = ", ".join(f"{name} {stacked.validation[name]:.3f}" for name in dict.fromkeys((MATCHER, stacked.chosen)))
    terminal.say(f"registered: {stacked.chosen}; PR-AUC on the validation pairs: {reached}")
