import gzip
import json
import os
import pickle
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from abo_tree import write_abo_tree
from hypothesis import given
from hypothesis import strategies as st

from mlim.catalog.defaults import describe_abo
from mlim.catalog.description import AboSource, load_description
from mlim.catalog.rejection import RejectedError
from mlim.catalog.values import comparable
from mlim.errors import InputError
from mlim.sources.abo import COLUMNS, MOST_LINE_BYTES, AboTable, family_of, parse_listing
from mlim.sources.abo_listing import listing_cell

MAX_BYTES = 1 << 20
LANGUAGES = ("en_US", "en_*", "*")


def table(folder, **settings):
    return AboTable(AboSource(folder=folder, **settings), MAX_BYTES)


def write(folder, listings, pictures=None, name="listings_0.json.gz"):
    """A tree of these listings (objects, or bytes as they are); pictures: id -> path."""
    (folder / "listings" / "metadata").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "metadata").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "small").mkdir(exist_ok=True)
    lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in listings]
    (folder / "listings" / "metadata" / name).write_bytes(gzip.compress(b"\n".join(lines)))
    rows = "".join(f"{key},10,10,{path}\n" for key, path in (pictures or {}).items())
    (folder / "images" / "metadata" / "images.csv.gz").write_bytes(
        gzip.compress(f"image_id,height,width,path\n{rows}".encode())
    )
    return folder


def listing(number, main=None, others=(), **fields):
    shown = {**({"main_image_id": main} if main else {}), **({"other_image_id": list(others)} if others else {})}
    return {"item_id": f"B{number}", "domain_name": "amazon.com", **shown, **fields}


def said(*values):
    return [{"language_tag": tag, "value": value} for tag, value in values]


def rows(source, columns=COLUMNS):
    return list(source.rows(columns))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_abo_tree(tmp_path_factory.mktemp("abo") / "tree", listings=900, pictures=600, seed=7, boilerplate=2)


