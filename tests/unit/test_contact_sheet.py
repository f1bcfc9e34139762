"""The contact sheet: what it shows, that it shows it safely and small, and that equal catalogs give equal pages."""

import io
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlim.catalog.item import ITEM_SCHEMA, QUARANTINE_SCHEMA
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.files import read_json, sha256_of, write_json
from mlim.recipe.data import TextConfig
from mlim.report.contact.gather import gather
from mlim.report.contact.lines import describe, printable
from mlim.report.contact.measures import Codes, Measures, read_measures
from mlim.report.contact.numbers import family_chart
from mlim.report.contact.page import contact_sheet, write_page
from mlim.report.contact.problems import find_problems
from mlim.report.contact.reading import make_reader, texts_of
from mlim.report.contact.sampling import choose_families, sample_items
from mlim.report.contact.settings import ContactSettings, settings_for
from mlim.report.kit.charts import count_chart, histogram, share_bars
from mlim.report.kit.images import Thumbnails
from mlim.report.kit.words import clip_words, compare
from mlim.shards.shard import ShardEntry, read_shard, write_manifest, write_shard
from mlim.workspace import Workspace
from tests.outline import Outline
from tests.small_catalog import small_catalog

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x>"
RIGHT_TO_LEFT = "\u0642\u0645\u064a\u0635 \u0623\u062d\u0645\u0631"
EMOJI = "\U0001f455"
SETTINGS = ContactSettings()


def page_of(workspace, out, settings=SETTINGS, catalog=None):
    summary = contact_sheet(catalog, workspace, out, settings)
    return out.read_text(encoding="utf-8"), summary


def change_items(workspace, change):
    """Rewrite the shards and the index with `change` applied to every item."""
    entries, index = [], []
    for entry in read_json(workspace.items / "manifest.json"):
        path = workspace.items / entry["file"]
        items = [change(item) for item in read_shard(path).to_pylist()]
        path.unlink()
        write_shard(path, items)
        entries.append(ShardEntry(path.name, len(items), path.stat().st_size, sha256_of(path)))
        index += [{**item, "shard": path.name, "position": place} for place, item in enumerate(items)]
    write_manifest(workspace.items, entries)
    fields = [field for field in ITEM_SCHEMA if field.name != "image"]
    schema = pa.schema([*fields, pa.field("shard", pa.string()), pa.field("position", pa.int64())])
    pq.write_table(pa.Table.from_pylist(index, schema=schema), workspace.valid / "index.parquet")


def set_aside(workspace, rows, folder="items"):
    path = workspace.root / folder
    path.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA), path / "quarantine.parquet")
    summary = read_json(workspace.items / "summary.json")
    counts = {reason: sum(row["reason"] == reason for row in rows) for reason in {row["reason"] for row in rows}}
    summary |= {"rows_in": summary["ingested"] + len(rows), "quarantined": counts}
    write_json(path / "summary.json", summary)
    row_log = workspace.items / "ledger.parquet"
    lines = pq.read_table(row_log)
    added = [{key: row[key] for key in ("source", "row", "id", "reason")} for row in rows]
    pq.write_table(pa.concat_tables([lines, pa.Table.from_pylist(added, schema=lines.schema)]), row_log)


def aside(reason, number, thumbnail=None, **changes):
    detail = f"row {number} is bad: {HOSTILE}"
    row = {"source": "a.csv", "row": number, "id": f"bad-{number}", "stage": "ingest", "reason": reason}
    return {**row, "detail": detail, "thumbnail": thumbnail, **changes}


def jpeg(colour="red", size=(40, 60)):
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, "JPEG")
    return target.getvalue()


def test_the_page_needs_nothing_else_and_is_well_formed(tiny_workspace, tmp_path):
    page, summary = page_of(tiny_workspace, tmp_path / "sheet.html")
    outline = Outline(page)
    assert outline.addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in outline.addresses)
    assert not re.findall(r"url\(|@import|https?://", page)
    anchors = {address[1:] for address in outline.addresses if address.startswith("#")}
    assert anchors <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert summary["bytes"] == (tmp_path / "sheet.html").stat().st_size


