"""`mlim validate` and `mlim pairs` with the real Great Expectations project, on small catalogs and a real one."""

import io
import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from great_expectations.expectations import registry
from PIL import Image

from mlim.catalog.description import load_description
from mlim.catalog.item import ROW_LOG_SCHEMA
from mlim.catalog.quarantine import read_quarantine
from mlim.console import Terminal
from mlim.data.tokenize import TextTokenizer
from mlim.errors import DataError, InputError, MlimError
from mlim.files import read_json, sha256_of
from mlim.pairs.labels import SPLITS
from mlim.pairs.variation import VariationRule, variation_pairs
from mlim.quality.acceptance import Acceptance
from mlim.recipe import Recipe
from mlim.shards.shard import ShardEntry, read_manifest, read_shard, write_manifest, write_shard
from mlim.steps.pairs import make_pairs
from mlim.steps.validate import validate
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "great_expectations"
SUITES = ("rows", "keys", "images", "texts", "families")
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


def row_of(item: dict[str, Any]) -> int:
    return int(item["id"].removeprefix("item-")[:3]) + 1


def change_items(
    workspace: Workspace,
    change: Callable[[dict[str, Any]], dict[str, Any] | None],
    row: Callable[[dict[str, Any]], int] = row_of,
) -> None:
    """Rewrite shards, manifest and row log with changed items; None drops one. `row` is an item's row in the table."""
    entries, lines = [], []
    for entry in read_manifest(workspace.items):
        path = workspace.items / entry.file
        kept = [item for row in read_shard(path).to_pylist() if (item := change(row)) is not None]
        path.unlink()
        write_shard(path, kept)
        entries.append(ShardEntry(entry.file, len(kept), path.stat().st_size, sha256_of(path)))
        lines += [
            {
                "source": "tiny.csv",
                "row": (row or row_of)(item),
                "id": item["id"],
                "shard": entry.file,
                "position": position,
            }
            for position, item in enumerate(kept)
        ]
    write_manifest(workspace.items, entries)
    pq.write_table(pa.Table.from_pylist(lines, schema=ROW_LOG_SCHEMA), workspace.items / "ledger.parquet")


def longer_text(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"text": f"{item['text']}, {'and so on ' * 20}"}