@pytest.fixture(scope="module")
def raw(tree):
    found = []
    for path in sorted((tree.folder / "listings" / "metadata").iterdir()):
        found += [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    return found


# ---- the sample of real records


@pytest.fixture
def sample():
    place = os.environ.get("MLIM_ABO_SAMPLE")
    if not place:
        pytest.skip("MLIM_ABO_SAMPLE does not say where the ABO sample lies")
    return Path(place)


def test_the_sample_of_real_records_is_read(sample):
    found = {row.cells["item_id"]: row for row in rows(table(sample))}
    assert len(found) == 5
    muffins, bag = found["B0841RDVFS"].cells, found["B0799CK52K"].cells
    assert muffins["key"] == "B0841RDVFS@amazon.com"
    assert muffins["product_type"] == "CAKE"
    assert muffins["node"] == "/Categories/Breads & Bakery/Pastries & Bakery/Muffins"
    assert muffins["bullet_point"].startswith("10.3-ounce package of 12 wild blueberry miniature muffins, Naturally")
    assert bag["fabric_type"] == "100% Polyester"  # the last of four languages
    assert bag["model_number"] == "ST1004"  # has no language
    chairs = found["B073P5PZ5P"].cells
    assert (chairs["color"], chairs["color_standard"], chairs["color_language"]) == ("Multicolor", "Multi", "en")
    assert (chairs["item_dimensions"], chairs["item_weight"]) == ("12 x 1.5 x 12 inches", "2.5 pounds")
    assert found["B07GTFSCHB"].cells["bullet_point"].startswith("La vitamine E contribue")  # there is only French


def test_the_samples_pictures_are_found_and_missing_ones_are_refused(sample):
    source = table(sample)
    store = source.pictures()
    refused = {row.cells["item_id"]: row.problem.reason for row in rows(source) if row.problem}
    assert refused == {"B073P5PZ5P": "missing-image", "B0841RDVFS": "missing-image"}
    for row in rows(source):
        if row.problem is None:
            assert store.read(row.cells["image"]).startswith(b"\xff\xd8")
    assert source.report()["pictures that images.csv.gz does not list"] == 2


def test_all_pictures_of_the_sample_are_rows_of_one_family(sample):
    found = [row for row in rows(table(sample, pictures="all", family_by=("brand",))) if row.problem is None]
    bags = [row.cells for row in found if row.cells["item_id"] == "B0799CK52K"]
    assert [cells["key"] for cells in bags] == [f"B0799CK52K@amazon.com#{number}" for number in range(1, 6)]
    assert len({cells["image"] for cells in bags}) == 5
    assert len({cells["family"] for cells in bags}) == 1


# ---- rows of a generated tree


def test_every_listing_is_one_row_that_leads_back_to_its_line(tree, raw):
    found = rows(table(tree.folder), ["key", "country"])
    assert len(found) == tree.listings == len(raw)
    assert [row.cells["key"] for row in found] == [f"{one['item_id']}@{one['domain_name']}" for one in raw]
    assert [row.cells["country"] for row in found] == [one.get("country", "") for one in raw]
    assert found[0].source == "listings/metadata/listings_0.json.gz"
    numbers = Counter(row.source for row in found)
    assert len(numbers) == 16
    for source, count in numbers.items():
        assert [row.row for row in found if row.source == source] == list(range(1, count + 1))


def test_an_item_sold_under_two_domains_is_two_items(tree):
    keys = [row.cells["key"] for row in rows(table(tree.folder), ["key"])]
    assert len(set(keys)) == len(keys)
    assert len({key.partition("@")[0] for key in keys}) < len(keys)


def test_rows_hold_just_the_columns_that_were_asked_for(tree):
    row = next(table(tree.folder).rows(["image", "brand"]))
    assert list(row.cells) == ["image", "brand"]


def test_pictures_that_exist_open_and_the_others_are_reported(tree, raw):
    source = table(tree.folder, max_picture_uses=10_000)
    store = pickle.loads(pickle.dumps(source.pictures()))
    outcomes = Counter()
    for row, one in zip(rows(source), raw, strict=True):
        if row.problem or not row.cells["image"]:
            outcomes[row.problem.reason if row.problem else "none"] += 1
            assert "main_image_id" not in one or one["main_image_id"].startswith("9ZUNKNOWN")
            continue
        try:
            outcomes[store.read(row.cells["image"])[:2]] += 1
        except RejectedError as refused:
            outcomes[refused.rejection.reason] += 1
    assert outcomes[b"\xff\xd8"] > 500
    assert outcomes[b"\x89P"] > 0
    assert outcomes["missing-image"] > 0
    assert outcomes["none"] > 0


def test_equal_trees_give_equal_rows_and_another_seed_others(tmp_path):
    seeds = {"one": 7, "again": 7, "other": 8}
    for name, seed in seeds.items():
        write_abo_tree(tmp_path / name, listings=90, pictures=60, seed=seed, boilerplate=2)
    one, again, other = (rows(table(tmp_path / name)) for name in seeds)
    assert one == again
    assert one != other


# ---- boilerplate pictures


def test_the_main_picture_gives_way_when_it_stands_on_too_many_listings(tmp_path):
    pictures = {name: f"aa/{name}.jpg" for name in ("plate", "own1", "own2", "own3")}
    shown = [("own1", ["plate"]), ("plate", ["own2", "own3"]), ("plate", []), ("own3", [])]
    folder = write(tmp_path, [listing(n, main, others) for n, (main, others) in enumerate(shown)], pictures)
    source = table(folder, max_picture_uses=2)
    found = rows(source)
    assert [row.cells["image_id"] for row in found] == ["own1", "own2", "plate", "own3"]
    assert [row.problem and row.problem.reason for row in found] == [None, None, "boilerplate-image", None]
    assert found[2].cells["image"] == "aa/plate.jpg"  # so that a person sees what was refused
    report = source.report()
    assert report["boilerplate pictures"] == 1
    assert report["listings with another main picture"] == 1
    assert report["listings with boilerplate pictures only"] == 1
    assert report["listings"] == 4


def test_a_picture_on_as_many_listings_as_allowed_stays(tmp_path):
    folder = write(tmp_path, [listing(n, "plate") for n in range(3)], {"plate": "aa/plate.jpg"})
    assert [row.problem for row in rows(table(folder, max_picture_uses=3))] == [None] * 3
    assert all(row.problem for row in rows(table(folder, max_picture_uses=2)))


def test_a_picture_named_twice_by_one_listing_counts_once(tmp_path):
    folder = write(tmp_path, [listing(1, "a", ["a", "a"]), listing(2, "a")], {"a": "aa/a.jpg"})
    assert [row.problem for row in rows(table(folder, max_picture_uses=2))] == [None, None]
    assert [row.cells["key"] for row in rows(table(folder, pictures="all"))] == ["B1@amazon.com#1", "B2@amazon.com#1"]


def test_with_all_pictures_boilerplate_is_left_out_and_numbers_stay(tmp_path):
    pictures = {name: f"aa/{name}.jpg" for name in ("plate", "own1", "own2")}
    shown = [("plate", ["own1", "own2"]), ("plate", [])]
    folder = write(tmp_path, [listing(n, main, others) for n, (main, others) in enumerate(shown)], pictures)
    source = table(folder, pictures="all", max_picture_uses=1)
    found = rows(source)
    assert [row.cells["key"] for row in found] == ["B0@amazon.com#2", "B0@amazon.com#3", "B1@amazon.com#1"]
    assert [row.problem and row.problem.reason for row in found] == [None, None, "boilerplate-image"]
    assert source.report()["rows left out for boilerplate pictures"] == 1


def test_a_generated_trees_boilerplate_is_found(tree):
    source = table(tree.folder, max_picture_uses=15)
    found = rows(source)
    assert source.report()["boilerplate pictures"] == len(tree.boilerplate)
    kept = {row.cells["image_id"] for row in found if row.problem is None}
    assert not kept & set(tree.boilerplate)


# ---- cells


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ([{"value": "CAKE"}], "CAKE"),
        ("CAKE", "CAKE"),
        ({"value": "CAKE"}, "CAKE"),
        (["CAKE", "PIE"], "CAKE, PIE"),
        ([{"language_tag": "en_US", "value": None}], ""),
        ([{"language_tag": "en_US"}], ""),
        ([], ""),
        (None, ""),
        (7, "7"),
        ([{"value": 2017.0}], "2017"),
    ],
)
def test_a_field_may_come_in_any_shape(field, text):
    assert listing_cell({"product_type": field}, "product_type", LANGUAGES) == text


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([{"node_id": 1, "node_name": "/a"}, {"node_id": 2, "node_name": "/a/b"}], "/a/b"),
        ({"node_id": 1, "node_name": "/a"}, "/a"),
        ([{"node_id": 1}], ""),
        ("/a", "/a"),
    ],
)
def test_a_node_may_come_in_any_shape(nodes, text):
    assert listing_cell({"node": nodes}, "node", LANGUAGES) == text