def test_the_numbers_on_top_are_those_of_the_steps(tiny_workspace, tmp_path):
    words = Outline(page_of(tiny_workspace, tmp_path / "sheet.html")[0]).words
    assert "40 of 40 rows are ready to train on" in words
    assert "= 40 ingested + 0 quarantined" in words
    assert "10 with more than one item" in words
    assert "Pairs to train 36 33.3 % match" in words
    assert "Nothing stands out" in words


def test_hostile_texts_are_shown_and_not_run(own_workspace, tmp_path):
    strange = f"{HOSTILE} {RIGHT_TO_LEFT} {EMOJI}"
    facts = json.dumps({"pattern": HOSTILE})
    change_items(own_workspace, lambda item: {**item, "text": strange, "category": HOSTILE, "facts": facts})
    set_aside(own_workspace, [aside(f"reason {HOSTILE}", 1, source=HOSTILE), aside("other", 2)])
    outline = Outline(page_of(own_workspace, tmp_path / "sheet.html")[0])
    assert "script" not in outline.tags
    assert outline.words.count(HOSTILE) > 40
    assert RIGHT_TO_LEFT in outline.words
    assert EMOJI in outline.words
    assert not [address for address in outline.addresses if "evil" in address]


def test_equal_catalogs_give_equal_pages_and_another_seed_another_sample(tiny_workspace, tmp_path):
    settings = ContactSettings(items=10)
    first, _ = page_of(tiny_workspace, tmp_path / "a.html", settings)
    again, _ = page_of(tiny_workspace, tmp_path / "b.html", settings)
    other, _ = page_of(tiny_workspace, tmp_path / "c.html", ContactSettings(items=10, seed=1))
    assert first == again
    assert first != other


def test_pictures_stay_within_their_budget_and_the_page_says_what_is_missing(tiny_workspace, tmp_path):
    _, whole = page_of(tiny_workspace, tmp_path / "whole.html")
    page, summary = page_of(tiny_workspace, tmp_path / "small.html", ContactSettings(max_megabytes=0.01))
    assert whole["pictures_left_out"] == 0
    assert summary["pictures_left_out"] > 0
    assert len("".join(re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page))) <= 10_000
    assert f"{summary['pictures_left_out']} pictures were left out" in Outline(page).words


def test_pictures_on_the_page_have_the_proportions_of_their_source():
    made = Thumbnails(32, 72, 7.0).uri(jpeg(size=(64, 64)), 1000, 2000)
    import base64

    with Image.open(io.BytesIO(base64.b64decode(made.partition(",")[2]))) as picture:
        assert picture.size == (16, 32)


@pytest.mark.parametrize("broken", [b"", b"no jpeg", jpeg()[:200], None])
def test_a_picture_that_cannot_be_opened_is_no_picture(broken):
    assert Thumbnails(128, 72, 7.0).uri(broken, 10, 10) is None


def test_quarantined_rows_stand_by_reason_with_where_they_are_and_why(own_workspace, tmp_path):
    rows = [aside("missing-image", number) for number in range(1, 31)]
    rows += [aside("no-text", 31, jpeg(), source="b.csv")]
    set_aside(own_workspace, rows)
    settings = ContactSettings(rows_per_reason=4)
    look = gather(None, own_workspace, settings)
    assert [(each.reason, each.count, len(each.examples)) for each in look.reasons] == [
        ("missing-image", 30, 4),
        ("no-text", 1, 1),
    ]
    page, _ = page_of(own_workspace, tmp_path / "sheet.html", settings)
    words = Outline(page).words
    assert "b.csv, row 31" in words
    assert "missing-image ingest 30" in words
    assert "30 rows (42.3 %) quarantined: missing-image." in words
    assert "Files with most of these rows" in words


def test_rows_that_vanished_are_the_worst_problem(own_workspace):
    summary = read_json(own_workspace.items / "summary.json")
    write_json(own_workspace.items / "summary.json", {**summary, "rows_in": 43})
    worst = find_problems(gather(None, own_workspace, SETTINGS))[0]
    assert worst.tone == "bad"
    assert "43 came in, 40 were ingested, 0 quarantined" in worst.sentence