def contents(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_good_items_pass_and_everything_is_written(recipe, catalog, own_workspace, quiet):
    before = pq.read_table(own_workspace.valid / "index.parquet").to_pylist()
    summary = validate(recipe, catalog, own_workspace, quiet)
    assert (summary["checked"], summary["accepted"], summary["quarantined"], summary["success"]) == (40, 40, {}, True)
    assert summary == read_json(own_workspace.valid / "summary.json")
    suites = [read_json(PROJECT / "expectations" / f"{suite}.json") for suite in SUITES]
    assert len(summary["expectations"]) == sum(len(suite["expectations"]) for suite in suites)
    assert pq.read_table(own_workspace.valid / "index.parquet").to_pylist() == before
    page = (own_workspace.valid / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert "Validation Results" in page
    assert all(suite in page for suite in SUITES)


def test_chunks_do_not_change_the_result(recipe, catalog, own_workspace, quiet):
    change_items(own_workspace, lambda item: item | ({"image_width": 2} if row_of(item) % 7 == 0 else {}))
    found = []
    for rows in (1, 30, 1000):
        summary = validate(with_limits(recipe, chunk_rows=rows), catalog, own_workspace, quiet)
        index = pq.read_table(own_workspace.valid / "index.parquet").to_pylist()
        found.append((summary, index, read_quarantine(own_workspace.valid / "quarantine.parquet").to_dict("list")))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["quarantined"] == {"small-picture": 5}


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
            "item-004": {"image_contrast": 0.0},
            "item-005": {"image_width": 2000},
            "item-006": {"id": "item-006 "},
            "item-034": {"id": "item-033"},
            "item-002": {"image_height": 2},
            "item-003": {"image": item["image"][:60]},
            "item-030": {"family": ""},
            "item-031": {"text": " - "},
        }
        return item | changes.get(item["id"], {})

    change_items(own_workspace, spoil)
    summary = validate(with_limits(recipe, max_quarantined_share=0.3), catalog, own_workspace, quiet)
    assert (summary["accepted"], summary["success"]) == (30, True)
    assert summary["quarantined"] == {
        "blank-picture": 1,
        "broken-picture": 1,
        "empty-family": 1,
        "odd-shape": 1,
        "repeated-id": 2,
        "small-picture": 2,
        "unreadable-text": 1,
        "untidy-id": 1,
    }
    aside = read_quarantine(own_workspace.valid / "quarantine.parquet")
    assert aside["row"].tolist() == [2, 3, 4, 5, 6, 7, 31, 32, 34, 34]
    assert set(aside["source"]) == {"tiny.csv"}
    assert set(aside["stage"]) == {"validate"}
    aside = aside.drop_duplicates("id").set_index("id")
    assert "(image_height: 2)" in aside.loc["item-002", "detail"]
    assert '(text: " - ")' in aside.loc["item-031", "detail"]
    assert aside.loc["item-003", "detail"].endswith('(id: "item-003"); run `mlim ingest` again')
    assert aside["thumbnail"].isna().sum() == 1
    assert pd.isna(aside.loc["item-003", "thumbnail"])
    assert Image.open(io.BytesIO(aside.loc["item-002", "thumbnail"])).format == "JPEG"
    index = pq.read_table(own_workspace.valid / "index.parquet").to_pandas()
    assert set(index["id"]).isdisjoint(aside.index)
    assert index.loc[index["id"] == "item-029", ["shard", "position"]].to_numpy().tolist() == [["part-00001.arrow", 4]]


TEXTS = ("", " - ", "x" * 90, "no description", "靴 ٣", "a shirt", "a long shirt", "three words here")
SPOILED: Mapping[str, tuple[Any, ...]] = {  # by column: what an item may have instead of its own value
    "id": ("", "item-003", "item-005", "a ", "a\x00b", "a\u200bb"),
    "text": TEXTS,
    "family": (None, "", " ", "one", "two", "three", "four"),
    "image_sha256": ("0" * 64, "1" * 64, "XYZ", "G" * 64),
    "image_hash": ("0" * 16, "0" * 15),
    "image_width": (0, 7, 8, 400),
    "image_height": (7, 8, 41),
    "image_contrast": (0.0, float(np.float32(0.01)), 0.3, float("nan")),
}
PLAIN_LIMITS = {
    "max_text_characters": 80,
    "max_text_uses": 2,
    "max_picture_uses": 4,
    "max_quarantined_share": 1.0,
    "max_copied_share": 1.0,
    "max_family_items": 100,
    "min_family_share": 0.0,
    "min_varied_share": 0.0,
}


def plain_reason(item: dict[str, Any], items: list[dict[str, Any]]) -> str | None:
    """The first reason to reject an item, as one would say it, looking at all items again for each."""

    def alike(column: str) -> list[dict[str, Any]]:
        return [other for other in items if other[column] == item[column]]

    identifier, text, sides = item["id"], item["text"], [max(item[f"image_{side}"], 1) for side in ("width", "height")]
    kinds = [unicodedata.category(letter) for letter in identifier]
    hidden = any(kind in ("Cc", "Zl", "Zp") for kind in kinds) or any(letter in identifier for letter in "\u200b\u2060")
    families = {other["family"] for other in alike("image_sha256")} - {None}
    reasons = {
        "empty-id": not identifier,
        "untidy-id": hidden or any(kind[0] == "Z" or kind == "Cf" for kind in (*kinds[:1], *kinds[-1:])),
        "repeated-id": len(alike("id")) > 1,
        "bad-picture-hash": not re.fullmatch("[0-9a-f]{64}", item["image_sha256"])
        or not re.fullmatch("[0-9a-f]{16}", item["image_hash"]),
        "small-picture": item["image_width"] < 8 or item["image_height"] < 8,
        "odd-shape": max(sides) / min(sides) > 5,
        "blank-picture": np.float32(item["image_contrast"]) < np.float64(0.01),
        "boilerplate-picture": len(alike("image_sha256")) > 4,
        "placeholder-picture": len(families) > 3,
        "text-length": not 1 <= len(text) <= 80,
        "unreadable-text": not any(unicodedata.category(letter)[0] in "LN" for letter in text),
        "boilerplate-text": len(alike("text")) > 2,
        "empty-family": item["family"] is not None and not item["family"].strip(),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


@pytest.mark.parametrize(("seed", "chunk_rows"), [(1, 1000), (2, 1), (3, 15), (4, 15)])
def test_every_row_gets_the_verdict_of_the_plain_definition(recipe, catalog, own_workspace, quiet, seed, chunk_rows):
    """Columns, buckets, hashes and chunks are ways to be fast: a row is judged as if all were looked at for each."""
    draw = random.Random(seed)

    def spoil(item: dict[str, Any]) -> dict[str, Any]:
        chosen = [column for column in SPOILED if draw.random() < 0.12]
        return item | {column: draw.choice(SPOILED[column]) for column in chosen}

    change_items(own_workspace, spoil, lambda item: 1)
    entries = read_manifest(own_workspace.items)
    places = [(entry.file, row, item) for entry in entries for row, item in enumerate(items_of(own_workspace, entry))]
    items = [item for _, _, item in places]
    wanted = [plain_reason(item, items) for item in items]
    validate(with_limits(recipe, chunk_rows=chunk_rows, **PLAIN_LIMITS), catalog, own_workspace, quiet)
    aside = read_quarantine(own_workspace.valid / "quarantine.parquet")
    assert list(zip(aside["id"], aside["reason"], strict=True)) == [
        (item["id"], reason) for item, reason in zip(items, wanted, strict=True) if reason
    ]
    index = pq.read_table(own_workspace.valid / "index.parquet").select(["shard", "position"]).to_pylist()
    assert [tuple(row.values()) for row in index] == [
        (shard, position) for (shard, position, _), reason in zip(places, wanted, strict=True) if reason is None
    ]
    assert len(set(wanted)) > 5


def items_of(workspace: Workspace, entry: ShardEntry) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_shard(workspace.items / entry.file).to_pylist()
    return found


def test_boilerplate_is_set_aside_and_copies_are_limited(recipe, catalog, own_workspace, quiet):
    def spoil(item: dict[str, Any]) -> dict[str, Any]:
        text = {"text": "no description"} if row_of(item) > 36 else {}
        picture = {"image_sha256": "0" * 64} if row_of(item) <= 3 else {}
        return item | text | picture | ({"image_sha256": "1" * 64} if row_of(item) in (5, 6) else {})

    change_items(own_workspace, spoil)
    limits = {"max_text_uses": 3, "max_picture_uses": 2}
    summary = validate(with_limits(recipe, **limits), catalog, own_workspace, quiet)
    assert summary["quarantined"] == {"boilerplate-picture": 3, "boilerplate-text": 4}
    with pytest.raises(DataError, match=r"exact copy .*observed 0\.06061; expected max_value 0\.05"):
        validate(with_limits(recipe, max_copied_share=0.05, **limits), catalog, own_workspace, quiet)


def test_pictures_of_refused_items_are_bounded(recipe, catalog, own_workspace, quiet):
    change_items(own_workspace, lambda item: item | ({"image_width": 2} if row_of(item) <= 6 else {}))
    validate(with_limits(recipe, max_thumbnails=4, chunk_rows=3), catalog, own_workspace, quiet)
    aside = read_quarantine(own_workspace.valid / "quarantine.parquet")
    assert aside["thumbnail"].isna().tolist() == [False] * 4 + [True] * 2


def test_a_sample_of_pictures_is_decoded(recipe, catalog, own_workspace, quiet):
    change_items(own_workspace, lambda item: item | {"image": item["image"][:60]})
    summary = validate(
        with_limits(recipe, decoded_pictures=5, max_quarantined_share=0.5), catalog, own_workspace, quiet
    )
    assert summary["quarantined"] == {"broken-picture": 5}


def test_items_that_the_row_log_does_not_know_are_set_aside(recipe, catalog, own_workspace, quiet):
    path = own_workspace.items / "ledger.parquet"
    row_log = pq.read_table(path).to_pylist()
    row_log[7]["id"] = "another"
    pq.write_table(pa.Table.from_pylist(row_log, schema=ROW_LOG_SCHEMA), path)
    assert validate(recipe, catalog, own_workspace, quiet)["quarantined"] == {"not-in-row-log": 1}
    pq.write_table(pa.Table.from_pylist(row_log[:-1], schema=ROW_LOG_SCHEMA), path)
    with pytest.raises(DataError, match=r"than the row log names .*observed 40; expected value 39"):
        validate(recipe, catalog, own_workspace, quiet, Acceptance("me", "I insist"))


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"min_varied_share": 1.0}, r"share their family .*observed 0\.9; expected min_value 1"),
        ({"min_family_share": 0.99}, r"too few items have a family .*observed 0\.9"),
        ({"max_family_items": 3}, r"a family is too large .*observed 4; expected max_value 3"),
    ],
)
def test_families_have_limits(recipe, catalog, own_workspace, quiet, limits, complaint):
    change_items(own_workspace, lambda item: item | ({"family": None} if row_of(item) <= 4 else {}))
    assert validate(recipe, catalog, own_workspace, quiet)["accepted"] == 40
    with pytest.raises(DataError, match=complaint):
        validate(with_limits(recipe, **limits), catalog, own_workspace, quiet)


