"""Test cases for a registered model, sent as a client would send them."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from mlim.evaluation.behaviour import behaviour_of, draw_cases
from mlim.recipe import Recipe
from mlim.registry import INPUTS, Registry
from mlim.shards.items import ItemStore, open_items
from mlim.workspace import Workspace


def sent(store: ItemStore, fields: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    """Requests of `size` rows each, of the items in the columns `FIELDS` of mlim.evaluation.behaviour.

    They hold texts with the columns that they are made from, and pictures as base64.
    """

    def value(field: str, item: str) -> str:
        if field.startswith("text"):
            return store.text(item)
        if field.startswith("fields"):
            return json.dumps(store.columns(item))
        return base64.b64encode(store.jpeg(item)).decode("ascii")

    sources = {field: field.replace("fields", "text") for field in INPUTS}  # the field whose item a value is of
    for start in range(0, len(fields), size):
        part = fields.iloc[start : start + size]
        yield pd.DataFrame({field: [value(field, item) for item in part[of]] for field, of in sources.items()})


def measure_behaviour(
    recipe: Recipe, workspace: Workspace, registry: Registry, version: str, pairs: pd.DataFrame
) -> dict[str, Any]:
    """Figures of `mlim.evaluation.behaviour` for a registered version, on a sample of the test `pairs`."""
    modality, sampled = recipe.main_variant.modality, recipe.gate.sampled_pairs
    cases = draw_cases(pairs, _test_items(workspace), modality, sampled, recipe.seed)
    requests = sent(open_items(recipe.loader, workspace), cases, recipe.evaluate.batch_size)
    answers = registry.answer(version, requests)
    return behaviour_of(cases, answers["probability"].to_numpy(), answers["match"].to_numpy(dtype=bool))


def _test_items(workspace: Workspace) -> pd.DataFrame:
    """The items of the test split with component and category (empty where they have none)."""
    members = pq.read_table(workspace.pairs / "items.parquet", filters=[("split", "=", "test")]).to_pandas()
    index = pq.read_table(workspace.valid / "index.parquet", columns=["id", "category"]).to_pandas()
    found: pd.DataFrame = members.merge(index.fillna({"category": ""}), on="id", how="inner", validate="1:1")
    return found[["id", "component", "category"]]
