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


def parted(table, name, suffix=".csv.gz"):
    """The table in two files `name` and a second one, beside it."""
    frame = pd.read_csv(table, dtype=str)
    for number, part in enumerate((frame[:6], frame[6:])):
        part.to_csv(table.parent / f"{name}-{number}{suffix}", index=False)
    table.unlink()
    return table.parent / f"{name}-*{suffix}"


def test_a_pattern_of_zipped_tables_can_be_ingested_as_it_is(table, tmp_path):
    pattern = parted(table, "part")
    path = tmp_path / "catalog.yaml"
    path.write_text(starter_yaml(pattern))
    description = load_description(path)
    assert (description.table, description.images) == (pattern, tmp_path / "photos")
    assert description.columns.id == "Article No"
    assert ingest(recipe(), path, Workspace(tmp_path / "work"), Terminal(quiet=True))["ingested"] == 12


def test_a_pattern_over_folders_stands_beside_their_parent(table, tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "t.csv").write_text(table.read_text())
    path = tmp_path / "catalog.yaml"
    path.write_text(starter_yaml(tmp_path / "*" / "t.csv"))
    assert 'table: "*/t.csv"' in path.read_text()
    assert load_description(path).images == tmp_path / "photos"


@pytest.mark.parametrize("address", ["https://shop.example/{}.jpg", "http://shop.example/{}.jpg?w=200", "HTTPS://x/{}"])
def test_addresses_need_no_folder(table, address):
    frame = pd.read_csv(table, dtype=str)
    frame["page"] = [f"https://shop.example/item/{number}" for number in range(12)]
    frame["photo"] = [address.format(number) for number in range(12)]
    frame.to_csv(table, index=False)
    path = written(table)
    description = load_description(path)
    assert description.columns.image == "photo"
    assert description.images is None
    assert "page" not in description.text_columns
    proposal = path.read_text().replace("# download:", "download:").replace("#   ", "  ")
    path.write_text(proposal)
    assert load_description(path) == description


@pytest.mark.parametrize("struct", [False, True])
def test_pictures_in_the_cells_of_parquet_need_no_folder(table, tmp_path, struct):
    frame = pd.read_csv(table, dtype=str)
    data = [(table.parent / "photos" / name).read_bytes() for name in frame["photo"]]
    frame["photo"] = [{"bytes": one, "path": None} for one in data] if struct else data
    frame["embedding"] = [b"\0" * 100] * 12
    frame.to_parquet(tmp_path / "shop.parquet")
    path = written(tmp_path / "shop.parquet")
    description = load_description(path)
    assert (description.columns.image, description.images) == ("photo", None)
    assert "embedding" not in description.text_columns
    assert ingest(recipe(), path, Workspace(tmp_path / "work"), Terminal(quiet=True))["ingested"] == 12


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16", "utf-8", "utf-8-sig"])
def test_the_encoding_is_found(table, encoding):
    text = table.read_text().replace("Lamp number", "Lämpchen für Größe").replace("colour", "café")
    table.write_bytes(text.encode(encoding))
    description = load_description(written(table))
    assert description.encoding == encoding.removesuffix("-sig")
    assert "café" in description.text_columns


def test_a_few_broken_rows_are_left_out(table):
    table.write_bytes(table.read_bytes() + b"x,y\n" + b'"1"2,\n' + b"Gr\xfc\xdfe,1\n" + "Grüße,1\nGrüße,2\n".encode())
    path = written(table)
    assert "# 2 more rows could not be read" in path.read_text()
    assert load_description(path).encoding == "utf-8"


def test_a_table_of_broken_rows_says_what_is_wrong_with_the_first(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2,3\n1,2,3\n")
    with pytest.raises(InputError, match="line 2: 3 cells, but the header has 2"):
        starter_yaml(tmp_path / "t.csv")
