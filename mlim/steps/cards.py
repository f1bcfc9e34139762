"""The cards of the main model and of its data, in Hugging Face's format, from what the steps left."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from mlim.evaluation.groups import describe_pairs, group_figures
from mlim.evaluation.scores import part
from mlim.files import read_json
from mlim.recipe import Recipe
from mlim.report.cards import data_card, model_card
from mlim.steps.evaluate import read_scored
from mlim.steps.gathered import reported
from mlim.versions import Lineage
from mlim.workspace import Workspace

CARD_FILE = "README.md"
MODEL_CARD, DATA_CARD = "model_card", "data_card"  # folders


def write_cards(
    recipe: Recipe, workspace: Workspace, folder: Path, origin: Lineage, metrics: dict[str, Any], judged: dict[str, Any]
) -> list[Path]:
    """Write model_card/README.md and data_card/README.md into `folder`; gives their folders.

    `judged` holds objections, behaviour and why, as registration found them.
    """
    ingested, validated, paired = (
        read_json(made / "summary.json") for made in (workspace.items, workspace.valid, workspace.pairs)
    )
    described = _described(recipe, workspace)
    figures = [group_figures(described, column, metrics["threshold"]) for column in ("category", "kind")]
    texts = {
        MODEL_CARD: model_card(reported(recipe), metrics, asdict(origin), origin.catalog, judged, *figures),
        DATA_CARD: data_card(reported(recipe), ingested, validated, paired, asdict(origin)),
    }
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / CARD_FILE).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _described(recipe: Recipe, workspace: Workspace) -> pd.DataFrame:
    """The test pairs as the registered scorer scored them, with kind and category."""
    scored = read_scored(recipe, workspace)
    index = pq.read_table(workspace.valid / "index.parquet", columns=["id", "category"]).to_pandas()
    categories = dict(zip(index["id"], index["category"], strict=True))
    pairs = pd.read_parquet(workspace.pairs / "pairs.parquet")
    return describe_pairs(part(scored.of_registered, split="test"), pairs, categories)
