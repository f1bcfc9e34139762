"""The page and the words of an explanation: complete without colour, picture or network."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from mlim.matching.explain import Change, Region
from mlim.matching.explained import ExplainedPair
from mlim.matching.nearest_pairs import LabelledPair
from mlim.report.explanation import sentences
from mlim.report.explanation.page import SIGN, render, waterfall
from mlim.report.kit import formats
from tests.unit.test_explain import FIRST, OTHERS, SECOND, asked, item

HOSTILE = '<script src="http://evil.example/a.js"></script>'
NAMES = ("item-1", "item-2")


def explained(first=FIRST, second=SECOND, **changes) -> ExplainedPair:
    how = {name: changes.pop(name) for name in ("modality", "threshold") if name in changes}
    found = ExplainedPair(
        names=NAMES,
        items=(first, second),
        explanation=asked(first, second, **how),
        probability=0.6,
        compared="2 labelled pairs, 1 of them matches",
        nearest=(LabelledPair("item-1", "item-3", False, "train", 0.8),),
        shown={"item-1": first, "item-3": OTHERS[0][0]},
        no_labels="",
        model="build/demo",
    )
    return replace(found, **changes)


class Read(HTMLParser):
    """What a page says: the cells of its first table, the text alternatives, and where it would load from."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.alternatives: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "img":
            self.alternatives.append(given["alt"])
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]


@pytest.mark.parametrize("modality", ["both", "text", "image"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.5])
def test_the_page_tells_everything_in_text_and_loads_nothing(modality, threshold):
    pair = explained(modality=modality, threshold=threshold)
    page = render(pair)
    read = Read(page)
    assert SIGN in page
    assert "script" not in read.tags
    assert all(address.startswith("data:image/") for address in read.addresses)
    assert not re.search(r"https?://|url\(", page)
    for one in pair.explanation.contributions:
        assert formats.signed(one.value) in page
        assert one.first in page
    for line in filter(None, sentences.describe(pair)):
        assert line in page.replace("&#39;", "'")
    if modality != "text":
        assert [text for text in read.alternatives if text.startswith("Picture of item-")] == read.alternatives[:2]
        regions = pair.explanation.regions
        assert regions
        assert all(f"row {one.row + 1}, column {one.column + 1} of 4" in read.alternatives[one.item] for one in regions)


def test_what_the_catalog_says_is_escaped():
    page = render(explained(item(title=HOSTILE), item(title="b"), names=(HOSTILE, "item-2")))
    assert "<script" not in page
    assert "&lt;script" in page


def test_the_waterfall_leads_from_the_baseline_to_the_score():
    found = explained().explanation
    steps = [*waterfall(found)]
    assert [step.name for step in steps[:3]] == ["baseline", "pictures", "texts"]
    assert steps[-1].name == "score"
    assert {step.name for step in steps if step.level} == {one.name for one in found.contributions[:3]}
    ends = {step.name: (step.start + (0 if step.falls else step.width)) for step in steps}
    for name in ("texts", steps[-2].name):  # both ways, over all texts and column by column
        assert ends[name] == pytest.approx(ends["score"])
    assert all(0 <= step.start <= step.start + step.width <= 1 for step in steps)


def test_where_a_region_lies_is_said_in_words():
    places = [sentences.place(Region(0, row, column, 0.0), 4) for row, column in ((0, 3), (1, 2), (3, 0), (2, 0))]
    rough = ["top right", "centre", "bottom left", "middle left"]
    assert [place.partition(" (")[0] for place in places] == rough
    assert places[0].endswith("(row 1, column 4 of 4)")
    assert sentences.place(Region(0, 0, 0, 0.0), 1).startswith("centre")


def test_the_change_and_the_labelled_pairs_are_sentences():
    pair = explained()
    found = replace(pair.explanation, change=Change(("title", "colour", "picture"), "other", 0.25))
    assert sentences.change(found).endswith(
        "with title, colour and picture of other pairs they would not match (score 0.250)."
    )
    found = replace(found, change=Change(("colour",), "same", 0.75))
    assert sentences.change(found).endswith("with the same colour in both items they would match (score 0.750).")
    assert "no change of up to three parts" in sentences.change(replace(found, change=None))
    itself = LabelledPair("item-2", "item-1", True, "test", 1.0)
    assert sentences.nearest(itself, NAMES) == "This pair is labelled itself: match (test)"
    assert "item-1 and item-3, no match (train), similarity 0.80" in "\n".join(sentences.describe(pair))
    bare = explained(nearest=(), no_labels="build/demo has no labelled pairs; `mlim pairs` makes them")
    assert [*sentences.describe(bare)][-1].startswith("Nearest labelled pairs: build/demo has no labelled pairs")
    assert "build/demo has no labelled pairs" in render(bare)


def test_the_summary_is_plain():
    summary = explained().summary
    total = summary["baseline"] + sum(one["value"] for one in summary["contributions"])
    assert total == pytest.approx(summary["score"])
    assert summary["text"] + summary["picture"] == pytest.approx(summary["score"] - summary["baseline"])
    assert np.array(summary["effects"]).shape == (2, 4, 4)
    assert explained(modality="text").summary["picture"] is None
