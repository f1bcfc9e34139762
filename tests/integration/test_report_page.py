"""The page: safe with hostile texts, complete alone, equal for equal results, possible with results missing."""

import shutil
from dataclasses import replace

import pytest
from report_results import HOSTILE_TEXT, MAIN_SCORE, fill, write_hostile_text

from mlim.errors import InputError
from mlim.evaluation.label_curve import LabelPoint
from mlim.evaluation.pr_auc import Difference, Interval
from mlim.files import read_json, write_csv, write_json
from mlim.recipe import GateConfig
from mlim.report.gather import ablation_table
from mlim.report.kit import formats
from mlim.report.page import render
from mlim.report.pipeline_page import Links, pipeline_page
from mlim.report.scores import BASELINE_LABELS
from mlim.report.sections import results_section
from mlim.report.tables import OVERALL, leaks_table, references_table, short_table
from mlim.report.usable import usable_verdict
from mlim.report.verdicts import verdicts
from mlim.steps.gathered import gather, reported
from mlim.training import baselines
from mlim.workspace import Workspace
from tests.outline import Outline

pytestmark = pytest.mark.integration

LINEAGE = {"commit": "0123abc", "dirty": False, "data_version": "feed", "validation": "passed"}
ORDER_COUNTS = {
    **{"pairs": 200, "swap_difference": 0.02, "items": 150, "identical_right": 0.98},
    **{"matches": 120, "matching": 0.8, "unrelated": {"image": 0.4, "text": 0.7}},
}


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
    return render(reported(recipe), gather(recipe, workspace), workspace, LINEAGE)


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
        "Can you use this? Yes: no check has an objection.",
        "88.0 % of the pairs that it calls a match are matches (precision), and it finds 54.0 % of all matches",
        "Errors by kind of variation",
        "How the model behaves has not been tested yet: run `mlim register`.",
        "Pre-training helps in these runs.",
        "Gradient-boosted trees on simple features win",
        "Table 1: modality dropout",
        "Table 2: losses and masking",
        "private data set",
        "Examples of quarantined rows",
        "expect_column_values_to_be_unique",
        "Leak audit",
        "by masking mode",
        "validation losses beside simple baselines",
        "Not every pre-training beats the simple baselines.",
        "RECON is no better than a picture shrunk.",
        "Precision against recall on the test pairs",
        "Wrong with the greatest certainty",
        "Right, but only just",
        "Precision against recall by variant",
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


def test_the_head_says_what_stands_against_the_model(filled, tiny_recipe):
    """By the evaluation, and by the tests of a registration of this very evaluation."""
    strict = tiny_recipe.model_copy(update={"gate": GateConfig()})
    summary = filled.evaluation / "summary.json"
    metrics = read_json(summary)
    trees = {"value": 0.95, "difference_to_registered": {"value": 0.04, "low": 0.02, "high": 0.06, "p_value": 0.002}}
    metrics["registered"]["baselines"]["boosted-trees"] = trees
    write_json(summary, {**metrics, "threshold_rule": "best-f1", "target_precision": 0.9})
    cautious = usable_verdict(tiny_recipe, gather(tiny_recipe, filled))
    assert (cautious.tone, "Only where a person checks" in cautious.sentence) == ("open", True)
    assert "No threshold reaches the precision of 90.0 %" in cautious.detail
    assert usable_verdict(strict, gather(strict, filled)).sentence.endswith("Not yet: one reason stands against it.")
    write_json(filled.registration / "summary.json", {"evaluation": "run-evaluate", "behaviour": ORDER_COUNTS})
    words = Outline(page_of(strict, filled)).words
    assert "Not yet: 2 reasons stand against it." in words
    assert "Baseline `boosted-trees` is better" in words
    assert "The order of the items counts" in words
    assert words.index("What stands against it") < words.index("Errors by kind of variation") < words.index("Table 1")
    write_json(filled.registration / "summary.json", {"evaluation": "an-earlier-run", "behaviour": ORDER_COUNTS})
    assert "The order of the items counts" not in page_of(strict, filled)