def test_the_languages_of_the_texts_are_checked_when_they_are_named(recipe, catalog, own_workspace, quiet):
    spanish = "zapatos de cuero negro para hombre con suela de goma y cordones, hechos a mano en casa"
    change_items(own_workspace, lambda item: item | ({"text": f"{spanish} {item['id']}"}))
    assert validate(with_limits(recipe, languages=("es",)), catalog, own_workspace, quiet)["success"]
    with pytest.raises(DataError, match=r"too few of the sampled texts .*observed 0; expected min_value 0\.8"):
        validate(with_limits(recipe, languages=("en", "de")), catalog, own_workspace, quiet)
    with pytest.raises(InputError, match=r"validation\.languages: unknown klingon"):
        validate(with_limits(recipe, languages=("klingon",)), catalog, own_workspace, quiet)


def test_what_max_tokens_leaves_out_is_measured_and_reported(recipe, catalog, own_workspace, capfd):
    """Point 4: the shares of texts and tokens beyond text.max_tokens, and the value that keeps 95 % of the tokens."""
    short = recipe.model_copy(update={"text": recipe.text.model_copy(update={"max_tokens": 5})})
    summary = validate(short, catalog, own_workspace, Terminal())
    texts = [
        text for entry in read_manifest(own_workspace.items) for text in texts_of(own_workspace.items / entry.file)
    ]
    tokenizer = TextTokenizer.learn(texts, short.text.vocabulary_size)
    lengths = [len(tokenizer.encode(text, 1000)) for text in texts]
    cut = sum(max(length - 5, 0) for length in lengths) / sum(lengths)
    tokens = summary["tokens"]
    assert (tokens["texts"], tokens["max_tokens"]) == (len(texts), 5)
    assert tokens["texts_cut"] == pytest.approx(sum(length > 5 for length in lengths) / len(lengths), abs=1e-4)
    assert tokens["tokens_cut"] == pytest.approx(cut, abs=1e-4)
    said = capfd.readouterr().err
    assert f"warning: text.max_tokens 5 cuts {tokens['texts_cut']:.1%} of the texts" in said
    assert f"text.max_tokens={tokens['max_tokens_for_95_percent']} keeps 95 %" in said


