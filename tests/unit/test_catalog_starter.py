import pandas as pd
import pytest
import yaml
from PIL import Image
from small_catalog import recipe

from mlim.catalog.description import load_description
from mlim.catalog.starter import starter_yaml
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.steps.ingest import ingest
from mlim.workspace import Workspace


@pytest.fixture
def table(tmp_path):
    (tmp_path / "photos").mkdir()
    rows = []
    for number in range(12):
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / f"{number}.jpg")
        rows.append(
            {
                "photo": f"{number}.jpg",
                "Article No": f"00{number:02d}",
                "style_code": f"s{number // 3}",
                "title": f"Lamp number {number}",
                "kind": ["lamp", "vase"][number // 6],
                "colour": ["red", "blue", "red"][number % 3],
                "price": f"{number}.50",
                "currency": "EUR",
                "story": "A long story about a lamp that stands on a table and gives light to all who read beside it "
                f"for {number} hours.",
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "shop.csv", index=False)
    return tmp_path / "shop.csv"


def written(table, folder=None):
    path = (folder or table.parent) / "catalog.yaml"
    path.write_text(starter_yaml(table, folder))
    return path


def test_every_column_is_guessed(table):
    description = load_description(written(table))
    assert description.table == table
    assert description.images == table.parent / "photos"
    assert (description.columns.id, description.columns.image) == ("Article No", "photo")
    assert description.columns.family == "style_code"
    assert description.text_columns == ("title", "kind", "colour", "story")


def test_pairs_are_proposed_but_left_to_the_person(table):
    text = starter_yaml(table)
    assert "# decided_by: [colour]  # differs inside 100% of the families" in text
    assert "# same: [kind]" in text
    assert load_description(written(table)).pairs.decided_by == ()


def test_the_proposal_says_what_to_do_when_it_is_taken(table):
    path = written(table)
    path.write_text(path.read_text().replace("# decided_by: [colour]", "decided_by: [colour]"))
    with pytest.raises(InputError, match=r"take it out of columns\.text"):
        load_description(path)


def test_it_can_be_ingested_as_it_is(table, tmp_path):
    summary = ingest(recipe(), written(table), Workspace(tmp_path / "work"), Terminal(quiet=True))
    assert summary["ingested"] == 12


def test_it_may_lie_in_another_folder(table, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    description = load_description(written(table, folder))
    assert description.table.resolve() == table
    assert description.images.resolve() == table.parent / "photos"


def test_names_that_yaml_would_misread_are_quoted(tmp_path):
    frame = pd.DataFrame({"no": ["1", "2"], "a: b": ["x.jpg", "y.jpg"], "#c": ["one", "two"], "größe, cm": ["k", "m"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    description = load_description(written(tmp_path / "t.csv"))
    assert description.columns.image == "a: b"
    assert description.columns.id == "no"
    assert set(description.text_columns) == {"#c", "größe, cm"}


@pytest.mark.parametrize(
    "columns", [{"only": ["a", "b"]}, {"a": ["", ""], "b": ["", ""]}, {"a": ["1"], "b": ["x.png"]}]
)
def test_a_poor_table_still_gives_a_file_to_start_from(tmp_path, columns):
    pd.DataFrame(columns).to_csv(tmp_path / "t.csv", index=False)
    text = starter_yaml(tmp_path / "t.csv")
    assert "NOT FOUND" in text
    assert set(yaml.safe_load(text)) == {"source", "table", "images", "columns", "pairs"}


def test_an_unreadable_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        starter_yaml(tmp_path / "none.csv")
