"""`mlim validate` and `mlim pairs` with the real Great Expectations project, on small catalogs and a real one."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from great_expectations.expectations import registry
from PIL import Image

from mlim.catalog.description import load_description
from mlim.catalog.item import ITEM_SCHEMA
from mlim.catalog.quarantine import read_quarantine
from mlim.console import Terminal
from mlim.errors import DataError, InputError, MlimError
from mlim.files import read_json, sha256_of, write_json
from mlim.pairs import VariationRule, variation_pairs
from mlim.recipe import Recipe
from mlim.steps.pairs import make_pairs
from mlim.steps.validate import validate
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "great_expectations"
CATALOG = """
table: none.csv
images: .
columns: {id: id, image: image, family: family, text: [kind, colour]}
pairs: {decided_by: [pattern]}
"""


@pytest.fixture
def recipe(tiny_recipe: Recipe) -> Recipe:
    """The tiny recipe; its pictures are smaller than validation allows by default."""
    return with_limits(tiny_recipe, min_image_side=8)


def with_limits(recipe: Recipe, **limits: Any) -> Recipe:
    return recipe.model_copy(update={"validation": recipe.validation.model_copy(update=limits)})


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG, encoding="utf-8")
    return path


def change_items(workspace: Workspace, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Rewrite the shards (and the manifest) with changed items; None drops one."""
    manifest = read_json(workspace.items / "manifest.json")
    for entry in manifest:
        path = workspace.items / entry["file"]
        kept = [item for row in pq.read_table(path).to_pylist() if (item := change(row)) is not None]
        pq.write_table(pa.Table.from_pylist(kept, schema=ITEM_SCHEMA), path)
        entry |= {"items": len(kept), "sha256": sha256_of(path)}
    write_json(workspace.items / "manifest.json", manifest)