def test_a_start_that_is_not_there_is_reported_and_stops_nothing(recipe, catalog, own_workspace, quiet, tmp_path):
    """Point 4: tokens are counted with the tokenizer that training would use; without it validation goes on."""
    (tmp_path / "empty").mkdir()
    started = recipe.model_copy(update={"model": recipe.model.model_copy(update={"start": str(tmp_path / "empty")})})
    summary = validate(started, catalog, own_workspace, quiet)
    assert summary["success"]
    assert "tokenizer.json" in summary["tokens"]["note"]


def texts_of(shard: Path) -> list[str]:
    return read_shard(shard)["text"].to_pylist()


def test_a_delivery_that_moved_is_refused_until_a_person_says_why(recipe, catalog, own_workspace, quiet, capfd):
    first = validate(recipe, catalog, own_workspace, quiet)
    assert first["drift"]["note"] == "first version: nothing to compare with"
    change_items(own_workspace, lambda item: item | {"text": item["text"] + " !"})
    second = validate(recipe, catalog, own_workspace, quiet)
    assert second["drift"]["reference"] == first["data_version"]

    change_items(own_workspace, longer_text)
    limit = r"lengths of the texts moved .*max_text_divergence.*observed 0\.\d+; expected max_value 0\.05"
    for _ in range(2):
        with pytest.raises(DataError, match=limit):
            validate(recipe, catalog, own_workspace, quiet)
    assert not (own_workspace.valid / "index.parquet").exists()
    assert (own_workspace.valid / "data_docs" / "index.html").is_file()
    accepted = validate(recipe, catalog, own_workspace, quiet, Acceptance("ana", "longer texts were asked for"))
    assert accepted["success"]
    assert {key: accepted["acceptance"][key] for key in ("by", "why")} == {
        "by": "ana",
        "why": "longer texts were asked for",
    }
    assert "lengths of the texts moved" in accepted["acceptance"]["accepted"][0]
    assert "accepted by ana (longer texts were asked for): the lengths" in capfd.readouterr().err

    assert validate(recipe, catalog, own_workspace, quiet) == accepted  # the acceptance is remembered for this version
    change_items(own_workspace, lambda item: item | {"text": item["text"][:-1]})
    assert validate(recipe, catalog, own_workspace, quiet)["acceptance"] is None  # and it is the new reference