def test_a_refused_ingest_is_reported_first_and_its_rows_are_shown(own_workspace, tmp_path):
    set_aside(own_workspace, [aside("not-an-image", 7, jpeg())], folder="items.refused")
    page, _ = page_of(own_workspace, tmp_path / "sheet.html")
    words = Outline(page).words
    assert "Ingest rejected this catalog" in words
    assert "a.csv, row 7" in words


def test_refused_validation_shows_what_failed_and_the_ingested_items(own_workspace, tmp_path):
    failed = {"suite": "items", "expectation": "expect_table_row_count_to_be_between", "column": None}
    passed = {"suite": "items", "expectation": "expect_fine", "column": "id", "success": True, "unexpected": 0}
    expectations = [{**failed, "success": False, "unexpected": 1, "observed": 3}, passed]
    summary = read_json(own_workspace.valid / "summary.json")
    complaint = "the table has 3 rows; deliver it again"
    refused = {**summary, "accepted": 0, "success": False, "expectations": expectations, "complaints": [complaint]}
    write_json(own_workspace.valid / "summary.json", refused)
    (own_workspace.valid / "index.parquet").unlink()
    shutil.rmtree(own_workspace.pairs)
    page, _ = page_of(own_workspace, tmp_path / "sheet.html")
    words = Outline(page).words
    assert "Validation rejected this catalog" in words
    assert "Expectations that were not met" in words
    assert words.count("expect_table_row_count_to_be_between") == 1
    assert "Validation: the table has 3 rows; deliver it again" in words
    assert "expect_fine" not in words
    assert "40 of 40 ingested items" in words


def test_what_a_person_overruled_is_reported_with_who_and_why(own_workspace, tmp_path):
    summary = read_json(own_workspace.valid / "summary.json")
    acceptance = {"by": "Ada", "why": f"sale {HOSTILE}", "accepted": ["brightness moved"]}
    measure = {"measure": "brightness", "excess": 0.31, "jensen_shannon": 0.32, "stability_index": 0.4, "chance": 0.01}
    overruled = {"acceptance": acceptance, "complaints": ["brightness moved"], "drift": {"divergences": [measure]}}
    write_json(own_workspace.valid / "summary.json", {**summary, **overruled})
    words = Outline(page_of(own_workspace, tmp_path / "sheet.html")[0]).words
    assert "Validation, overruled by a person: brightness moved" in words
    assert re.search(r"Overruled by\s+Ada\s+:\s+sale <script>", words)
    assert re.search(r"brightness\s+0.310\s+0.320\s+0.400", words)


def test_validation_of_older_items_is_left_out_and_reported(own_workspace, tmp_path):
    summary = read_json(own_workspace.valid / "summary.json")
    write_json(own_workspace.valid / "summary.json", {**summary, "data_version": "of yesterday"})
    look = gather(None, own_workspace, SETTINGS)
    assert look.validation is None
    assert look.pairs is None
    assert not look.measures.accepted
    assert "run `mlim validate` and `mlim pairs` again" in find_problems(look)[0].sentence
    now = read_json(own_workspace.items / "summary.json")["data_version"]
    write_json(own_workspace.valid / "summary.json", {**summary, "data_version": now})
    assert gather(None, own_workspace, SETTINGS).measures.accepted


def test_the_link_to_data_docs_leads_there_from_the_page(own_workspace, tmp_path):
    docs = own_workspace.valid / "data_docs" / "index.html"
    docs.parent.mkdir()
    docs.write_text("docs")
    out = own_workspace.root / "contact" / "sheet.html"
    page, _ = page_of(own_workspace, out)
    (address,) = {address for address in Outline(page).addresses if "data_docs" in address}
    assert address == "../valid/data_docs/index.html"
    assert (out.parent / address).read_text() == "docs"