def contents(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_good_items_pass_and_everything_is_written(recipe, catalog, own_workspace, quiet):
    before = pq.read_table(own_workspace.valid / "index.parquet").to_pylist()
    summary = validate(recipe, catalog, own_workspace, quiet)
    assert (summary["checked"], summary["accepted"], summary["quarantined"], summary["success"]) == (40, 40, {}, True)
    assert summary == read_json(own_workspace.valid / "summary.json")
    suites = [read_json(PROJECT / "expectations" / f"{suite}.json") for suite in ("items", "families")]
    assert len(summary["expectations"]) == sum(len(suite["expectations"]) for suite in suites)
    assert pq.read_table(own_workspace.valid / "index.parquet").to_pylist() == before
    page = (own_workspace.valid / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert "Validation Results" in page
    assert "families" in page


def test_validation_is_repeatable_and_leaves_the_project_untouched(recipe, catalog, own_workspace, quiet):
    project = contents(PROJECT)
    runs = []
    for _ in range(2):
        validate(recipe, catalog, own_workspace, quiet)
        make_pairs(recipe, catalog, own_workspace, quiet)
        folders = (own_workspace.valid, own_workspace.pairs)
        runs.append([path.read_bytes() for folder in folders for path in sorted(folder.iterdir()) if path.is_file()])
    assert runs[0] == runs[1]
    assert contents(PROJECT) == project


def test_bad_items_are_set_aside_with_the_expectation_and_a_picture(recipe, catalog, own_workspace, quiet):
    def spoil(item: dict[str, Any]) -> dict[str, Any]:
        changes: dict[str, dict[str, Any]] = {
            "item-001": {"text": "x" * 3000, "image_width": 2},
            "item-002": {"image_height": 2},
            "item-003": {"image": item["image"][:60]},
            "item-030": {"family": None},
            "item-031": {"text": " - "},
        }
        return item | changes.get(item["id"], {})

    change_items(own_workspace, spoil)
    summary = validate(recipe, catalog, own_workspace, quiet)
    assert (summary["accepted"], summary["success"]) == (35, True)
    assert summary["quarantined"] == {
        "expect_column_value_lengths_to_be_between": 1,
        "expect_column_values_to_be_between": 1,
        "expect_column_values_to_be_shard_pictures": 1,
        "expect_column_values_to_match_regex": 1,
        "expect_column_values_to_not_be_null": 1,
    }
    aside = read_quarantine(own_workspace.valid / "quarantine.parquet").set_index("id")
    assert aside["row"].tolist() == [2, 3, 4, 31, 32]
    assert set(aside["stage"]) == {"validate"}
    assert "validation.max_text_characters" in aside.loc["item-001", "detail"]
    assert "(image_height: 2)" in aside.loc["item-002", "detail"]
    assert aside["thumbnail"].isna().tolist() == [False, False, True, False, False]
    assert Image.open(io.BytesIO(aside.loc["item-002", "thumbnail"])).format == "JPEG"
    index = pq.read_table(own_workspace.valid / "index.parquet").to_pandas()
    assert set(index["id"]).isdisjoint(aside.index)
    assert index.loc[index["id"] == "item-029", ["shard", "position"]].to_numpy().tolist() == [
        ["part-00001.parquet", 4]
    ]


def test_a_family_is_not_asked_for_where_none_is_described(recipe, catalog, own_workspace, quiet):
    catalog.write_text("table: none.csv\nimages: .\ncolumns: {id: id, image: image, text: [kind]}\n", encoding="utf-8")
    change_items(own_workspace, lambda item: item | {"family": None})
    assert validate(recipe, catalog, own_workspace, quiet)["accepted"] == 40
    with pytest.raises(InputError, match=r"columns\.family"):
        make_pairs(recipe, catalog, own_workspace, quiet)


def test_too_many_bad_items_stop_the_run_but_can_be_looked_at(recipe, catalog, own_workspace, quiet):
    with pytest.raises(DataError, match=r"40 of 40 items were refused .*max_quarantined_share"):
        validate(with_limits(recipe, min_image_side=100), catalog, own_workspace, quiet)
    assert len(read_quarantine(own_workspace.valid / "quarantine.parquet")) == 40
    assert read_json(own_workspace.valid / "summary.json")["success"] is False
    with pytest.raises(InputError, match="run `mlim validate` first"):
        make_pairs(recipe, catalog, own_workspace, quiet)


def test_no_items_at_all_stop_the_run(recipe, catalog, own_workspace, quiet):
    change_items(own_workspace, lambda item: None)
    with pytest.raises(DataError, match="observed 0; expected min_value 1"):
        validate(recipe, catalog, own_workspace, quiet)


def test_shards_that_changed_are_refused(recipe, catalog, own_workspace, quiet):
    (own_workspace.items / "part-00001.parquet").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"part-00001\.parquet changed .* run `mlim ingest` again"):
        validate(recipe, catalog, own_workspace, quiet)
    (own_workspace.items / "manifest.json").unlink()
    with pytest.raises(InputError, match="run `mlim ingest` first"):
        validate(recipe, catalog, own_workspace, quiet)


def test_an_expectation_that_is_not_there_cannot_pass(recipe, catalog, own_workspace, quiet, monkeypatch, capfd):
    monkeypatch.delitem(registry._registered_expectations, "expect_column_values_to_be_shard_pictures")
    with pytest.raises(MlimError, match=r"13 results for 14 .*expect_column_values_to_be_shard_pictures"):
        validate(recipe, catalog, own_workspace, quiet)
    assert capfd.readouterr().err == ""


def test_two_runs_at_once_say_nothing_and_do_not_disturb_each_other(recipe, catalog, own_workspace, tmp_path):
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from mlim.recipe import load_recipe; from mlim.console import Terminal\n"
        "from mlim.steps.validate import validate; from mlim.workspace import Workspace\n"
        "validate(load_recipe(sys.argv[1]), Path(sys.argv[2]), Workspace(Path(sys.argv[3])), Terminal(quiet=True))"
    )
    other = tmp_path / "other"
    (other / "items").parent.mkdir()
    (other / "items").symlink_to(own_workspace.items)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "recipe.yaml"), str(catalog), str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for folder in (own_workspace.root, other)
    ]
    assert [run.communicate()[0] for run in runs] == ["", ""]
    assert [run.returncode for run in runs] == [0, 0]
    assert read_json(other / "valid" / "summary.json") == read_json(own_workspace.valid / "summary.json")


def test_pairs_of_the_little_catalog(recipe, catalog, own_workspace, quiet):
    summary = make_pairs(recipe, catalog, own_workspace, quiet)
    pairs = pq.read_table(own_workspace.pairs / "pairs.parquet").to_pandas()
    assert len(pairs) == summary["pairs"] == 60
    assert summary["counts"]["test"]["1"] / sum(summary["counts"]["test"].values()) == summary["prevalence"] == 1 / 3
    assert set(summary["kinds"]) == {"same pattern", "pattern differs"}
    assert all(entry["success"] for entry in summary["expectations"])
    assert not any(rule["leaks"] for rule in summary["leak_audit"])
    assert (own_workspace.pairs / "data_docs" / "index.html").is_file()
    items = pq.read_table(own_workspace.pairs / "items.parquet").to_pandas()
    assert items.columns.tolist() == ["id", "component", "split"]
    assert len(items) == 40


def test_unbalanced_labels_stop_the_run(recipe, catalog, own_workspace, quiet):
    with pytest.raises(
        DataError, match=r"out of balance .*where split == train; observed 0\.3333; expected min_value 0\.4"
    ):
        make_pairs(with_limits(recipe, min_label_share=0.4), catalog, own_workspace, quiet)