def test_the_bar_stands_beside_the_model_the_best_way_first(filled, tiny_recipe):
    table = leaks_table(tiny_recipe, gather(tiny_recipe, filled))
    assert [row[:2] for row in table.rows] == [
        (tiny_recipe.main_variant.label, "0.822"),
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
        "attention": "Attention of a masked word and a masked patch",
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


def test_variants_that_were_not_run_are_named(filled, tiny_recipe):
    table = (filled.ablation / "table.csv").read_text().splitlines()
    (filled.ablation / "table.csv").write_text("\n".join(line for line in table if not line.startswith("no-mdo,")))
    section = results_section(tiny_recipe, gather(tiny_recipe, filled))
    assert section.missing == f"Not run yet: {tiny_recipe.variants['no-mdo'].label}."


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


@pytest.mark.parametrize(
    ("alone", "sentence"),
    [
        (False, "Pre-training does harm in these runs."),
        (True, "Whether pre-training helps is not known: no variant with it was run."),
    ],
)
def test_the_headline_of_a_main_variant_without_pretraining(own_workspace, tiny_recipe, alone, sentence):
    main = "no-pretraining"
    variants = {main: tiny_recipe.variants[main]} if alone else tiny_recipe.variants
    recipe = tiny_recipe.model_copy(update={"main": main, "variants": variants})
    fill(own_workspace, recipe, {main: MAIN_SCORE, "recon-mlm-mam": MAIN_SCORE - 0.05})
    first, _ = verdicts(recipe, gather(recipe, own_workspace))
    assert first.sentence == sentence


def test_without_scores_the_headline_follows_the_table_of_ablate(own_workspace, tiny_recipe):
    fill(own_workspace, tiny_recipe, {"no-pretraining": MAIN_SCORE - 0.05})
    (own_workspace.pairs / "pairs.parquet").unlink()
    first, _ = verdicts(tiny_recipe, gather(tiny_recipe, own_workspace))
    assert first.sentence == "Pre-training helps in these runs."
    assert formats.signed(0.05) in first.detail


def test_the_short_table_lists_what_is_registered_then_variants_then_baselines(filled, tiny_recipe):
    header, registered, *rows = short_table(filled)
    assert header[:2] == ("variant", "PR-AUC")
    assert registered[:2] == ("registered: stack", "0.910")
    assert len(rows) == len(tiny_recipe.variants) + 3
    assert rows[0][1:3] == ("0.822", "[0.804, 0.840]")
    assert {len(row) for row in rows} == {len(header)}


def test_what_was_not_compared_beats_nothing_and_what_is_nowhere_lower_is_said_so(filled, tiny_recipe):
    for training in filled.root.glob("pretrain/*/summary.json"):
        write_json(training, {**read_json(training), "references": {}, "not_beaten": []})
    summary = filled.probe / "summary.json"
    figures = read_json(summary)
    for point in figures["figure2b"]["points"]:
        point["own_below_random"] = False
    write_json(summary, figures)
    words = Outline(page_of(tiny_recipe, filled)).words
    assert "lower losses than" not in words
    number = len(figures["figure2b"]["points"])
    assert f"The item's own text gives a lower loss than a random one at none of {number} probabilities." in words


def test_a_pre_training_stands_beside_simple_ways(filled, tiny_recipe):
    table = references_table(gather(tiny_recipe, filled).pretrainings[0])
    assert [row[:3] for row in table.rows if row[1] != "the model"] == [
        ("MLM", "unigram", "4.000"),
        ("MLM", "bigram", "3.000"),
        ("RECON", "mean picture", "0.900"),
        ("RECON", "shrunk to 8 x 8", "0.100"),
    ]
    assert OVERALL == baselines.OVERALL  # the key that a summary has it under


def test_every_baseline_has_a_label():
    from mlim.evaluation.baselines import BASELINES

    assert set(BASELINE_LABELS) == set(BASELINES)


def test_the_short_table_of_an_untrained_folder_is_a_header(own_workspace):
    assert len(short_table(own_workspace)) == 1


def test_names_that_are_formulas_or_read_as_nothing_come_back(tmp_path):
    """Point 24: what a person's spreadsheet must not compute, the report shows as it was written."""
    workspace = Workspace(tmp_path)
    workspace.ablation.mkdir()
    rows = [{"row": "NA", "label": "=1+1", "difference": -0.12}, {"row": "null", "label": "plain", "difference": None}]
    write_csv(workspace.ablation / "table.csv", rows, ["row", "label", "difference"])
    found = ablation_table(workspace)
    assert found is not None
    assert [(name, row["label"]) for name, row in found.items()] == [("NA", "=1+1"), ("null", "plain")]
    assert found["NA"]["difference"] == -0.12
    assert "'=1+1" in (workspace.ablation / "table.csv").read_text()


def test_whether_pre_training_pays_is_drawn_and_told_where_it_was_measured(complete, tiny_recipe):
    workspace, page = complete
    assert "PR-AUC by the number of training pairs" not in page
    ends, apart = Interval(0.8, 0.7, 0.9), Difference(0.1, -0.05, 0.25, 0.2)
    curve = tuple(LabelPoint(pairs, 3, ends, Interval(0.7, None, None), apart) for pairs in (500, 1500))
    page = render(reported(tiny_recipe), replace(gather(tiny_recipe, workspace), label_curve=curve), workspace, LINEAGE)
    shown = Outline(page).text
    assert {"1,500", "0.800 [0.700, 0.900]", "+0.100 [\u22120.050, +0.250]"} <= {*map(str.strip, shown)}


def test_the_page_of_the_pipelines_run_has_the_papers_tables_and_leads_on(complete, tiny_recipe):
    """What MLflow shows of the parent run: tables that Markdown renders, links within MLflow."""
    workspace, _ = complete
    links = Links("1", ("a" * 32, "b" * 32), "mlim-matcher")
    page = pipeline_page(reported(tiny_recipe), gather(workspace=workspace, recipe=tiny_recipe), links)
    assert "| model | PR-AUC [95 %]" in page
    assert f"| {tiny_recipe.main_variant.label} | {formats.score(MAIN_SCORE)} [" in page
    assert "(#/compare-runs?runs=%5B%22aaaa" in page
    assert len(page) < 5000
