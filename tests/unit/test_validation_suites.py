"""The committed Great Expectations project, and how a check runs on small frames."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from mlim.errors import DataError, InputError, MlimError
from mlim.pairs.audit import BestRule
from mlim.pairs.labels import SPLITS
from mlim.pairs.splits import split_pairs
from mlim.pairs.variation import VariationRule, variation_pairs
from mlim.quality.near_duplicates import near_duplicate_links
from mlim.recipe import load_recipe
from mlim.steps.pair_checks import pair_parameters, split_parameters, split_table
from mlim.validation import ROOT_VARIABLE, Finding, Validation, decodable, project_root, require

PROJECT = Path(__file__).resolve().parents[2] / "great_expectations"
SUITES = ("rows", "keys", "images", "texts", "languages", "families", "drift", "splits", "pairs", "annotations")


def committed(suite: str) -> list[dict]:
    return json.loads((PROJECT / "expectations" / f"{suite}.json").read_text(encoding="utf-8"))["expectations"]


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
    recipe = load_recipe("demo")
    limits = recipe.validation
    given = {name for name, _ in (*limits, *limits.drift)} | {
        "max_label_share",
        "row_log_items",
        "image_size",
        "folder",
    }
    given |= {"leak_limit", "max_picture_families"}  # the latter follows from max_picture_share
    given |= {"min_box_area", "min_known_share"}  # of the catalog's description (annotations.limits)
    text = " ".join(path.read_text(encoding="utf-8") for path in (PROJECT / "expectations").glob("*.json"))
    assert set(re.findall(r'"\$PARAMETER": "(\w+)"', text)) <= given
    named = set(re.findall(r"validation\.(?:drift\.)?(\w+)", text))
    assert named <= given
    named = set(re.findall(r"\bpairs\.(\w+)", text))
    assert {"leak_limit", "near_duplicate_bits"} <= named <= {name for name, _ in recipe.pairs}


def test_only_a_leak_is_reported_and_stops_nothing():
    entries = [entry for suite in SUITES for entry in committed(suite)]
    codes = [entry["meta"]["code"] for entry in entries if entry["severity"] != "critical"]
    assert codes == ["train-leak", "validation-leak", "test-leak"]


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


def test_a_project_of_ones_own_comes_first(monkeypatch, tmp_path):
    """Point 17: the suites that came with mlim serve where the current folder has none of its own."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(PROJECT, tmp_path / PROJECT.name)
    assert project_root() == tmp_path / PROJECT.name


def test_a_project_of_something_else_is_passed_over(monkeypatch, tmp_path):
    """Point 17: who uses Great Expectations for other data keeps mlim's suites."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / PROJECT.name).mkdir()
    (tmp_path / PROJECT.name / "great_expectations.yml").write_text("config_version: 4.0\n", encoding="utf-8")
    assert project_root() == PROJECT


def split_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": list("abcdef"),
            "family": ["f", "f", "g", None, None, None],
            "image_sha256": list("123456"),
            "near_copies": [0, 0, 1, 2, 3, 4],
            "component": [0, 0, 1, 2, 3, 4],
            "split": ["train", "train", "test", "validation", "train", "test"],
        }
    )


def check_splits(folder: Path, frame: pd.DataFrame) -> list[Finding]:
    return Validation(folder).check("splits", frame, split_parameters(load_recipe("demo")))


@pytest.mark.parametrize(
    ("column", "value"),
    [("family", "g"), ("image_sha256", "3"), ("near_copies", 1), ("component", 1), ("split", "exam"), ("id", "a")],
)
def test_an_unsafe_split_is_refused(tmp_path, column, value):
    frame = split_frame()
    require(check_splits(tmp_path, frame))
    frame.loc[1, column] = value
    with pytest.raises(DataError, match="splits"):
        require(check_splits(tmp_path, frame))


def test_near_copies_that_were_not_tied_together_are_found_in_two_splits(tmp_path, tiny_workspace, tiny_recipe):
    config, seed = tiny_recipe.pairs, tiny_recipe.seed
    items = pd.read_parquet(tiny_workspace.valid / "index.parquet").sample(frac=1, random_state=0, ignore_index=True)
    candidates, _ = variation_pairs(items, VariationRule(["pattern"], [], 8))
    made = split_pairs(items, candidates, config, seed)
    apart = [made.items.loc[made.items["split"] == split, "id"].iloc[0] for split in ("train", "test")]
    for item, digits in zip(apart, ("f" * 16, "f" * 15 + "e"), strict=True):
        items.loc[items["id"] == item, "image_hash"] = digits
    links = near_duplicate_links(items["image_hash"].tolist(), config.near_duplicate_bits)
    assert len(links) == 1
    with pytest.raises(
        DataError, match=rf"at most {config.near_duplicate_bits} bits .*in more than one.*2 rows differ"
    ):
        require(check_splits(tmp_path, split_table(made, items, links)))
    require(
        check_splits(tmp_path, split_table(split_pairs(items, candidates, config, seed, None, links), items, links))
    )


def test_near_copies_that_nobody_looked_for_are_no_complaint(tmp_path):
    require(check_splits(tmp_path, split_frame().assign(near_copies=float("nan"))))


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
            "rule_solves": 0.5,
        }
    )


def check_pair_frame(folder: Path, frame: pd.DataFrame) -> list[Finding]:
    rules = {split: BestRule(f"`{split}` is equal", 0.5) for split in SPLITS}
    return Validation(folder).check("pairs", frame, pair_parameters(load_recipe("demo"), rules))


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
    frame = pair_frame()
    require(check_pair_frame(tmp_path, frame))
    frame.loc[0, column] = value
    with pytest.raises(DataError, match=complaint):
        require(check_pair_frame(tmp_path, frame))


@pytest.mark.parametrize("split", SPLITS)
def test_a_rule_that_leaks_in_one_split_is_reported_with_its_name_and_the_limit(tmp_path, split):
    frame = pair_frame()
    frame.loc[frame["split"] == split, "rule_solves"] = 0.9  # the limit itself is too much
    findings = check_pair_frame(tmp_path, frame)
    (leak,) = [finding for finding in findings if not finding.success]
    assert leak.complaint() == (
        f'the pairs leak: the rule "`{split}` is equal" alone solves more of the {split} pairs than pairs.leak_limit '
        f"allows (pairs: expect_column_max_to_be_between of rule_solves where split == {split}; observed 0.9; expected "
        "less than 0.9); take that column out of columns.text or choose other pairs"
    )
    require(findings)


def test_a_repeated_pair_is_refused(tmp_path):
    frame = pd.concat([pair_frame(), pair_frame().head(1)], ignore_index=True)
    with pytest.raises(DataError, match="listed twice"):
        require(check_pair_frame(tmp_path, frame))


def test_a_column_that_is_not_there_is_no_pass(tmp_path):
    with pytest.raises(MlimError, match="could not be evaluated"):
        check_splits(tmp_path, split_frame().drop(columns="family"))


def test_pictures_are_decoded_from_the_shards(tiny_workspace, tiny_recipe):
    places = pd.Series(["part-00000.arrow:0", "part-00001.arrow:3", "part-00000.arrow:24"], index=[5, 6, 7])
    assert decodable(places, tiny_workspace.items, tiny_recipe.image.size).tolist() == [True] * 3
    assert decodable(places, tiny_workspace.items, tiny_recipe.image.size + 1).tolist() == [False] * 3
