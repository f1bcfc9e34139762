"""The examples in the sections of tasks: right and wrong ones, boxes over pictures, what a blind model says."""

import re

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlim.annotations.tables import load_questions, load_statements
from mlim.config import override, parse
from mlim.files import read_json, write_json
from mlim.recipe import Recipe
from mlim.report.page import render
from mlim.shards.items import open_items
from mlim.steps.gathered import gather, reported
from tests import asked_tables, joint_recipe
from tests.outline import Outline

pytestmark = pytest.mark.integration

LINEAGE = {"commit": "0123abc", "dirty": False, "data_version": "feed", "validation": "passed"}
E2E = "{kind: e2e-vlp, image: {kind: cnn, stem: 8, depths: [1, 1], widths: [8, 16]}, width: 16, heads: 2}"
VARIANTS = {
    "answers": "system: vilt, task: answer",
    "blind": "system: vilt, task: answer, modality: text",
    "states": "system: vilt, task: statement",
    "writes": "system: e2e, task: caption",
    "searches": "system: vilt, task: retrieval",
    "detects": "system: e2e, task: detect",
}
SETTINGS = (
    *joint_recipe.SETTINGS,
    f"systems.e2e={E2E}",
    "tasks={answer: {}, statement: {}, caption: {}, retrieval: {}, detect: {}}",
    *(f"variants.{name}={{label: {name.title()}, pretraining: null, {told}}}" for name, told in VARIANTS.items()),
)
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    return parse(Recipe, override(tiny_recipe.model_dump(mode="json"), SETTINGS), "recipe tiny")


def page_of(recipe, workspace) -> str:
    return render(reported(recipe), gather(recipe, workspace), workspace, LINEAGE)


def write(workspace, name: str, scores: pd.DataFrame) -> None:
    folder = workspace.finetuned(name, 0)
    folder.mkdir(parents=True)
    scores.assign(split="test").to_parquet(folder / "scores.parquet")


def box(x0: float, label: str, score: float, crowd: bool | None = None) -> dict:
    sides = {"x0": x0, "y0": 1.0, "x1": x0 + 5, "y1": 9.0}
    return {
        **sides,
        "label": label,
        "score": score,
        "attributes": ["red"],
        **({} if crowd is None else {"crowd": crowd}),
    }


def test_tasks_that_were_not_scored_show_nothing(recipe, own_workspace):
    page = page_of(recipe, own_workspace)
    assert page.count("The variants have not been compared yet") == 5
    assert "<svg" not in page.partition('id="answer"')[2].partition("</section>")[0]


def test_without_pairs_the_page_is_about_the_other_tasks(recipe, own_workspace):
    path = own_workspace.pairs / "summary.json"
    counts = {split: {"0": 0, "1": 0} for split in ("train", "validation", "test")}
    write_json(path, {**read_json(path), "counts": counts})
    page = page_of(recipe, own_workspace)
    assert "Nothing is matched: the catalog has no pairs." in page
    anchors = [name for name in Outline(page).addresses if name.startswith("#")]
    assert {"#answer", "#detect", "#data", "#lineage"} <= set(anchors)
    assert not {"#use", "#results", "#claims", "#hardest"} & set(anchors)


def test_each_task_shows_what_was_right_and_what_was_wrong(recipe, own_workspace):
    store = open_items(recipe.loader, own_workspace)
    asked_tables.annotate(own_workspace, store)
    items = pq.read_table(own_workspace.pairs / "items.parquet", columns=["id", "split"]).to_pylist()
    test = [item["id"] for item in items if item["split"] == "test"]
    asked = [row for row in load_questions(own_workspace.annotations, "test") if row.kind == "open"]
    for name, right in (("answers", [1.0, 0.0]), ("blind", [0.0, 0.0])):
        given = [max(asked[0].answers, key=asked[0].answers.get), "violet"] if name == "answers" else ["beige", "grey"]
        rows = {"question_id": [row.question_id for row in asked[:2]], "id": [row.id for row in asked[:2]]}
        about = {"kind": "open", "template": "colour", "given": given, "score": right, "entailed": [[], []]}
        about |= {"depends": [[0.0, 0.1, 2.0, -1.0], [0.0] * 4]} if name == "answers" else {}
        looks = {"words": [["what", HOSTILE], []], "attends": [[[0.1, 0.2, 0.1, 0.1], [0.1] * 4], []]}
        about |= looks if name == "answers" else {}
        write(own_workspace, name, pd.DataFrame({**rows, **about}))
    stated = load_statements(own_workspace.annotations, "test")[:2]
    said = {
        "statement_id": [row.statement_id for row in stated],
        **{name: [getattr(row, name) for row in stated] for name in ("left", "right", "set", "label")},
        **{"given": ["true", "false"], "score": [0.0, 1.0]},
    }
    write(own_workspace, "states", pd.DataFrame(said))
    texts = {"written": ["one two three", HOSTILE], "references": [["one two three", "one"], ["a cat"]]}
    write(own_workspace, "writes", pd.DataFrame({"id": test[:2], **texts}))
    ranks = {"image_rank": [0, 7], "text_rank": [3, 0], "images": [test[:2], test[:2]], "texts": [test[:2], test[:2]]}
    write(own_workspace, "searches", pd.DataFrame({"id": test[:2], **ranks}))
    boxes = {
        "truth": [[box(1, "mug", 1.0, crowd=False)], [box(1, HOSTILE, 1.0, crowd=False)]],
        "found": [[box(1, "mug", 0.9), box(1, "mug", 0.1)], [box(9, "bag", 0.3)]],
    }
    write(own_workspace, "detects", pd.DataFrame({"id": test[:2], **boxes}))

    page = page_of(recipe, own_workspace)
    outline = Outline(page)
    assert "script" not in outline.tags
    assert all(address.startswith(("data:image/", "#")) for address in outline.addresses)
    for heading in (
        "Questions that Answers answers rightly (bright: what the answer depends on)",
        "Questions that Answers answers wrongly",
        "Where Answers looks in “what colour is it?”, which it answers rightly (last block)",
        "Statements that States judges wrongly",
        "Captions of Writes, from the half that is most like the references",
        "Searches, texts of a picture",
        "Detects, all found",
        "Detects, others",
    ):
        assert heading in outline.words, heading
    for word in ("violet", "beige", "people: one two three / one", f"pictures of “{store.text(test[0])}”", "place 8"):
        assert word in outline.words, word
    assert re.findall(r'<svg class="depends"[^>]*aria-label="([^"]*)"', page) == [
        "depends most on row 2, column 1 of 2",
        "looks most at row 1, column 2 of 2",
    ]
    assert "attention to the picture: 50%" in outline.words
    marks = re.findall(r'<svg class="boxes"[^>]*aria-label="([^"]*)"', page)
    assert marks[0] == "there: 1 red mug; found: a red mug 0.90"  # what is unsure is not drawn
    assert marks[1].endswith("found: a red bag 0.30")  # but the surest where nothing is sure
    assert page.count('class="found"') == 2
    for drawn in re.findall(r'<svg class="boxes".*?</svg>', page, re.DOTALL):
        assert drawn.rindex('class="under"') < drawn.index('class="there"')  # no dark line over a light one
    assert page_of(recipe, own_workspace) == page
