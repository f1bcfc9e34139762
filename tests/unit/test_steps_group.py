"""The step `group` on a small catalog: files, figures, and what it says of tables that it cannot use."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import read_csv, write_json
from mlim.recipe import Recipe
from mlim.steps.group import group_items
from mlim.workspace import Workspace

COLUMNS = {"id": "id", "image": "image", "family": "family", "text": ["kind", "colour"]}


def describe(path: Path, **matching: Any) -> Path:
    """A catalog.yaml with these rules."""
    values = {"table": "tiny.csv", "images": ".", "columns": COLUMNS, "matching": matching}
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def described(tmp_path: Path) -> Path:
    return describe(tmp_path / "catalog.yaml")


@pytest.fixture
def scores(own_workspace: Workspace, tmp_path: Path) -> Path:
    """Labelled pairs that score as their label says."""
    pairs = pd.read_parquet(own_workspace.pairs / "pairs.parquet")
    path = tmp_path / "scores.csv"
    pairs.assign(score=np.where(pairs["label"] == 1, 0.9, 0.1))[["item_a", "item_b", "score"]].to_csv(path, index=False)
    return path


def run(recipe: Recipe, described: Path, workspace: Workspace, scores: Path | None, at: float | None = 0.5) -> Any:
    return group_items(recipe, described, workspace, Terminal(quiet=True), scores, at)


def test_groups_are_written_and_judged(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, scores: Path
) -> None:
    summary = run(tiny_recipe, described, own_workspace, scores)
    table = pd.read_parquet(own_workspace.groups / "groups.parquet")
    assert (summary["items"], summary["groups"], summary["largest_group"]) == (40, 20, 2)
    assert table["role"].value_counts().to_dict() == {"representative": 20, "member": 20}
    assert [row["group"] for row in read_csv(own_workspace.groups / "groups.csv")] == table["group"].tolist()
    assert summary["test"]["pairwise"]["f1"]["value"] == 1


def test_hard_rules_of_the_catalog_leave_conflicts(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, scores: Path
) -> None:
    describe(described, never=[{"differ": ["colour"]}])
    summary = run(tiny_recipe, described, own_workspace, scores)
    conflicts = read_csv(own_workspace.groups / "conflicts.csv")
    assert summary["groups"] == 0
    assert {row["reason"] for row in conflicts} == {"never match: different colour"}
    assert len(conflicts) == 20


def test_pairs_in_both_orders_count_once_and_empty_scores_are_no_evidence(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, tmp_path: Path
) -> None:
    path = tmp_path / "few.csv"
    path.write_text("item_a,item_b,score\nitem-000,item-004,1\nitem-004,item-000,0.5\nitem-001,item-005,\n")
    summary = run(tiny_recipe, described, own_workspace, path)
    assert (summary["pairs"], summary["repeated_pairs"], summary["pairs_without_score"]) == (1, 1, 1)


def test_what_scoring_writes_can_be_grouped(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, tmp_path: Path
) -> None:
    """Rows that could not be scored have any id; CSV writes ids that look like formulas with an apostrophe."""
    index = own_workspace.valid / "index.parquet"
    items = pd.read_parquet(index)
    items["id"] = items["id"].replace({"item-000": "-5", "item-004": "12"})
    items.to_parquet(index)
    path = tmp_path / "scores.CSV"
    rows = ["'-5,12,0.9", " item-001 ,item-005,0.8", "nothere,-5,", "-5,-5,", ",-5,"]
    path.write_text("\n".join(["item_a,item_b,score", *rows]))
    summary = run(tiny_recipe, described, own_workspace, path)
    assert (summary["pairs"], summary["pairs_without_score"], summary["groups"]) == (2, 3, 2)
    numbers = tmp_path / "numbers.parquet"
    pd.DataFrame({"item_a": [-5], "item_b": [12], "score": [0.9]}).to_parquet(numbers)
    assert run(tiny_recipe, described, own_workspace, numbers)["groups"] == 1


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("item_a,item_b\n", "columns item_a, item_b, score"),
        ("item_a,item_b,score\nitem-000,other,1\n", "1 ids are no items of the catalog \\(other\\)"),
        ("item_a,item_b,score\nitem-000,item-000,1\n", "with itself"),
        ("item_a,item_b,score\nitem-000,item-001,3\n", "outside of 0 to 1"),
        ("item_a,item_b,score\nitem-000,item-001,high\n", "row 1: the score `high` is no number"),
        ('item_a,item_b,score\nitem-000,item-001,1\na,b,"0,9"\n', "row 2: the score `0,9` is no number"),
        ("item_a,item_b,score\nitem-000,item-001,inf\n", "row 1: the score `inf` is no number"),
        ("item_a,item_b,score\nitem-000,item-001,1,2\n", "row 1: line 2: 4 cells, but the header has 3"),
    ],
)
def test_tables_that_cannot_be_used(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, tmp_path: Path, lines: str, said: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(lines)
    with pytest.raises(InputError, match=said):
        run(tiny_recipe, described, own_workspace, path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_that_a_spreadsheet_saved_are_grouped(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, tmp_path: Path, delimiter: str, encoding: str
) -> None:
    path = tmp_path / "saved.csv"
    rows = ["item_a,item_b,score", "item-000,item-004,0.9", "item-001,item-005,nan", "item-002,item-006"]
    path.write_text("\n".join(rows).replace(",", delimiter), encoding=encoding)
    summary = run(tiny_recipe, described, own_workspace, path)
    assert (summary["pairs"], summary["pairs_without_score"], summary["groups"]) == (1, 2, 1)


def test_no_scores_at_all_leave_everyone_alone(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, tmp_path: Path
) -> None:
    path = tmp_path / "none.csv"
    path.write_text("item_a,item_b,score\n")
    assert run(tiny_recipe, described, own_workspace, path)["groups"] == 0


def test_the_threshold_is_that_of_the_evaluation(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path, scores: Path
) -> None:
    with pytest.raises(InputError, match="--threshold"):
        run(tiny_recipe, described, own_workspace, scores, None)
    write_json(own_workspace.evaluation / "summary.json", {"threshold": 0.95})
    assert run(tiny_recipe, described, own_workspace, scores, None)["threshold"] == 0.95


def test_scores_that_are_not_there_are_asked_for(
    tiny_recipe: Recipe, own_workspace: Workspace, described: Path
) -> None:
    with pytest.raises(InputError, match="mlim score"):
        run(tiny_recipe, described, own_workspace, None)
