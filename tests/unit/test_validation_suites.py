"""The committed Great Expectations project, and how a check runs on small frames."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mlim.errors import DataError, InputError, MlimError
from mlim.recipe import load_recipe
from mlim.validation import ROOT_VARIABLE, Validation, decodable, project_root, require

PROJECT = Path(__file__).resolve().parents[2] / "great_expectations"
SUITES = ("rows", "keys", "images", "texts", "languages", "families", "drift", "splits", "pairs")


def committed(suite: str) -> list[dict]:
    return json.loads((PROJECT / "expectations" / f"{suite}.json").read_text(encoding="utf-8"))["expectations"]


def test_the_project_folder_does_not_shadow_the_library():
    assert not list(PROJECT.rglob("__init__.py"))
    command = [sys.executable, "-c", "import great_expectations; print(great_expectations.__file__)"]
    found = subprocess.run(command, cwd=PROJECT.parent, capture_output=True, text=True, check=True).stdout
    assert not Path(found.strip()).is_relative_to(PROJECT)


@pytest.mark.parametrize("suite", SUITES)
def test_every_expectation_says_what_is_wrong_and_what_to_do(suite):
    entries = committed(suite)
    assert len({entry["id"] for entry in entries}) == len(entries)
    assert all(entry["meta"]["problem"] and entry["meta"]["advice"] for entry in entries)


def test_the_suites_are_all_known_and_every_id_is_used_once():
    assert {path.stem for path in (PROJECT / "expectations").glob("*.json")} == set(SUITES)
    ids = [entry["id"] for suite in SUITES for entry in committed(suite)]
    assert len(set(ids)) == len(ids)


def test_every_limit_of_a_suite_is_a_setting_of_the_recipe():
    limits = load_recipe("demo").validation
    given = {name for name, _ in (*limits, *limits.drift)} | {"max_label_share", "ledger_items", "image_size", "folder"}
    text = " ".join(path.read_text(encoding="utf-8") for path in (PROJECT / "expectations").glob("*.json"))
    assert set(re.findall(r'"\$PARAMETER": "(\w+)"', text)) <= given
    named = set(re.findall(r"validation\.(?:drift\.)?(\w+)", text))
    assert named <= given


def row_frame(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"text_characters": range(rows), "text_readable": True, "text_uses": 1})


def test_a_suite_over_chunks_finds_what_it_finds_over_the_whole(tmp_path):
    limits = {"max_text_characters": 60, "max_text_uses": 1}
    frame, validation = row_frame(100), Validation(tmp_path)
    whole = validation.check("texts", frame, limits)
    check, refused = validation.start("texts"), []
    for start in range(0, 100, 33):
        chunk = frame.iloc[start : start + 33].reset_index(drop=True)
        refused += [start + row for refusal in check.rows(chunk, limits) for row in refusal.rows.tolist()]
    assert check.findings() == whole
    assert refused == [0, *range(61, 100)]
    assert [finding.unexpected for finding in whole] == [40, 0, 0]


def test_a_suite_that_was_not_run_to_its_end_is_no_pass(tmp_path):
    check = Validation(tmp_path).start("families")
    list(check.rows(pd.DataFrame({"family_named": [True]}), {}))
    with pytest.raises(MlimError, match="1 results for 4 committed expectations"):
        check.findings()


def test_nothing_is_sent_home():
    assert "analytics_enabled: false" in (PROJECT / "great_expectations.yml").read_text(encoding="utf-8")


def test_a_missing_project_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match=ROOT_VARIABLE):
        Validation(tmp_path / "docs")


def test_the_project_is_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert project_root() == PROJECT


def split_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": list("abcdef"),
            "family": ["f", "f", "g", None, None, None],
            "image_sha256": list("123456"),
            "component": [0, 0, 1, 2, 3, 4],
            "split": ["train", "train", "test", "validation", "train", "test"],
        }
    )


@pytest.mark.parametrize(
    ("column", "value"), [("family", "g"), ("image_sha256", "3"), ("component", 1), ("split", "exam"), ("id", "a")]
)
def test_an_unsafe_split_is_refused(tmp_path, column, value):
    validation, frame = Validation(tmp_path), split_frame()
    require(validation.check("splits", frame, {}))
    frame.loc[1, column] = value
    with pytest.raises(DataError, match="splits"):
        require(validation.check("splits", frame, {}))


def pair_frame() -> pd.DataFrame:
    splits = ["train", "train", "validation", "validation", "test", "test"]
    return pd.DataFrame(
        {
            "item_a": list("acegik"),
            "item_b": list("bdfhjl"),
            "label": [0, 1] * 3,
            "split": splits,
            "component": range(6),
            "kind": "any",
            "split_a": splits,
            "split_b": splits,
        }
    )


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("label", 2, "neither 0 nor 1"),
        ("split_a", None, "not among the accepted items"),
        ("split_b", "test", "not in the split of its second item"),
        ("item_b", "a", "paired with itself"),
        ("label", 1, "where split == train; observed 1; expected min_value 0.1, max_value 0.9"),
    ],
)
def test_bad_pairs_are_refused_with_a_reason(tmp_path, column, value, complaint):
    validation, frame = Validation(tmp_path), pair_frame()
    limits = {"min_label_share": 0.1, "max_label_share": 0.9}
    require(validation.check("pairs", frame, limits))
    frame.loc[0, column] = value
    with pytest.raises(DataError, match=complaint):
        require(validation.check("pairs", frame, limits))


def test_a_repeated_pair_is_refused(tmp_path):
    frame = pd.concat([pair_frame(), pair_frame().head(1)], ignore_index=True)
    with pytest.raises(DataError, match="listed twice"):
        require(Validation(tmp_path).check("pairs", frame, {"min_label_share": 0.1, "max_label_share": 0.9}))


def test_a_column_that_is_not_there_is_no_pass(tmp_path):
    with pytest.raises(MlimError, match="could not be evaluated"):
        Validation(tmp_path).check("splits", split_frame().drop(columns="family"), {})


def test_pictures_are_decoded_from_the_shards(tiny_workspace, tiny_recipe):
    places = pd.Series(["part-00000.arrow:0", "part-00001.arrow:3", "part-00000.arrow:24"], index=[5, 6, 7])
    assert decodable(places, tiny_workspace.items, tiny_recipe.image.size).tolist() == [True] * 3
    assert decodable(places, tiny_workspace.items, tiny_recipe.image.size + 1).tolist() == [False] * 3