@pytest.mark.parametrize(
    ("languages", "text"),
    [
        (("en_US", "en_*", "*"), "lamp, light"),
        (("de_*", "*"), "Lampe"),
        (("en_G*",), "torch"),
        (("fr_*",), ""),
        (("*",), "Lampe"),
    ],
)
def test_the_best_language_is_chosen_whole(languages, text):
    names = said(("de_DE", "Lampe"), ("en_GB", "torch"), ("en_US", "lamp"), ("en_US", "light"), ("en_US", "lamp"))
    assert listing_cell({"item_name": names}, "item_name", languages) == text


def test_values_without_a_language_are_taken_where_no_language_fits():
    assert listing_cell({"model_number": [{"value": "X-1"}]}, "model_number", ("en_US",)) == "X-1"
    mixed = [{"value": "X-1"}, {"language_tag": "en_US", "value": "X-2"}]
    assert listing_cell({"model_number": mixed}, "model_number", ("en_US",)) == "X-2"


def test_descriptions_lose_their_markup():
    html = [{"language_tag": "en_US", "value": "<p>Soft &amp; warm<br/>wool</p>"}]
    assert listing_cell({"product_description": html}, "product_description", LANGUAGES) == "Soft & warm wool"


def test_a_missing_side_is_left_out_of_the_size():
    sides = {"length": {"unit": "cm", "value": 3}, "height": {"normalized_value": {"unit": "inches", "value": 1.0}}}
    assert listing_cell({"item_dimensions": sides}, "item_dimensions", LANGUAGES) == "3 cm x 1 inches"
    assert listing_cell({"item_dimensions": "3 cm"}, "item_dimensions", LANGUAGES) == ""
    assert listing_cell({"item_weight": {"unit": "pounds", "value": 2}}, "item_weight", LANGUAGES) == "2 pounds"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("language_tag", "value", "unit", "standardized_values", "node_name")), inner)
    ),
    max_leaves=8,
)


