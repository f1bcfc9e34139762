from pathlib import Path

import pytest
import yaml

from mlim.catalog.description import load_description
from mlim.errors import InputError
from tests.small_catalog import described


def written(folder: Path, values: dict) -> Path:
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def problems_of(folder: Path, values: dict) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_description(written(folder, values))
    return list(caught.value.problems)


def test_paths_are_relative_to_the_file(tmp_path):
    description = load_description(written(tmp_path, described(pairs={"labelled": "pairs.csv"})))
    assert description.table == tmp_path / "catalog.csv"
    assert description.images == tmp_path / "images"
    assert description.pairs.labelled == tmp_path / "pairs.csv"


def test_absolute_paths_stay(tmp_path):
    assert load_description(written(tmp_path, described(images="/pictures"))).images == Path("/pictures")


def test_a_plain_name_is_a_text_column_without_label(tmp_path):
    text = load_description(written(tmp_path, described())).columns.text
    assert [(column.column, column.label) for column in text] == [("title", None), ("colour", "colour")]


def test_environment_variables_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_CATALOG", str(tmp_path / "there"))
    description = load_description(written(tmp_path, described(table="${MY_CATALOG}/a.csv", images="${MY_CATALOG}")))
    assert description.table == tmp_path / "there" / "a.csv"
    assert description.images == tmp_path / "there"


@pytest.mark.parametrize("value", [None, ""])
def test_an_unset_variable_is_named_with_the_other_problems(tmp_path, monkeypatch, value):
    monkeypatch.delenv("MY_CATALOG", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_CATALOG", value)
    problems = problems_of(tmp_path, {**described(table="${MY_CATALOG}/a.csv"), "tabel": "x"})
    assert len(problems) == 2
    assert "MY_CATALOG" in problems[0]
    assert "unknown key `tabel` (did you mean `table`?)" in problems[1]


def test_every_mistake_is_reported_at_once(tmp_path):
    columns = {"idd": "sku", "image": "picture", "text": []}
    problems = problems_of(tmp_path, described(columns=columns, pairs={"max_family_size": 1}))
    message = "\n".join(problems)
    assert "missing key `columns.id`" in message
    assert "unknown key `columns.idd` (did you mean `id`?)" in message
    assert "`columns.text`" in message
    assert "`pairs.max_family_size`" in message


def test_the_deciding_column_must_be_hidden_from_the_text(tmp_path):
    [problem] = problems_of(tmp_path, described(pairs={"decided_by": ["colour"]}))
    assert "`colour` decides which pairs match" in problem
    assert "take it out of columns.text" in problem


def test_a_column_that_is_held_the_same_may_be_read(tmp_path):
    description = load_description(written(tmp_path, described(pairs={"decided_by": ["pattern"], "same": ["colour"]})))
    assert description.metadata_columns == ("pattern", "colour")
    assert description.needed_columns == ("sku", "picture", "product", "title", "colour", "pattern")


def test_deciding_needs_a_family(tmp_path):
    columns = {**described()["columns"], "family": None}
    [problem] = problems_of(tmp_path, described(columns=columns))
    assert "columns.family" in problem


def test_a_text_column_named_twice(tmp_path):
    columns = {**described()["columns"], "text": ["title", "title"]}
    [problem] = problems_of(tmp_path, described(columns=columns))
    assert "`title` twice" in problem


@pytest.mark.parametrize("source", ["table", "synthetic", "abo", "huggingface"])
def test_each_source_says_what_it_needs(tmp_path, source):
    values = {key: value for key, value in described(source=source).items() if key != source}
    [problem] = problems_of(tmp_path, values)
    assert f"missing key `{source}`" in problem


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Authorization": "Bearer abc"}, "`Authorization` looks like a secret; write ${VARIABLE}"),
        ({"X-Api-Key": "abc"}, "`X-Api-Key` looks like a secret"),
        ({"Host": "shop.test"}, "`Host` cannot be set"),
        ({"User-Agent": "x"}, "`User-Agent` is set with download.user_agent"),
        ({"a b": "x"}, "`a b` is no name of a header"),
        ({"Referer": "x", "referer": "y"}, "`Referer` stands there twice"),
    ],
)
def test_headers_that_cannot_be_sent_are_reported_without_their_values(tmp_path, headers, message):
    """Point 10: what looks like a secret is taken from the environment only."""
    problems = "\n".join(problems_of(tmp_path, described(download={"headers": headers})))
    assert message in problems
    assert "abc" not in problems


def test_a_description_holds_the_name_of_a_secret_and_not_the_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", "s3cr3t")
    download = {"headers": {"X-Api-Key": "${SHOP_KEY}"}, "user_agent": "Mozilla/5.0 (shop)"}
    description = load_description(written(tmp_path, described(download=download)))
    assert description.download.user_agent == "Mozilla/5.0 (shop)"
    assert "s3cr3t" not in description.model_dump_json()


def test_an_unknown_source(tmp_path):
    [problem] = problems_of(tmp_path, described(source="web"))
    assert "`source`" in problem
    assert "'web'" in problem


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_description(tmp_path / "none.yaml")


def test_the_fashion_catalog_is_a_good_description(monkeypatch, tmp_path):
    monkeypatch.setenv("MLIM_HM_FASHION", str(tmp_path))
    description = load_description(Path(__file__).parents[2] / "catalogs" / "hm_fashion.yaml")
    assert description.table == tmp_path / "catalog.csv"
    assert description.pairs.decided_by == ("graphical_appearance_name",)