def test_an_acceptance_covers_one_version_only_and_no_new_complaint(recipe, catalog, own_workspace, quiet):
    validate(recipe, catalog, own_workspace, quiet)
    change_items(own_workspace, longer_text)
    validate(recipe, catalog, own_workspace, quiet, Acceptance("ana", "fine"))
    with pytest.raises(DataError, match="a family is too large"):
        validate(with_limits(recipe, max_family_items=3), catalog, own_workspace, quiet)
    change_items(own_workspace, lambda item: item | {"image_brightness": 0.9})
    with pytest.raises(DataError, match="brightness of the pictures moved"):
        validate(recipe, catalog, own_workspace, quiet)


def test_nobody_can_accept_nothing_or_without_a_reason(recipe, catalog, own_workspace, quiet):
    with pytest.raises(InputError, match="needs a reason"):
        Acceptance("ana", "  ")
    with pytest.raises(DataError, match="40 of 40 items were rejected"):
        validate(with_limits(recipe, min_image_side=100), catalog, own_workspace, quiet, Acceptance("ana", "fine"))


def test_items_stay_refused_when_too_many_of_them_are_accepted(recipe, catalog, own_workspace, quiet):
    change_items(own_workspace, lambda item: item | ({"image_width": 2} if row_of(item) <= 20 else {}))
    with pytest.raises(
        DataError, match=r"20 of 40 items were rejected \(small-picture 20\).*max_quarantined_share 0\.2"
    ):
        validate(recipe, catalog, own_workspace, quiet)
    summary = validate(recipe, catalog, own_workspace, quiet, Acceptance("ana", "an old feed"))
    assert (summary["accepted"], summary["quarantined"]) == (20, {"small-picture": 20})


def test_a_category_that_takes_over_is_drift(recipe, catalog, own_workspace, quiet):
    validate(recipe, catalog, own_workspace, quiet)
    change_items(own_workspace, lambda item: item | {"category": "CELLULAR_PHONE_CASE"})
    with pytest.raises(DataError, match="shares of the categories moved"):
        validate(recipe, catalog, own_workspace, quiet)