@given(column=st.sampled_from(COLUMNS[4:]), value=json_values)
def test_any_json_in_a_field_becomes_text(column, value):
    field = column.partition("_standard")[0].partition("_language")[0]
    text = listing_cell({field: value}, column, LANGUAGES)
    assert isinstance(text, str)
    text.encode()


def test_half_a_surrogate_pair_becomes_text_that_can_be_stored():
    cell = listing_cell(json.loads('{"brand": [{"value": "a\\ud83d"}]}'), "brand", LANGUAGES)
    assert cell.encode() == b"a?"


# ---- families


def test_listings_equal_in_the_family_columns_are_one_family_whatever_case_and_spaces(tmp_path):
    def of(brand, model):
        return {"brand": said(("en_US", brand)), "model_name": said(("en_US", model)), "product_type": "LAMP"}

    many = [of("Rivet", "Sun 1"), of("RIVET", "sun  1"), of("Rivet", "Sun 2"), of("Rivet", ""), of("Rivet Sun", "1")]
    folder = write(tmp_path, [listing(number, **fields) for number, fields in enumerate(many)])
    family = [row.cells["family"] for row in rows(table(folder), ["family"])]
    assert family[0] == family[1] != ""
    assert family[0].startswith("rivet-sun-1-lamp-")
    assert family[3] == ""
    assert len(set(family)) == 4


@given(st.lists(st.text(max_size=8), min_size=2, max_size=3), st.lists(st.text(max_size=8), min_size=2, max_size=3))
def test_families_are_equal_only_where_their_values_are(first, second):
    plain = [[comparable(value) for value in values] for values in (first, second)]
    if all(plain[0]) and all(plain[1]):
        assert (family_of(first) == family_of(second)) == (plain[0] == plain[1])


def test_an_unknown_family_column_is_reported_with_the_nearest_name(tmp_path):
    with pytest.raises(InputError, match=r"`modelname` .did you mean `model_name`"):
        table(write(tmp_path, [listing(1)]), family_by=("brand", "modelname"))


# ---- bad input


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b'{"item_id": "B1", "dom', "is not JSON"),
        (b"\xff\xfe{", "is not UTF-8"),
        (b"[1, 2]", "a JSON list, not an object"),
        (b"[" * 100_000, "no listing needs"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "no listing needs"),
        (b"\x00\x00", "is not JSON"),
    ],
)
def test_a_broken_line_is_one_refused_row(tmp_path, line, detail):
    source = table(write(tmp_path, [listing(1), line, listing(2)]))
    found = rows(source, ["key"])
    assert [row.row for row in found] == [1, 2, 3]
    assert found[1].problem.reason == "broken-line"
    assert detail in found[1].problem.detail
    assert [found[0].cells["key"], found[2].cells["key"]] == ["B1@amazon.com", "B2@amazon.com"]
    assert source.report()["broken lines"] == 1


def test_an_endless_line_is_refused_and_the_next_one_read(tmp_path):
    endless = b'{"item_id": "' + b"x" * (2 * MOST_LINE_BYTES + 5) + b'"}'
    found = rows(table(write(tmp_path, [endless, listing(2)])), ["key"])
    assert [row.row for row in found] == [1, 2]
    assert found[0].problem.reason == "broken-line"
    assert found[1].cells["key"] == "B2@amazon.com"