def test_pairs_stand_by_kind_with_differing_words_marked(tiny_workspace, tmp_path):
    look = gather(None, tiny_workspace, ContactSettings(pairs_per_kind=3))
    assert [(kind.name, kind.match, kind.total, len(kind.examples)) for kind in look.pairs.kinds] == [
        ("pattern differs", False, 40, 3),
        ("same pattern", True, 20, 3),
    ]
    page, _ = page_of(tiny_workspace, tmp_path / "sheet.html")
    marked = set(re.findall(r"<mark>([^<]+)</mark>", page))
    assert marked <= {"red", "green", "blue", "yellow"}
    assert marked


def test_the_leak_audit_is_shown_best_rule_first_with_fields_it_does_not_know(own_workspace, tmp_path):
    path = own_workspace.pairs / "summary.json"
    audit = [
        {"rule": "text is equal", "pr_auc": 0.41, "leaks": False},
        {"rule": "boosted trees", "pr_auc": 0.98765, "leaks": True, "family": "model", "features": ["a", "b"]},
        {"rule": "not scored", "pr_auc": None, "leaks": False},
    ]
    write_json(path, {**read_json(path), "leak_audit": audit})
    words = Outline(page_of(own_workspace, tmp_path / "sheet.html")[0]).words
    assert words.index("boosted trees (family model") < words.index("text is equal") < words.index("not scored")
    assert "The pairs leak: the rule \u201cboosted trees\u201d alone reaches PR-AUC 0.988." in words


def test_families_of_one_item_are_reported_in_the_singular(own_workspace):
    assert family_chart(gather(None, own_workspace, SETTINGS)).note == "largest: 4 items"
    change_items(own_workspace, lambda item: {**item, "family": item["id"]})
    assert family_chart(gather(None, own_workspace, SETTINGS)).note == "largest: 1 item"


def test_pictures_that_cost_no_item_are_counted(own_workspace):
    """Point 9: of several pictures of a row, those that cannot be used are shown."""
    summary = read_json(own_workspace.items / "summary.json")
    pictures = {"rows_with_several": 9, "beyond_most": 0, "unusable": {"not-an-image": 2, "missing-image": 3}}
    write_json(own_workspace.items / "summary.json", {**summary, "pictures": pictures})
    lines = [problem.sentence for problem in find_problems(gather(None, own_workspace, SETTINGS))]
    sentence = "5 pictures of rows that list several cannot be used: missing-image 3, not-an-image 2."
    assert sentence in lines


def test_items_that_are_out_of_the_ordinary_are_counted(own_workspace):
    def change(item):
        odd = item["id"] in ("item-000", "item-001", "item-002")
        strange = {"image_contrast": 0.0, "text": "red", "image_width": 900, "image_height": 100, "family": None}
        return {**item, **strange, "image_sha256": "f" * 64} if odd else item

    change_items(own_workspace, change)
    lines = {problem.sentence for problem in find_problems(gather(None, own_workspace, SETTINGS))}
    assert lines == {
        "3 items (7.5 %) with a picture that another item has too, byte for byte.",
        "3 items (7.5 %) with a picture that looks blank.",
        "3 items (7.5 %) with a picture more than 3 times as long as wide.",
        "3 items (7.5 %) with a text under 10 characters.",
        "3 items (7.5 %) without a family: they are in no pair.",
    }


def test_items_newer_than_validation_are_one_clear_error(own_workspace):
    entry = read_json(own_workspace.items / "manifest.json")[0]["file"]
    items = read_shard(own_workspace.items / entry).to_pylist()
    (own_workspace.items / entry).unlink()
    write_shard(own_workspace.items / entry, items[:2])
    with pytest.raises(InputError, match="run `mlim validate` again"):
        gather(None, own_workspace, SETTINGS)
    write_shard(own_workspace.items / entry, items[::-1])
    with pytest.raises(InputError, match="run `mlim validate` again"):
        gather(None, own_workspace, SETTINGS)


def test_an_empty_work_folder_without_a_catalog_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="name a catalog, or run `mlim ingest` first"):
        gather(None, Workspace(tmp_path), SETTINGS)


def test_before_validation_the_ingested_items_are_shown(own_workspace, tmp_path):
    shutil.rmtree(own_workspace.valid)
    shutil.rmtree(own_workspace.pairs)
    words = Outline(page_of(own_workspace, tmp_path / "sheet.html")[0]).words
    assert "40 of 40 rows became items" in words
    assert "40 of 40 ingested items" in words


