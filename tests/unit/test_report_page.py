"""The page: safe with hostile texts, complete alone, equal for equal results, possible with results missing."""

import re
import shutil
from html.parser import HTMLParser

import pytest
from report_results import HOSTILE_TEXT, MAIN_SCORE, fill, write_hostile_text

from mlim.errors import InputError
from mlim.files import read_json, write_json
from mlim.report import formats
from mlim.report.gather import gather
from mlim.report.page import render
from mlim.report.scores import BASELINE_LABELS
from mlim.report.sections import results_section
from mlim.report.tables import leaks_table, short_table
from mlim.report.verdicts import verdicts
from mlim.workspace import Workspace

LINEAGE = {"commit": "0123abc", "dirty": False, "data_version": "feed", "validation": "passed"}
VOID = {"meta", "img", "br"}


@pytest.fixture
def filled(own_workspace, tiny_recipe):
    fill(own_workspace, tiny_recipe)
    return own_workspace


@pytest.fixture(scope="module")
def complete(tiny_workspace, tiny_recipe, tmp_path_factory):
    """A work folder with every result and a script in a text, and its page; read-only by agreement."""
    workspace = Workspace(tmp_path_factory.mktemp("complete") / "work")
    shutil.copytree(tiny_workspace.root, workspace.root)
    fill(workspace, tiny_recipe)
    write_hostile_text(workspace)
    return workspace, page_of(tiny_recipe, workspace)


@pytest.fixture(scope="module")
def outline(complete):
    return Outline(complete[1])


def page_of(recipe, workspace):
    return render(recipe, gather(recipe, workspace), workspace, LINEAGE)


