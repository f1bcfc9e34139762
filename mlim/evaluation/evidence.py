"""What the claims are judged by: the test scores of every row and seed that lie in a work folder, and the probes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.evaluation.pr_auc import Scores
from mlim.evaluation.resampling import Families, JudgedPairs
from mlim.evaluation.scores import PAIR, SCORES_FILE, in_order, labels_of, part, scores_of
from mlim.files import read_json
from mlim.recipe import Recipe
from mlim.workspace import Workspace

SUMMARY: Final = "summary.json"
TEST: Final = "test"
Split = Literal["test", "validation"]


@dataclass(frozen=True)
class RowScores:
    """Scores (n,) of one row by seed, and what was spent on it: samples in pre-training, pairs in fine-tuning."""

    by_seed: Mapping[int, Scores]
    budgets: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())

    def at(self, seeds: tuple[int, ...]) -> NDArray[np.float64]:
        """Scores (seeds, n) of the given seeds."""
        return np.stack([self.by_seed[seed] for seed in seeds])

    def same_budget(self, other: "RowScores") -> bool:
        """Whether all trainings of both rows cost the same, as far as they need one and say what it was."""
        return all(len(mine | theirs) <= 1 for mine, theirs in zip(self.budgets, other.budgets, strict=True) if theirs)


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured.

    `left_out` says in a sentence each which scores could not be used and why, `too_few` why there are no pairs.
    """

    pairs: JudgedPairs | None
    rows: Mapping[str, RowScores]
    probe: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    too_few: str = ""


class Variant(NamedTuple):
    """Another recipe with a work folder of its own, whose main row is judged beside the rows of the first one."""

    recipe: Recipe
    workspace: Workspace


def read_evidence(
    recipe: Recipe, workspace: Workspace, variants: Mapping[str, Variant] | None = None, split: Split = TEST
) -> Evidence:
    """The evidence in a work folder on the pairs of one split; what is not there is not in it.

    `variants` maps the name of a row that a claim asks for to where it was trained, when that is another work folder:
    a variant that no row of one recipe can express. Its pairs have to be the same.
    """
    probe = _json(workspace.probe / SUMMARY)
    path = workspace.pairs / "pairs.parquet"
    if not path.is_file():
        return Evidence(None, {}, probe)
    pairs = part(in_order(pd.read_parquet(path)), split=split)
    places = {row: (Variant(recipe, workspace), row) for row in recipe.rows}
    places |= {name: (variant, variant.recipe.main) for name, variant in (variants or {}).items()}
    left_out: list[str] = []
    found = {name: _read_row(*place, split, pairs, left_out) for name, place in places.items()}
    rows = {name: scores for name, scores in found.items() if scores.by_seed}
    return Evidence(judged_pairs(pairs, workspace), rows, probe, tuple(left_out))


def judged_pairs(pairs: pd.DataFrame, workspace: Workspace) -> JudgedPairs:
    """Pairs of a work folder with their labels and families; the order of `pairs` is that of the scores."""
    return JudgedPairs(labels_of(pairs), families_of(pairs, workspace))


def families_of(pairs: pd.DataFrame, workspace: Workspace) -> Families | None:
    """The components (n, 2) of the items of each pair: what the splits keep together. None where they are not known."""
    path = workspace.pairs / "items.parquet"
    if not path.is_file():
        return None
    component = pd.read_parquet(path, columns=["id", "component"]).set_index("id")["component"]
    found = np.column_stack([pairs[side].map(component).to_numpy(dtype=np.float64) for side in ("item_a", "item_b")])
    return None if np.isnan(found).any() else found.astype(np.int64)


def _read_row(place: Variant, row: str, split: Split, pairs: pd.DataFrame, left_out: list[str]) -> RowScores:
    recipe, workspace = place
    key = recipe.training_key("finetune", row)
    by_seed: dict[int, Scores] = {}
    spent: tuple[set[int], set[int]] = (set(), set())
    for seed in recipe.seeds:
        path = workspace.finetuned(row, seed) / SCORES_FILE
        if not path.is_file():
            continue
        if _json(path.with_name(SUMMARY)).get("settings") != key:
            left_out.append(f"row `{row}`, seed {seed}: trained with other settings than the recipe's")
            continue
        found = part(in_order(pd.read_parquet(path)), split=split, modality=recipe.rows[row].modality)
        if not _same_pairs(pairs, found):
            left_out.append(f"row `{row}`, seed {seed}: scored on other pairs than the present ones")
            continue
        by_seed[seed] = scores_of(found)
        for budget, of_seed in zip(spent, _budgets(recipe, workspace, row, seed), strict=True):
            budget |= of_seed
    return RowScores(by_seed, (frozenset(spent[0]), frozenset(spent[1])))


def _same_pairs(expected: pd.DataFrame, found: pd.DataFrame) -> bool:
    kinds = {"label": "int64"}
    return bool(expected[PAIR].astype(kinds).equals(found[PAIR].astype(kinds)))


def _budgets(recipe: Recipe, workspace: Workspace, row: str, seed: int) -> tuple[set[int], set[int]]:
    """Samples seen in pre-training and pairs seen in fine-tuning; empty where there is none or it is not said."""
    start = recipe.rows[row].pretraining
    before = {} if start is None else _json(workspace.pretrained(start, seed) / SUMMARY)
    after = _json(workspace.finetuned(row, seed) / SUMMARY)
    return _told(before, "samples_seen"), _told(after, "pairs_seen")


def _told(summary: Mapping[str, Any], key: str) -> set[int]:
    return {int(summary[key])} if key in summary else set()


def _json(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}