def test_what_no_step_has_looked_at_is_not_called_good(own_workspace, tmp_path):
    def said():
        return Outline(page_of(own_workspace, tmp_path / "sheet.html")[0]).words

    assert "Nothing stands out" in said()
    assert "ot checked yet" not in said()
    shutil.rmtree(own_workspace.pairs)
    assert "Not checked yet whether the pairs are balanced and leak nothing (`mlim pairs`)." in said()
    shutil.rmtree(own_workspace.valid)
    assert "40 of 40 rows became items, not checked yet" in said()
    assert "whether the items meet the expectations (`mlim validate`); whether the pairs" in said()
    assert "Nothing stands out" not in said()
    assert "not checked yet: whether the items meet the expectations (`mlim validate`)" in list(
        describe(gather(None, own_workspace, SETTINGS))
    )


def test_the_share_of_the_rows_in_pairs_is_shown(own_workspace, tmp_path):
    assert "Rows in pairs 100.0 % 40 of 40 rows" in Outline(page_of(own_workspace, tmp_path / "sheet.html")[0]).words
    path = own_workspace.pairs / "pairs.parquet"
    table = pq.read_table(path).slice(0, 6)  # all of one family of four
    pq.write_table(table, tmp_path / "pairs.parquet")
    shutil.move(tmp_path / "pairs.parquet", path)
    page = Outline(page_of(own_workspace, tmp_path / "sheet.html")[0]).words
    assert "Rows in pairs 10.0 % 4 of 40 rows" in page
    assert "Only 4 rows (10.0 %) are in pairs." in page


def test_texts_that_say_what_decides_pairs_are_counted(tmp_path, tiny_workspace):
    shop = small_catalog(tmp_path / "shop")
    for number, row in enumerate(shop.rows):
        row["pattern"] = ("Dots", "Stripes")[number % 2]
        row["title"] = ("cup with DOTS, red", "cup without dotsy stripesx")[number % 2] if number < 4 else "cup"
    look = gather(shop.write(), tiny_workspace, SETTINGS)
    (leaked,) = look.source.leaked
    assert (leaked.name, leaked.told, leaked.leaking, dict(leaked.words)) == ("pattern", 6, 2, {"dots": 2})
    (sentence,) = [problem.sentence for problem in find_problems(look) if "`pattern`" in problem.sentence]
    assert "say their own `pattern`, which decides pairs, in the text that the model reads: dots (2)." in sentence


def test_texts_are_shown_as_far_as_the_model_reads_them(own_workspace, tmp_path):
    texts = texts_of(own_workspace)
    assert len(texts) == 40
    reader = make_reader(texts, TextConfig(max_tokens=4), lambda them: TextTokenizer.learn(them, 200))
    assert reader.read("kind: scarf, colour: blue") == ("kind: scarf,", " colour: blue")
    assert reader.read("kind: scarf") == ("kind: scarf", "")
    write_page(gather(None, own_workspace, SETTINGS), tmp_path / "sheet.html", reader)
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "The text is what the model reads: 4 tokens, what is beyond them is struck" in page
    assert re.search(r'<p class="words" dir="auto">kind: \w+,<s> colour: \w+</s></p>', page)
    assert "<mark>" not in page.partition('id="pairs"')[2].partition("</section>")[0]  # they differ beyond what is read


def test_the_terminal_tells_the_same_numbers(own_workspace):
    set_aside(own_workspace, [aside("missing-image", 1), aside("no-text\x1b[2J", 2)])
    lines = list(describe(gather(None, own_workspace, SETTINGS)))
    assert lines[0].startswith("ingest: 42 rows in = 40 ingested + 2 quarantined (missing-image 1, no-text")
    assert lines[1] == "validate: 40 of 40 items accepted"
    assert lines[2].startswith("pairs: 60 of 40 items: train 12 match, 24 mismatch; ")
    assert "      40 mismatch: pattern differs" in lines
    assert not [line for line in lines if "\x1b" in line]