class Outline(HTMLParser):
    """Counts tags, checks their nesting, keeps addresses, ids and text outside style."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.addresses, self.ids, self.text = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_the_page_is_well_formed_and_needs_nothing_else(outline):
    assert not outline.open
    assert all(address.startswith(("data:image/", "#")) for address in outline.addresses)
    assert len(outline.ids) == len(set(outline.ids))
    anchors = {address[1:] for address in outline.addresses if address.startswith("#")}
    assert anchors <= set(outline.ids)


def test_hostile_texts_are_shown_and_not_run(outline):
    assert "script" not in outline.tags
    assert outline.words.count(HOSTILE_TEXT) >= 2  # an item's text and a quarantined row


def test_equal_results_give_equal_bytes(complete, tiny_recipe, tmp_path):
    workspace, page = complete
    copy = Workspace(tmp_path / "elsewhere")
    shutil.copytree(workspace.root, copy.root)
    assert page_of(tiny_recipe, copy) == page


@pytest.mark.parametrize(
    "words",
    [
        "Pre-training helps in these runs.",
        "Gradient-boosted trees on simple features win",
        "Table 1: modality dropout",
        "Table 2: losses and masking",
        "private data set",
        "Examples of quarantined rows",
        "expect_column_values_to_be_unique",
        "Leak audit",
        "by masking mode",
        "Precision against recall on the test pairs",
        "Wrong with the greatest certainty",
        "Right, but only just",
        "Precision against recall by row",
        "The paper's claims",
        "How large the effects are",
        "What is not shown",
        "Figure 2a",
        "Figure 2b",
        "Reconstructions of test items",
        "run-evaluate",
        "0123abc",
        "The whole recipe",
    ],
)
def test_every_part_is_there(outline, words):
    assert words in outline.words


def test_the_bar_stands_beside_the_model_the_best_way_first(filled, tiny_recipe):
    table = leaks_table(tiny_recipe, gather(tiny_recipe, filled))
    assert [row[:2] for row in table.rows] == [
        (tiny_recipe.main_row.label, "0.822"),
        ("chance: the share of matches", "0.333"),
        ("bag of words", "0.710"),
        ("text is equal", "0.680"),
    ]
    shutil.rmtree(filled.evaluation)
    assert leaks_table(tiny_recipe, gather(tiny_recipe, filled)).rows == table.rows[1:]


def test_a_page_is_possible_whatever_is_missing(filled, tiny_recipe):
    """Folders go one after the other, those of the first steps first: later results never need them."""
    for name in ("items/quarantine.parquet", "valid", "pairs", "pretrain", "evaluation"):
        path = filled.root / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
        assert gather(tiny_recipe, filled)
    outline = Outline(page_of(tiny_recipe, filled))
    assert not outline.open
    assert "run `mlim validate` and `mlim pairs`" in outline.words
    assert "Boosted trees were not run" in outline.words


def test_nothing_but_items_says_what_to_run(own_workspace, tiny_recipe):
    words = Outline(page_of(tiny_recipe, own_workspace)).words
    assert "No model has been judged yet" in words
    for command in ("`mlim evaluate`", "`mlim probe`", "`mlim pretrain`"):
        assert command in words


def test_sheets_of_the_probe_are_shown_with_what_they_show(filled, tiny_recipe):
    titles = {
        "neighbours": "Nearest neighbours of test items",
        "attention": "Where a hidden word and a hidden cell look",
    }
    before = page_of(tiny_recipe, filled)
    assert not any(f'alt="{title}"' in before for title in titles.values())
    sheet = (filled.probe / "reconstructions.png").read_bytes()
    for name in titles:
        (filled.probe / f"{name}.png").write_bytes(sheet)
    share = {"same_family": 0.25, "by_chance": 0.031, "items": 8, "with_random_weights": 0.5}
    write_json(filled.probe / "summary.json", {**read_json(filled.probe / "summary.json"), "neighbours": share})
    page = page_of(tiny_recipe, filled)
    assert all(f'alt="{title}"' in page for title in titles.values())
    words = Outline(page).words
    assert "of the same family for 25.0 % of 8 test items, by chance for 3.1 %" in words
    assert "Last block, mean over heads" in words


def test_neighbours_without_families_have_no_share(filled, tiny_recipe):
    shutil.copy(filled.probe / "reconstructions.png", filled.probe / "neighbours.png")
    share = {"same_family": None, "by_chance": None, "items": 0, "with_random_weights": None}
    write_json(filled.probe / "summary.json", {**read_json(filled.probe / "summary.json"), "neighbours": share})
    words = Outline(page_of(tiny_recipe, filled)).words
    assert "variations of the same product" in words
    assert "by chance for" not in words


def test_rows_that_were_not_run_are_named(filled, tiny_recipe):
    table = (filled.ablation / "table.csv").read_text().splitlines()
    (filled.ablation / "table.csv").write_text("\n".join(line for line in table if not line.startswith("no-mdo,")))
    section = results_section(tiny_recipe, gather(tiny_recipe, filled))
    assert section.missing == f"Not run yet: {tiny_recipe.rows['no-mdo'].label}."


def test_a_broken_result_is_named_in_one_sentence(filled, tiny_recipe):
    (filled.ablation / "table.csv").write_text("")
    with pytest.raises(InputError, match=r"table\.csv: cannot be read"):
        gather(tiny_recipe, filled)


@pytest.mark.parametrize(
    ("score", "sentence"),
    [
        (MAIN_SCORE - 0.05, "Pre-training helps in these runs."),
        (MAIN_SCORE + 0.05, "Pre-training does harm in these runs."),
        (MAIN_SCORE - 0.001, "These runs cannot tell whether pre-training helps"),
    ],
)
def test_the_headline_follows_the_numbers(own_workspace, tiny_recipe, score, sentence):
    fill(own_workspace, tiny_recipe, {"no-pretraining": score})
    first, second = verdicts(tiny_recipe, gather(tiny_recipe, own_workspace))
    assert first.sentence.startswith(sentence)
    assert "0.669" in first.detail
    claim = next(each for each in gather(tiny_recipe, own_workspace).claims if each.claim.key == "pretraining")
    measured = claim.weakest
    assert formats.signed_interval(measured.value, measured.low, measured.high) in first.detail
    assert "win" in second.sentence


def test_without_scores_the_headline_follows_the_table_of_ablate(own_workspace, tiny_recipe):
    fill(own_workspace, tiny_recipe, {"no-pretraining": MAIN_SCORE - 0.05})
    (own_workspace.pairs / "pairs.parquet").unlink()
    first, _ = verdicts(tiny_recipe, gather(tiny_recipe, own_workspace))
    assert first.sentence == "Pre-training helps in these runs."
    assert formats.signed(0.05) in first.detail


def test_the_short_table_lists_rows_then_baselines(filled, tiny_recipe):
    header, *rows = short_table(filled)
    assert header[:2] == ("row", "PR-AUC")
    assert len(rows) == len(tiny_recipe.rows) + 3
    assert rows[0][1:3] == ("0.822", "[0.804, 0.840]")
    assert {len(row) for row in rows} == {len(header)}


def test_every_baseline_has_a_label():
    from mlim.evaluation.baselines import BASELINES

    assert set(BASELINE_LABELS) == set(BASELINES)


def test_the_short_table_of_an_untrained_folder_is_a_header(own_workspace):
    assert len(short_table(own_workspace)) == 1