def test_a_byte_order_mark_and_blank_lines_are_no_harm(tmp_path):
    line = b"\xef\xbb\xbf" + json.dumps(listing(1)).encode()
    found = rows(table(write(tmp_path, [line, b"", listing(2), b""])), ["key"])
    assert [(row.row, row.cells["key"]) for row in found] == [(1, "B1@amazon.com"), (3, "B2@amazon.com")]


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_a_broken_gzip_names_its_file(tmp_path, damage):
    folder = write(tmp_path, [listing(number, country="x" * 50) for number in range(2000)])
    path = folder / "listings" / "metadata" / "listings_0.json.gz"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 255
    path.write_bytes({"cut": data[:-20], "flipped": data, "not gzip": b"{}"}[damage])
    with pytest.raises(InputError, match=r"listings_0\.json\.gz: is a broken gzip"):
        rows(table(folder))


def test_all_that_the_folder_lacks_is_reported_at_once(tmp_path):
    with pytest.raises(InputError) as caught:
        table(tmp_path).columns()
    message = str(caught.value)
    assert all(part in message for part in ("listings_*.json.gz", "images.csv.gz", "small", "mlim catalog fetch abo"))


def test_a_table_of_pictures_without_its_columns_is_reported(tmp_path):
    folder = write(tmp_path, [listing(1, "a")])
    (folder / "images" / "metadata" / "images.csv.gz").write_bytes(gzip.compress(b"id,file\na,b\n"))
    with pytest.raises(InputError, match=r"images\.csv\.gz: the header must name image_id and path"):
        rows(table(folder))


def test_files_without_listings_are_reported(tmp_path):
    with pytest.raises(InputError, match="holds no listing"):
        rows(table(write(tmp_path, [b"", b"broken"])))


def test_a_listing_without_an_id_has_no_key(tmp_path):
    folder = write(
        tmp_path, [{"domain_name": "amazon.com", "main_image_id": "a"}, {"item_id": "B1"}], {"a": "aa/a.jpg"}
    )
    assert [row.cells["key"] for row in rows(table(folder))] == ["", "B1"]
    assert [row.cells["key"] for row in rows(table(folder, pictures="all"))] == ["", "B1#1"]


def test_a_changed_file_changes_the_state(tmp_path):
    source = table(write(tmp_path, [listing(1)]))
    before = source.state()
    assert source.state() == before
    write(tmp_path, [listing(1), listing(2)])
    assert source.state() != before


def test_memory_does_not_grow_with_the_number_of_listings(tmp_path):
    def peak(count):
        plain = [listing(number, "a", bullet_point=said(("en_US", "word " * 800))) for number in range(count)]
        source = table(write(tmp_path / str(count), plain, {"a": "aa/a.jpg"}), max_picture_uses=10**6)
        del plain
        tracemalloc.start()
        assert sum(1 for _ in source.rows(COLUMNS)) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(400) < 1.5 * peak(50)


def test_a_line_of_nonsense_never_raises():
    assert parse_listing(b"nonsense").reason == "broken-line"


# ---- its description


def test_the_description_may_leave_columns_and_pairs_to_the_source(tree, tmp_path):
    path = tmp_path / "catalog.yaml"
    path.write_text(f"source: abo\nabo:\n  folder: {tree.folder}\n", encoding="utf-8")
    description = load_description(path)
    assert description.columns.id == "key"
    assert set(description.needed_columns) <= set(table(tree.folder).columns())
    assert not set(description.pairs.columns) & set(description.text_columns)


def test_the_catalog_that_is_shipped_reads_a_tree_named_by_the_environment(tree, monkeypatch):
    shipped = Path(__file__).parents[2] / "catalogs" / "abo.yaml"
    monkeypatch.setenv("MLIM_ABO", str(tree.folder))
    description = load_description(shipped)
    assert description.abo.folder == tree.folder
    assert set(description.needed_columns) <= set(table(tree.folder).columns())
    known = describe_abo()
    assert [text.model_dump(exclude={"clean"}) for text in description.columns.text] == known["columns"]["text"]
    assert list(description.pairs.decided_by) == known["pairs"]["decided_by"]