def test_texts_that_are_cut_stand_among_the_numbers_and_the_problems(own_workspace, tmp_path):
    """Point 4: the contact sheet says what text.max_tokens leaves out, as validation measured it."""
    path = own_workspace.valid / "summary.json"
    tokens = {"texts": 40, "max_tokens": 5, "texts_cut": 0.75, "tokens_cut": 0.4, "max_tokens_for_95_percent": 9}
    write_json(path, {**read_json(path), "tokens": tokens})
    page, _ = page_of(own_workspace, tmp_path / "sheet.html")
    assert "Tokens left out" in page
    assert "75.0 % of the texts are cut at 5" in page
    assert "text.max_tokens=9 keeps 95 %" in page
    lines = "\n".join(describe(gather(None, own_workspace, SETTINGS)))
    assert "texts: text.max_tokens 5 cuts 75.0% of the texts and leaves out 40.0% of their tokens" in lines


def test_a_work_folder_of_another_catalog_is_reported(tmp_path, tiny_workspace):
    worst = find_problems(gather(small_catalog(tmp_path / "mine").write(), tiny_workspace, SETTINGS))[0]
    assert "came from another catalog, tiny" in worst.sentence


def measures(categories, families=()):
    count = len(categories)
    names = tuple(sorted({*categories} - {None}))
    codes = np.array([-1 if each is None else names.index(each) for each in categories], dtype=np.int32)
    family_names = tuple(sorted({*families}))
    family_codes = np.array([family_names.index(each) for each in families] or [-1] * count, dtype=np.int32)
    numbers = {"characters": np.int64, "picture": np.uint64, "width": np.int32, "height": np.int32}
    zeros = {name: np.zeros(count, dtype=kind) for name, kind in numbers.items()}
    levels = {name: np.zeros(count, dtype=np.float32) for name in ("brightness", "contrast")}
    shard = Codes(np.zeros(count, dtype=np.int32), ("part-00000.arrow",))
    family = Codes(family_codes, family_names)
    return Measures(True, shard, np.arange(count), family, Codes(codes, names), **zeros, **levels)


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=200), st.integers(1, 60), st.integers(0, 5))
def test_a_sample_is_even_over_categories(categories, count, seed):
    chosen = sample_items(measures(categories), count, seed)
    assert len(chosen) == len(set(chosen)) == min(count, len(categories))
    assert chosen == sorted(chosen)
    taken = {name: sum(categories[item] == name for item in chosen) for name in set(categories)}
    most = max(taken.values(), default=0)
    assert all(number >= min(most - 1, categories.count(name)) for name, number in taken.items())