def test_a_broken_memory_of_accepted_versions_is_named(recipe, catalog, own_workspace, quiet):
    validate(recipe, catalog, own_workspace, quiet)
    [path] = (own_workspace.root / "accepted").iterdir()
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"accepted/.*is not JSON .*delete it to start over"):
        validate(recipe, catalog, own_workspace, quiet)


def test_a_family_is_not_asked_for_where_none_is_described(recipe, catalog, own_workspace, quiet):
    catalog.write_text("table: none.csv\nimages: .\ncolumns: {id: id, image: image, text: [kind]}\n", encoding="utf-8")
    change_items(own_workspace, lambda item: item | {"family": None})
    assert validate(recipe, catalog, own_workspace, quiet)["accepted"] == 40
    with pytest.raises(InputError, match=r"columns\.family"):
        make_pairs(recipe, catalog, own_workspace, quiet)


def test_too_many_bad_items_stop_the_run_but_can_be_looked_at(recipe, catalog, own_workspace, quiet):
    with pytest.raises(DataError, match=r"40 of 40 items were rejected .*max_quarantined_share"):
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
    (own_workspace.items / "part-00001.arrow").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"part-00001\.arrow changed .* run `mlim ingest` again"):
        validate(recipe, catalog, own_workspace, quiet)
    (own_workspace.items / "manifest.json").unlink()
    with pytest.raises(InputError, match="run `mlim ingest` first"):
        validate(recipe, catalog, own_workspace, quiet)


def test_an_expectation_that_is_not_there_cannot_pass(recipe, catalog, own_workspace, quiet, monkeypatch, capfd):
    monkeypatch.delitem(registry._registered_expectations, "expect_column_values_to_be_shard_pictures")
    with pytest.raises(MlimError, match=r"7 results for 8 .*expect_column_values_to_be_shard_pictures"):
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
    assert items.columns.tolist() == ["id", "component", "split", "deciding"]
    assert len(items) == 40
    same = pairs["item_a"].map(items.set_index("id")["deciding"].str[0]) == pairs["item_b"].map(
        items.set_index("id")["deciding"].str[0]
    )
    assert same.astype(int).tolist() == pairs["label"].tolist()


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


def test_a_leak_is_reported_on_the_terminal_and_the_run_goes_on(recipe, catalog, own_workspace, capfd):
    index = own_workspace.valid / "index.parquet"
    items = pq.read_table(index).to_pandas()
    items["attributes"] = [json.dumps({"tell": json.loads(facts)["pattern"]}) for facts in items["facts"]]
    pq.write_table(pa.Table.from_pandas(items, preserve_index=False), index)
    summary = make_pairs(recipe, catalog, own_workspace, Terminal(quiet=True))
    assert [rule["rule"] for rule in summary["leak_audit"] if rule["leaks"]] == ["`tell` is equal"]
    failed = [entry["column"] for entry in summary["expectations"] if not entry["success"]]
    assert failed == [f"rule_solves where split == {split}" for split in SPLITS]
    said = capfd.readouterr().err
    for split in SPLITS:
        assert f'the rule "`tell` is equal" alone solves more of the {split} pairs than pairs.leak_limit allows' in said
    assert said.count("observed 1; expected less than 0.9") == len(SPLITS)


def test_the_rule_gives_the_known_counts_on_a_real_catalog(monkeypatch):
    folder = os.environ.get("MLIM_HM_FASHION", "")
    if not folder or not (Path(folder) / "catalog.csv").is_file():
        pytest.skip("MLIM_HM_FASHION does not name a folder with catalog.csv")
    description = load_description(ROOT / "catalogs" / "hm_fashion.yaml")
    table = pd.read_csv(Path(folder) / "catalog.csv", dtype="str", keep_default_na=False)
    facts = table[list(description.metadata_columns)].to_dict("records")
    items = pd.DataFrame(
        {"id": table["article_id"], "family": table["product_code"], "facts": [json.dumps(fact) for fact in facts]}
    )
    rules = description.pairs
    pairs, _ = variation_pairs(items, VariationRule(rules.decided_by, rules.same, rules.max_family_size))
    assert pairs["label"].value_counts().to_dict() == {1: 5462, 0: 2411}
