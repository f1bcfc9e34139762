"""A registered model without any training: a random matcher as the main variant's result, in a store of its own."""

import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from mlim.console import Terminal
from mlim.data.tokenize import TextTokenizer
from mlim.evaluation.behaviour import fields_of
from mlim.files import write_json
from mlim.local_store import address, mend
from mlim.models.config import MlimConfig
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.recipe import Recipe
from mlim.registry import Registry
from mlim.shards.items import ItemStore
from mlim.steps.behaviour import sent
from mlim.steps.register import register
from mlim.tracking import client, stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace


class Registered(NamedTuple):
    """A first version, for tests that only look at it."""

    recipe: Recipe
    workspace: Workspace
    summary: dict[str, Any]
    folder: Path


def first_version(recipe: Recipe, uri: str, work: Path) -> Registered:
    """Registers a random model in a copy of a prepared work folder."""
    recipe, workspace = tracked_at(recipe, uri), Workspace(work)
    put_model(recipe, workspace, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", False)  # as on most machines; a version must hold none all the same
        summary = register(recipe, workspace, Terminal(quiet=True))
    return Registered(recipe, workspace, summary, artifacts_of(recipe, "1"))


def copied(first: Registered, place: Path) -> tuple[Recipe, Workspace]:
    """A copy of recipe, store and work folder."""
    shutil.copytree(first.workspace.root.parent, place)
    mend(place / "own.db")
    return tracked_at(first.recipe, address(place / "own.db")), Workspace(place / "work")


def tracked_at(recipe: Recipe, uri: str) -> Recipe:
    return recipe.model_copy(update={"tracking": recipe.tracking.model_copy(update={"uri": uri})})


def put_model(recipe: Recipe, workspace: Workspace, seed: int, head_scale: float = 1.0) -> None:
    """A random matcher as the main variant's result; `head_scale` -1 turns its ranking over."""
    store = ItemStore.open(workspace.items, workspace.valid / "index.parquet")
    tokenizer = TextTokenizer.learn([store.text(item) for item in store.ids], recipe.text.vocabulary_size)
    mlim = Mlim.random(MlimConfig.from_recipe(recipe, tokenizer.vocabulary_size), seed)
    matcher = Matcher.from_mlim(mlim, 0.0, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in matcher.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.empty_like(weight).normal_(0, 0.3, generator=generator))
        for weight in matcher.head.parameters():
            if weight.shape[0] == 1:  # the layer that gives the logit
                weight.mul_(head_scale)
    folder = workspace.finetuned(recipe.main, recipe.seeds[0])
    matcher.save_pretrained(folder / "model")
    tokenizer.save(folder / "model")
    with stage_run(recipe.record, workspace, "finetune", recipe.main, lineage(workspace)) as run:
        write_json(folder / "summary.json", {"row": recipe.main, "seed": recipe.seeds[0], "run_id": run.id})
    pairs = pd.read_parquet(workspace.pairs / "pairs.parquet", columns=["item_a", "item_b", "label", "split"])
    scores = np.random.default_rng(seed).random(len(pairs))
    pairs.assign(modality="both", score=scores).to_parquet(folder / "scores.parquet")
    metrics = {
        "row": recipe.main,
        "seed": recipe.seeds[0],
        "modality": "both",
        "pairs": int((pairs["split"] == "test").sum()),
        "threshold_rule": "best-f1",
        "target_precision": 0.9,
        "precision_at_threshold": 0.5,
        "recall_at_threshold": 0.5,
        "baselines": {},
        "called_matches": 0.5,
        "kinds": [],
        "boosted_trees_win": False,
        "prevalence": 0.33,
        "pr_auc": {"both": {"value": 0.5, "low": 0.4, "high": 0.6}},
        "threshold": 0.5,
        "calibration": {"slope": 1.0, "intercept": 0.0},
        "matcher": {"threshold": 0.5, "slope": 1.0, "intercept": 0.0},
        "registered": {
            "scorer": "matcher",
            "pr_auc": {"value": 0.5, "low": 0.4, "high": 0.6},
            "baselines": {},
        },
    }
    write_json(workspace.stack / "summary.json", {"registered": "matcher", "run_id": run.id})
    judged = pairs.assign(score=scores).query("split != 'train'")
    judged.assign(scorer="matcher").to_parquet(workspace.stack / "scores.parquet")
    judged.assign(baseline="boosted-trees").to_parquet(workspace.stack / "baselines.parquet")
    write_json(workspace.evaluation / "summary.json", {**metrics, "run_id": run.id})


def relabel(workspace: Workspace, recipe: Recipe, version: str, better: bool) -> None:
    """Give the test pairs the labels that a version predicts (or their opposite): it is right (or wrong) throughout."""
    path = workspace.pairs / "pairs.parquet"
    table = pq.read_table(path)
    frame = table.to_pandas()
    test = frame["split"] == "test"
    probability = Registry(recipe.tracking).score(version, [request(workspace, frame[test])])
    above = probability > np.median(probability)
    frame.loc[test, "label"] = (above if better else ~above).astype(np.int8)
    pq.write_table(table.from_pandas(frame, schema=table.schema, preserve_index=False), path)


def request(workspace: Workspace, pairs: pd.DataFrame) -> pd.DataFrame:
    store = ItemStore.open(workspace.items, workspace.valid / "index.parquet")
    return next(sent(store, fields_of(pairs), len(pairs)))


def some_pairs(workspace: Workspace, count: int = 3) -> pd.DataFrame:
    frame = pq.read_table(workspace.pairs / "pairs.parquet").to_pandas()
    return request(workspace, frame[frame["split"] == "test"].head(count))


def artifacts_of(recipe: Recipe, version: str) -> Path:
    source = client(recipe.tracking).get_model_version(recipe.tracking.model_name, version).source
    location = client(recipe.tracking).get_logged_model(source.removeprefix("models:/")).artifact_location
    return Path(location.removeprefix("file://"))
