import pandas as pd
import pytest
import yaml

from mlim.catalog.description import load_description
from mlim.errors import InputError
from mlim.sources.starter import starter_yaml
from mlim.sources.starter_pairs import measure_sizes
from tests.shop_tables import write_lamps, written


@pytest.fixture
def table(tmp_path):
    return write_lamps(tmp_path)


def test_every_column_is_guessed(table):
    description = load_description(written(table))
    assert description.table == table
    assert description.images == table.parent / "photos"
    assert (description.columns.id, description.columns.image.column) == ("Article No", "photo")
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
    assert description.columns.image.column == "a: b"
    assert description.columns.id == "no"
    assert set(description.text_columns) == {"#c", "größe, cm"}


def test_names_with_line_ends_and_emoji_stay_on_their_line(tmp_path):
    words = ["n/a", "plain", "striped"] * 4
    frame = pd.DataFrame({"no": range(12), "Product\nphoto": [f"{n}.jpg" for n in range(12)], "🎨 colour": words})
    frame["Product\nline"] = [f"a lamp {word} {number}" for number, word in enumerate(words)]
    frame.to_csv(tmp_path / "t.csv", index=False)
    description = load_description(written(tmp_path / "t.csv"))
    assert description.columns.image.column == "Product\nphoto"
    assert (description.text_columns, description.columns.family) == (("Product\nline",), "🎨 colour")