@given(st.integers(1, 40), st.integers(41, 2000), st.integers(0, 5))
def test_a_sample_is_spread_over_the_whole_catalog(count, total, seed):
    chosen = np.array(sample_items(measures(["a"] * total), count, seed))
    longest = -(-total // count)
    assert chosen[0] < longest
    assert chosen[-1] >= total - longest
    assert (np.diff(chosen) < 2 * longest).all()


@given(st.lists(st.integers(0, 12), min_size=1, max_size=120))
def test_the_largest_families_are_shown_and_none_of_a_single_item(families):
    names = [f"f{number:02d}" for number in families]
    settings = ContactSettings(largest_families=2, random_families=3, family_members=4)
    chosen = choose_families(measures(["a"] * len(names), names), settings)
    sizes = sorted((names.count(name) for name in set(names)), reverse=True)
    assert [choice.size for choice in chosen[:2]] == [size for size in sizes[:2] if size > 1]
    assert len({choice.name for choice in chosen}) == len(chosen) <= 5
    for choice in chosen:
        assert choice.size == names.count(choice.name) > 1
        assert len(choice.members) == min(4, choice.size)
        assert all(names[item] == choice.name for item in choice.members)


@given(st.lists(st.floats(-1e6, 1e6) | st.integers(0, 100), min_size=1, max_size=300), st.integers(0, 2))
def test_a_histogram_counts_every_value_once(values, decimals):
    chart = histogram("t", np.array(values, dtype=np.float64), decimals=decimals)
    assert sum(int(bar.value.replace(",", "")) for bar in chart.bars) == len(values)
    assert max(bar.share for bar in chart.bars) == 1
    assert len(chart.bars) <= 26


def test_equal_values_are_reported_in_words():
    chart = histogram("t", np.array([171, 171]), " pixels")
    assert chart.note == "the same for all: 171 pixels"
    assert len(chart.bars) == 1


def test_the_recipe_limits_what_is_opened(tiny_recipe):
    settings = settings_for(tiny_recipe.ingest, items=3)
    assert settings.items == 3
    assert settings.formats == tiny_recipe.ingest.formats
    assert settings.max_megapixels == tiny_recipe.ingest.max_megapixels


def test_charts_without_values_are_none():
    assert histogram("t", np.empty(0)) is None
    assert count_chart("t", np.empty(0, dtype=np.int64), 5) is None


def test_large_families_share_the_last_bar():
    chart = count_chart("t", np.array([1, 1, 2, 7, 90]), 4)
    assert [(bar.label, bar.value) for bar in chart.bars] == [("1", "2"), ("2", "1"), ("3", "0"), ("4+", "2")]


def test_rare_categories_share_a_bar():
    bars = share_bars({"a": 50, "b": 30, "c": 15, "d": 5}, 2, "{} more")
    assert [(bar.label, bar.value, bar.note) for bar in bars] == [
        ("a", "50", "50.0 %"),
        ("b", "30", "30.0 %"),
        ("2 more", "20", "20.0 %"),
    ]


def test_a_share_that_would_be_rounded_to_nothing_is_not_called_nothing():
    bars = share_bars({"most": 9_999, "one": 1}, 2, "{} more")
    assert [bar.note for bar in bars] == ["100.0 %", "< 0.1 %"]


@given(st.text(max_size=60), st.text(max_size=60))
def test_marked_texts_say_the_same_as_the_texts(first, second):
    left, right = compare(first, second)
    assert "".join(each.text for each in left) == first
    assert "".join(each.text for each in right) == second


@given(st.text(alphabet="ab ,", max_size=30))
def test_equal_texts_have_no_marks(text):
    assert not any(each.differs for side in compare(text, text.upper()) for each in side)


@given(st.text(max_size=60), st.integers(1, 70))
def test_marked_texts_are_cut_like_others(text, characters):
    cut = "".join(each.text for each in clip_words(compare(text, "a b")[0], characters))
    assert cut == text if len(text) <= characters else cut.endswith("\u2026")
    assert text.startswith(cut.removesuffix("\u2026"))
    assert len(cut) <= characters + 1


def test_a_word_is_not_marked_because_the_other_text_is_cut_before_it(own_workspace, tmp_path):
    change_items(own_workspace, lambda item: {**item, "text": "x" * (int(item["id"][-2:]) % 4) + " one two three"})
    page, _ = page_of(own_workspace, tmp_path / "sheet.html", ContactSettings(characters=10))
    assert {mark.strip() for mark in re.findall(r"<mark>([^<]+)</mark>", page)} == {"x", "xx", "xxx"}


def test_only_the_words_that_differ_are_marked():
    left, right = compare("red shirt; colour: dark red; cotton, M", "M Shirt; colour: blue, red; cotton")
    assert [each.text for each in left if each.differs] == ["dark", "red"]  # the second red, and no M
    assert [each.text for each in right if each.differs] == ["blue"]


@given(st.text())
def test_what_goes_to_the_terminal_cannot_steer_it(text):
    assert all(letter.isprintable() or letter == "\u200d" for letter in printable(text))


def test_measures_are_the_same_from_shards_and_from_the_index(own_workspace):
    from_index = read_measures(own_workspace)
    shutil.rmtree(own_workspace.valid)
    from_shards = read_measures(own_workspace)
    assert from_index.accepted
    assert not from_shards.accepted
    assert from_index.category.counts() == from_shards.category.counts() == dict.fromkeys(from_index.category.names, 8)
    assert from_index.places(range(40)) == from_shards.places(range(40))
    assert (from_index.characters == from_shards.characters).all()
    assert (from_index.picture == from_shards.picture).all()