def test_a_split_without_a_label_stops_the_run_and_leaves_the_last_pairs(recipe, catalog, own_workspace, quiet):
    before = contents(own_workspace.pairs)
    index = own_workspace.valid / "index.parquet"
    items = pq.read_table(index).to_pandas()
    items["facts"] = json.dumps({"pattern": "plain"})
    pq.write_table(pa.Table.from_pandas(items, preserve_index=False), index)
    with pytest.raises(DataError, match="the train split has no mismatching pairs; the validation split has no"):
        make_pairs(recipe, catalog, own_workspace, quiet)
    assert contents(own_workspace.pairs) == before


def test_the_users_own_pairs(recipe, catalog, own_workspace, quiet, tmp_path):
    catalog.write_text(CATALOG.replace("decided_by: [pattern]", "labelled: mine.csv"), encoding="utf-8")
    rows = ["item_a,item_b,label", *(f"item-{n:03d},item-{39 - n:03d},{n % 2}" for n in range(20))]
    (tmp_path / "mine.csv").write_text("\n".join(rows), encoding="utf-8")
    summary = make_pairs(recipe, catalog, own_workspace, quiet)
    assert summary["kinds"] == {"labelled match": 10, "labelled mismatch": 10}
    assert sum(summary["components"].values()) == 5  # each pair ties two families together


def test_ids_that_were_quarantined_are_dropped_but_unknown_ones_are_refused(
    recipe, catalog, own_workspace, quiet, tmp_path
):
    catalog.write_text(CATALOG.replace("decided_by: [pattern]", "labelled: mine.csv"), encoding="utf-8")
    change_items(own_workspace, lambda item: item | ({"image_width": 2} if item["id"] == "item-000" else {}))
    validate(recipe, catalog, own_workspace, quiet)
    rows = ["item_a,item_b,label", *(f"item-{n:03d},item-{39 - n:03d},{n % 2}" for n in range(20))]
    (tmp_path / "mine.csv").write_text("\n".join(rows), encoding="utf-8")
    assert make_pairs(recipe, catalog, own_workspace, quiet)["skipped"]["quarantined item"] == 1
    (tmp_path / "mine.csv").write_text("\n".join([*rows, "item-001,item-999,1"]), encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.csv: row 21: item_b `item-999` is no item of the catalog"):
        make_pairs(recipe, catalog, own_workspace, quiet)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [(None, "no such table of labelled pairs"), ("item_a,label\nx,1\n", "lacks the columns item_b"), ("", "is empty")],
)
def test_a_bad_labelled_file_is_named(recipe, catalog, own_workspace, quiet, tmp_path, text, complaint):
    catalog.write_text(CATALOG.replace("decided_by: [pattern]", "labelled: mine.csv"), encoding="utf-8")
    if text is not None:
        (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"mine\.csv: .*{complaint}"):
        make_pairs(recipe, catalog, own_workspace, quiet)


def test_a_leak_is_told_on_the_terminal_and_the_run_goes_on(recipe, catalog, own_workspace, capfd):
    index = own_workspace.valid / "index.parquet"
    items = pq.read_table(index).to_pandas()
    items["attributes"] = [json.dumps({"tell": json.loads(facts)["pattern"]}) for facts in items["facts"]]
    pq.write_table(pa.Table.from_pandas(items, preserve_index=False), index)
    summary = make_pairs(recipe, catalog, own_workspace, Terminal(quiet=True))
    assert [rule["rule"] for rule in summary["leak_audit"] if rule["leaks"]] == ["`tell` is equal"]
    assert "`tell` is equal" in capfd.readouterr().err


def test_the_rule_gives_the_known_counts_on_a_real_catalog(monkeypatch):
    folder = os.environ.get("MLIM_HM_FASHION", "")
    if not folder or not (Path(folder) / "catalog.csv").is_file():
        pytest.skip("MLIM_HM_FASHION does not name a folder with catalog.csv")
    description = load_description(ROOT / "catalogs" / "hm_fashion.yaml")
    table = pd.read_csv(Path(folder) / "catalog.csv", dtype="str", keep_default_na=False)
    facts = table[list(description.fact_columns)].to_dict("records")
    items = pd.DataFrame(
        {"id": table["article_id"], "family": table["product_code"], "facts": [json.dumps(fact) for fact in facts]}
    )
    rules = description.pairs
    pairs, _ = variation_pairs(items, VariationRule(rules.decided_by, rules.same, rules.max_family_size))
    assert pairs["label"].value_counts().to_dict() == {1: 5462, 0: 2411}