@pytest.mark.parametrize("cell", ["{0}.jpg|{1}.jpg", '["{0}.jpg", "{1}.jpg"]'])
def test_pictures_are_found_where_a_cell_lists_several(tmp_path, cell):
    (tmp_path / "shots").mkdir()
    for number in range(6):
        (tmp_path / "shots" / f"{number}.jpg").touch()
    gallery = [cell.format(number, number + 1) for number in range(5)]
    frame = pd.DataFrame({"no": range(5), "gallery": gallery, "title": [f"a lamp {number}" for number in range(5)]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    description = load_description(written(tmp_path / "t.csv"))
    assert (description.columns.image.column, description.images) == ("gallery", tmp_path / "shots")


@pytest.mark.parametrize(
    "columns", [{"only": ["a", "b"], "o": ["", ""]}, {"a": ["", ""], "b": ["", ""]}, {"a": ["1"], "b": ["x.png"]}]
)
def test_a_poor_table_still_gives_a_file_to_start_from(tmp_path, columns):
    pd.DataFrame(columns).to_csv(tmp_path / "t.csv", index=False)
    text = starter_yaml(tmp_path / "t.csv")
    assert "NOT FOUND" in text
    assert set(yaml.safe_load(text)) == {"source", "table", "images", "columns", "pairs"}


@pytest.mark.parametrize(
    ("written_as", "on_disk"),
    [("caf\u00e9.jpg", "cafe\u0301.jpg"), ("/inner/a.jpg", "inner/a.jpg"), ("inner\\a.jpg", "inner/a.jpg")],
)
def test_pictures_are_looked_for_as_ingest_finds_them(tmp_path, written_as, on_disk):
    """Point 11: a folder is found through the spellings that are the same."""
    picture = tmp_path / "photos" / on_disk
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"one")
    pd.DataFrame({"id": ["1"], "image": [written_as]}).to_csv(tmp_path / "t.csv", index=False)
    assert "images: photos  # 1 of the first 1 pictures were found here" in starter_yaml(tmp_path / "t.csv")


def test_a_folder_that_spells_its_pictures_otherwise_is_proposed_with_both_spellings(tmp_path):
    """Point 11: a new user is told at once, not by a quarantine of all rows."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "my photo.JPG").write_bytes(b"one")
    pd.DataFrame({"id": ["1"], "image": ["my%20photo.jpg"]}).to_csv(tmp_path / "t.csv", index=False)
    text = starter_yaml(tmp_path / "t.csv")
    message = "the table writes 'my%20photo.jpg', but the folder 'my photo.JPG'"
    assert f"images: photos  # 0 of the first 1 pictures were found here: {message}" in text
    assert yaml.safe_load(text)["images"] == "photos"


def test_pictures_behind_a_link_are_found_in_the_folder_that_it_leads_to(tmp_path):
    """No picture may lie outside `images`, so the folder on the other disk is proposed, not one that refuses all."""
    disk, shop = tmp_path / "disk", tmp_path / "shop"
    (disk / "img").mkdir(parents=True)
    (disk / "img" / "0.jpg").write_bytes(b"one")
    shop.mkdir()
    (shop / "img").symlink_to(disk / "img")
    pd.DataFrame({"id": ["1"], "image": ["img/0.jpg"]}).to_csv(shop / "t.csv", index=False)
    text = starter_yaml(shop / "t.csv")
    assert yaml.safe_load(text)["images"] == str(disk)
    assert "1 of the first 1 pictures were found here: `img` beside the table is a link to a folder in it" in text


def test_an_unreadable_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        starter_yaml(tmp_path / "none.csv")


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
    assert description.columns.image.column == "photo"
    assert description.images is None
    assert "page" not in description.text_columns
    proposal = path.read_text().replace("# download:", "download:").replace("#   ", "  ")
    path.write_text(proposal)
    assert load_description(path) == description


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16", "utf-8", "utf-8-sig"])
def test_the_encoding_is_found(table, encoding):
    text = table.read_text().replace("Lamp number", "Lämpchen für Größe").replace("colour", "café")
    table.write_bytes(text.encode(encoding))
    description = load_description(written(table))
    assert description.encoding == encoding.removesuffix("-sig")
    assert "café" in description.text_columns


def test_a_few_broken_rows_are_left_out(table):
    broken = b'1,"a\n2"2\n'
    table.write_bytes(table.read_bytes() + b"x,y\n" + broken + b"Gr\xfc\xdfe,1\n" + "Grüße,1\nGrüße,2\n".encode())
    path = written(table)
    assert "# 2 more rows could not be read" in path.read_text()
    assert load_description(path).encoding == "utf-8"


def test_a_table_of_broken_rows_says_what_is_wrong_with_the_first(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2,3\n1,2,3\n")
    with pytest.raises(InputError, match="line 2: 3 cells, but the header has 2"):
        starter_yaml(tmp_path / "t.csv")


def test_the_usual_delimiter_is_not_written(table):
    """Point 7: what the name says already is not repeated."""
    assert "delimiter" not in written(table).read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "sku~title~photo\n1~a~1.jpg\n", "has one column (`sku~title~photo`).*--delimiter"),
        ("t.tsv", "sku\n1\n", "has one column (`sku`)"),
        ("t.jsonl", '{"sku": 1}\n', "has one column (`sku`)"),
        ("t.csv", "a,a\n1,2\n", "has one column (none that has a name of its own)"),
    ],
)
def test_a_table_of_one_column_is_no_catalog(tmp_path, name, content, message):
    """Point 7: no catalog.yaml has the whole line for its only column."""
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        starter_yaml(tmp_path / name)


def test_a_delimiter_can_be_given(table):
    """Point 7: a delimiter that is not looked for is named."""
    pd.read_csv(table, dtype=str).to_csv(table, index=False, sep="~")
    text = starter_yaml(table, delimiter="~")
    assert 'delimiter: "~"' in text
    (table.parent / "catalog.yaml").write_text(text)
    assert load_description(table.parent / "catalog.yaml").columns.id == "Article No"
    with pytest.raises(InputError, match="--delimiter must be one character"):
        starter_yaml(table, delimiter="~~")


def test_a_sku_that_repeats_on_a_few_rows_names_the_items_still(tmp_path):
    """Point 8: shops add a row for each language; a title that differs in each row is no id because of that."""
    rows = [
        {
            "sku": f"M{n}",
            "lang": "",
            "name": f"Big bag no {n}",
            "image": f"{n}.jpg",
            "style": f"s{n // 3}",
            "image no": n % 4,
        }
        for n in range(24)
    ]
    rows += [{"sku": f"M{n}", "lang": "de", "name": f"Grosse Tasche {n}"} for n in range(0, 24, 4)]
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    columns = load_description(written(tmp_path / "t.csv")).columns
    assert (columns.id, columns.image.column, columns.family) == ("sku", "image", "style")


@pytest.fixture
def lamps_in_sizes(tmp_path):
    """Six products in four colours of five sizes, which share a photo. A seventh has a photo for each row."""
    rows = [
        {
            "sku": f"{product}-{colour}-{size}",
            "style_code": f"s{product}",
            "photo": f"{product}-{colour}.jpg",
            "title": f"{['soft', 'bright', 'tall', 'small', 'round', 'plain'][product]} lamp",
            "colour": ["red", "blue", "green", "red"][colour],
            "size": ["XS", "S", "M", "L", "XL"][size],
        }
        for product in range(6)
        for colour in range(4)
        for size in range(5)
    ]
    rows += [{**rows[0], "sku": f"x{n}", "style_code": "rest", "photo": f"x{n}.jpg"} for n in range(5)]
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def test_the_limit_of_families_is_measured(lamps_in_sizes):
    text = starter_yaml(lamps_in_sizes)
    assert "# 125 rows are in 7 families of several; the largest has 20." in text
    pairs = load_description(written(lamps_in_sizes)).pairs
    assert (pairs.max_family_size, pairs.max_pairs_per_family) == (24, 28)


def test_a_few_rows_in_a_huge_family_are_left_out():
    """A family of a hundred is no product; without it twelve are enough."""
    sizes = measure_sizes(pd.Series([4] * 500 + [12] * 150 + [100]))
    assert (sizes.most, sizes.beyond, sizes.beyond_usual, sizes.largest) == (12, 100, 1900, 100)
    assert measure_sizes(pd.Series([], dtype="int64")).most == 8


def test_pairs_of_one_photo_are_counted_and_left_out(lamps_in_sizes):
    text = starter_yaml(lamps_in_sizes)
    assert "# 120 rows show a picture that another row of their family shows too" in text
    # of four colours two are the same: one pair of colours, each of 5 x 5 sizes, in six families; and the rest's ten
    assert "# decided_by: [colour]  # differs inside 86% of the families: 160 matches, 750 mismatches" in text
    assert text.count("# differ: [photo]  # no pair of items with one picture") == 2


@pytest.mark.parametrize(
    ("task", "decided_by"), [("The same variant?", ("colour",)), ("The same product?", ("style_code",))]
)
def test_both_tasks_are_ready(lamps_in_sizes, task, decided_by):
    before, mark, section = starter_yaml(lamps_in_sizes).partition(f'# "{task}"')
    for key in ("decided_by: [colour]", "decided_by: [style_code]", "negatives:", "differ:"):
        section = section.replace(f"# {key}", key, 1) if f"# {key}" in section.split('# "')[0] else section
    path = lamps_in_sizes.with_name("catalog.yaml")
    path.write_text(before.replace("    - colour\n", "") + mark + section)
    pairs = load_description(path).pairs
    assert (pairs.decided_by, pairs.differ) == (decided_by, ("photo",))
    assert (pairs.negatives.family == 0) is (task == "The same product?")


def test_what_answers_the_same_product_is_named(lamps_in_sizes):
    assert "take them out of columns.text: title\n" in starter_yaml(lamps_in_sizes)


def test_a_folder_is_answered_with_what_to_name(lamps_in_sizes):
    with pytest.raises(InputError, match=r"is a folder; name the table in it: t\.csv"):
        starter_yaml(lamps_in_sizes.parent)
    (lamps_in_sizes.parent / "listings").mkdir()
    with pytest.raises(InputError, match="source: abo"):
        starter_yaml(lamps_in_sizes.parent)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("sku,title,title,price", "names `title` more than once, so it is not read"),
        ("sku,title,,price", "has no name for column 3, so that is not read"),
        ("sku,,,price", "has no name for columns 2, 3, so that is not read"),
        ("000000,a lamp,x,000_0.jpg", "says `000000`, `000_0.jpg`, which looks like a value; if the table has no"),
        ("sku,a lamp,x,12.90 EUR", "says `12.90 EUR`, which looks like a value"),
        ("sku,a lamp,x,price", ""),
    ],
)
def test_what_a_header_leaves_out_or_hides_is_said(tmp_path, header, sentence):
    """Both in the proposal and on the terminal: a column that is not there would not be missed."""
    rows = "".join(f"{n},lamp no {n},in {['red', 'blue'][n % 2]},{n}.jpg\n" for n in range(1, 9))
    (tmp_path / "t.csv").write_text(f"{header}\n{rows}")
    warned = []
    text = starter_yaml(tmp_path / "t.csv", warn=warned.append)
    assert [sentence in one for one in warned] == ([True] if sentence else [])
    assert [f"# NOTE: {one}." in text for one in warned] == [True] * len(warned)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_found_by_its_nuls(table, encoding):
    table.write_bytes(table.read_text().replace("colour", "café").encode(encoding))
    description = load_description(written(table))
    assert description.encoding == encoding
    assert "café" in description.text_columns


@pytest.mark.parametrize("delimiter", [None, ";"])
@pytest.mark.parametrize("title", ["Export of 2024-01-01", "Export of 2024-01-01;;;", "Export of 2024-01-01\n"])
def test_lines_above_the_header_are_named(tmp_path, delimiter, title):
    """Naming the delimiter does not help there, so that is not the advice."""
    rows = "".join(f"{n};lamp no {n};red;{n}.jpg\n" for n in range(8))
    (tmp_path / "t.csv").write_text(f"{title}\nsku;title;colour;photo\n{rows}")
    line = 2 + title.count("\n")
    message = (
        rf"Export of 2024-01-01.*line {line} and most lines below it have 4 cells; remove the lines above the header"
    )
    with pytest.raises(InputError, match=message):
        starter_yaml(tmp_path / "t.csv", delimiter=delimiter)
