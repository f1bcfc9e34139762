"""The embedded catalog: what its files promise to everybody who reads them."""

import hashlib
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mlim.catalog.description import load_description
from mlim.console import Terminal
from mlim.embedded.ceilings import measure_ceilings, read_catalog
from mlim.embedded.document import BEGIN, END, with_block
from mlim.embedded.families import LARGEST_FAMILY, SMALLEST_FAMILY, draw_members
from mlim.embedded.generate import plan_item, plan_items, synthesize
from mlim.embedded.look import Look, draw_look
from mlim.embedded.palette import COLOURS, MATERIALS
from mlim.embedded.patterns import PATTERNS
from mlim.embedded.products import PRODUCTS
from mlim.embedded.render import render
from mlim.embedded.wording import SIZE_WORDS, Texts, read_pattern, read_size
from mlim.errors import InputError

ITEMS, SEED, SIDE = 24, 5, 32
MANY = 1200
PATTERN_WORDS = {
    "solid", "plain", "stripe", "stripes", "striped", "dot", "dots", "dotted", "polka", "check", "checks", "checked",
    "gingham", "block", "two-tone", "pattern", "patterned",
}  # fmt: skip


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "catalog"
    synthesize(out, ITEMS, SEED, SIDE, workers=1, terminal=Terminal(quiet=True))
    return out


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return [item.row for item in plan_items(MANY, SEED)]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def families(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    found = defaultdict(list)
    for row in rows:
        found[row["family"]].append(row)
    return list(found.values())


def words(row: dict[str, str]) -> set[str]:
    text = " ".join(row[column] for column in Texts._fields).lower()
    return set(text.replace(",", " ").replace(":", " ").split())


def a_look(product: str = "mug", pattern: str = "dots", colour: str = "red", seed: int = 0) -> Look:
    generator = np.random.default_rng(seed)
    return draw_look(product, pattern, colour, (200, 180, 150), PRODUCTS[product].materials[0], True, generator)


def test_another_seed_gives_another_catalog(rows):
    others = {item.row["item_id"] for item in plan_items(MANY, SEED + 1)}
    assert not others & {row["item_id"] for row in rows}


def test_a_larger_catalog_begins_with_the_same_families():
    large, small = list(draw_members(60, SEED)), list(draw_members(40, SEED))
    untouched = small[: -2 * LARGEST_FAMILY]  # the last families may be cut to fit
    assert large[: len(untouched)] == untouched


def test_every_row_has_a_picture_of_the_asked_size(catalog):
    rows = read_catalog(catalog / "catalog.csv")
    assert len(rows) == ITEMS
    for row in rows:
        with Image.open(catalog / "images" / row["image"]) as picture:
            assert (picture.size, picture.mode, picture.format) == ((SIDE, SIDE), "RGB", "JPEG")


def test_ids_and_pictures_are_unique(catalog):
    pictures = {name: digest for name, digest in digests(catalog).items() if name.endswith(".jpg")}
    assert len(set(pictures.values())) == len(pictures) == ITEMS


def test_the_description_names_columns_that_exist_and_keeps_what_decides_out_of_the_text(catalog):
    description = yaml.safe_load((catalog / "catalog.yaml").read_text())
    columns = set(read_catalog(catalog / "catalog.csv")[0])
    text = {entry["column"] for entry in description["columns"]["text"]}
    decisive = {*description["pairs"]["decided_by"], *description["pairs"]["same"]}
    assert text | decisive | {description["columns"][name] for name in ("id", "image", "family")} == columns
    assert not text & decisive


def test_families_have_one_product_one_odd_pattern_and_one_odd_size(rows):
    for members in families(rows):
        assert SMALLEST_FAMILY <= len(members) <= LARGEST_FAMILY
        assert len({row["product_type"] for row in members}) == 1
        for column in ("pattern", "size"):
            counts = sorted(Counter(row[column] for row in members).values())
            assert counts == [1, len(members) - 1]


@pytest.mark.parametrize("items", range(SMALLEST_FAMILY, 30))
def test_any_number_of_items_is_met_exactly(items):
    sizes = defaultdict(int)
    for member in draw_members(items, SEED):
        sizes[member.family.number] += 1
    assert sum(sizes.values()) == items
    assert all(SMALLEST_FAMILY <= size <= LARGEST_FAMILY for size in sizes.values())


def test_at_least_twenty_product_types_and_every_pattern_size_and_colour_occur(rows):
    assert len({row["product_type"] for row in rows}) >= 20
    assert {row["pattern"] for row in rows} == set(PATTERNS)
    assert {row["size"] for row in rows} == set(SIZE_WORDS)
    assert {member.colour for member in draw_members(MANY, SEED)} == set(COLOURS)


def test_the_pattern_is_never_written(rows):
    assert not set().union(*map(words, rows)) & PATTERN_WORDS


def test_the_size_is_written_in_nearly_every_text_and_nearly_always_right(rows):
    readings = [read_size([row[column] for column in Texts._fields]) for row in rows]
    right = np.mean([reading == row["size"] for reading, row in zip(readings, rows, strict=True)])
    missing = np.mean([reading is None for reading in readings])
    assert 0.9 < right < 1
    assert 0 < missing < 0.06


def test_the_size_is_written_in_more_than_one_column_and_wording(rows):
    in_title = np.mean([read_size([row["title"]]) is not None for row in rows])
    assert 0.25 < in_title < 0.55
    for names in SIZE_WORDS.values():
        for name in names:
            assert any(name.lower() in words(row) for row in rows)


def test_no_other_word_is_mistaken_for_a_size():
    known = [text for product in PRODUCTS.values() for text in (*product.words, *product.purposes)]
    known += [word for colour in COLOURS.values() for word in colour.words]
    known += [word for material in MATERIALS.values() for word in material.words]
    assert [text for text in known if read_size([text]) is not None] == []


def test_texts_are_dirty_as_a_shops_are(rows):
    assert {column: any(not row[column] for row in rows) for column in ("title", "colour", "material", "details")} == {
        "title": False, "colour": True, "material": True, "details": True,
    }  # fmt: skip
    assert any(row["title"].isupper() for row in rows)


def test_the_vocabulary_is_small(rows):
    assert len(set().union(*map(words, rows))) < 400


def test_no_column_alone_decides_whether_two_members_match(rows):
    pairs = [pair for members in families(rows) for pair in combinations(members, 2)]
    labels = np.array([a["pattern"] == b["pattern"] and a["size"] == b["size"] for a, b in pairs])
    majority = max(labels.mean(), 1 - labels.mean())
    for column in Texts._fields:
        equal = np.array([a[column] == b[column] for a, b in pairs])
        accuracy = max((equal == labels).mean(), (equal != labels).mean())
        assert (accuracy - majority) / (1 - majority) < 0.2


def test_the_size_changes_the_text_but_not_the_picture():
    for member in list(draw_members(MANY, SEED))[:50]:
        resized = member._replace(size=next(size for size in SIZE_WORDS if size != member.size))
        before, after = plan_item(member, SEED), plan_item(resized, SEED)
        assert after.look == before.look
        assert after.row["size"] != before.row["size"]
        readings = [read_size([item.row[column] for column in Texts._fields]) for item in (before, after)]
        assert readings[0] != readings[1] or None in readings or readings[0] not in (member.size, resized.size)


def test_the_pattern_and_the_viewpoint_change_the_picture_but_not_the_text():
    for member in list(draw_members(MANY, SEED))[:50]:
        other = member._replace(pattern=next(pattern for pattern in PATTERNS if pattern != member.pattern))
        before, after = plan_item(member, SEED), plan_item(other, SEED)
        assert after.look != before.look
        assert [after.row[column] for column in Texts._fields] == [before.row[column] for column in Texts._fields]


def test_equal_looks_give_equal_pixels():
    assert np.array_equal(np.asarray(render(a_look(), SIDE)), np.asarray(render(a_look(), SIDE)))


@pytest.mark.parametrize("change", [{"pattern": "stripes"}, {"colour": "green"}, {"product": "teapot"}, {"seed": 1}])
def test_what_the_picture_shows_changes_the_picture(change):
    before, after = (np.asarray(render(a_look(**values), 64), dtype=int) for values in ({}, change))
    assert np.abs(before - after).max() > 50


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_product_fills_the_picture_and_shows_its_pattern(product):
    solid, dotted = (np.asarray(render(a_look(product, pattern), 64), dtype=int) for pattern in ("solid", "dots"))
    assert (np.abs(solid - dotted).max(axis=2) > 40).mean() > 0.04
    background = np.asarray(render(a_look(product), 64), dtype=int)[0, 0]
    assert (np.abs(solid - background).max(axis=2) > 40).mean() > 0.12


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_shares_and_differ_from_each_other(pattern):
    axis = (np.arange(64, dtype=np.float32) + 0.5) / 64
    u, v = np.meshgrid(axis, axis)
    shares = PATTERNS[pattern](u, v)
    assert shares.shape == u.shape
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert all(np.abs(shares - other(u, v)).mean() > 0.2 for name, other in PATTERNS.items() if name != pattern)


def test_impossible_requests_are_refused_all_at_once(tmp_path):
    with pytest.raises(InputError) as refused:
        synthesize(tmp_path / "x", items=1, seed=-1, image_size=2, workers=0, terminal=Terminal(quiet=True))
    assert len(refused.value.problems) == 4
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("names", [("thesis.txt",), ("catalog.yaml", "catalog.csv", "images/00.jpg")])
def test_a_folder_with_other_things_is_left_alone(tmp_path, names):
    """Point 19: also one that looks like a catalog of one's own."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("years of work")
    with pytest.raises(InputError, match="something that mlim did not make"):
        synthesize(tmp_path, ITEMS, SEED, SIDE, workers=1, terminal=Terminal(quiet=True))
    assert [(tmp_path / name).read_text() for name in names] == ["years of work"] * len(names)


def test_a_catalog_is_replaced_as_a_whole(catalog, tmp_path):
    out = tmp_path / "catalog"
    for items in (ITEMS, SMALLEST_FAMILY):
        synthesize(out, items, SEED, SIDE, workers=1, terminal=Terminal(quiet=True))
    assert len(list(out.rglob("*.jpg"))) == SMALLEST_FAMILY
    assert [path.name for path in tmp_path.iterdir()] == ["catalog"]


def test_a_document_keeps_everything_around_its_figures():
    assert with_block(f"before\n{BEGIN}\nold\n{END}\nafter\n", "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(InputError, match="lacks the line"):
        with_block(f"only {BEGIN}", "new")


def test_a_share_of_the_titles_names_the_pattern_and_nothing_else_changes(rows):
    plain = [read_pattern([row[column] for column in Texts._fields]) for row in rows]
    assert set(plain) == {None}
    named = [item.row for item in plan_items(MANY, SEED, named_pattern=0.3)]
    readings = [(row, read_pattern([row["title"]])) for row in named]
    assert {(row["pattern"], found) for row, found in readings if found} == {(name, name) for name in PATTERNS}
    assert sum(found is not None for _, found in readings) / MANY == pytest.approx(0.3, abs=0.05)
    assert [{**row, "title": ""} for row in named] == [{**row, "title": ""} for row in rows]
    assert measure_ceilings(named).text > measure_ceilings(rows).text + 0.05
    assert measure_ceilings(named).both == measure_ceilings(rows).both


def test_the_second_task_pairs_products_with_look_alikes(tmp_path):
    synthesize(tmp_path / "c", ITEMS, SEED, SIDE, workers=1, terminal=Terminal(quiet=True), task="product")
    description = load_description(tmp_path / "c" / "catalog.yaml")
    assert description.pairs.decided_by == description.pairs.negatives.same == ("product_type",)
    assert description.pairs.negatives.shares == {"family": 0, "text": 0.5, "image": 0.5, "random": 0}
    assert description.ceilings is None


def test_a_share_beyond_one_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"named pattern is 1\.5"):
        synthesize(tmp_path / "c", ITEMS, SEED, SIDE, workers=1, terminal=Terminal(quiet=True), named_pattern=1.5)
