"""The page of matches in a real browser at the width of a telephone: short, never wider than the screen, searchable."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from mlim.report.contact.items import ShownItem
from mlim.report.matches.gather import Matches, MatchesSettings, ShownGroup, ShownPair
from mlim.report.matches.page import OPEN_GROUPS, write_page
from scripts.chromium import rendered

pytestmark = pytest.mark.integration

GROUPS, MEMBERS, SCREENS = OPEN_GROUPS + 15, 6, 15
WIDTH, HEIGHT = 390, 800
SUMMARY = {
    **{
        "catalog": "shop",
        "model": "model",
        "work": "work",
        "model_sha256": "0" * 64,
        "data_version": "1" * 64,
        "threshold": 0.5,
    },
    **{"items": 300, "groups": GROUPS, "grouped_items": GROUPS * MEMBERS, "largest_group": MEMBERS, "matches": 100},
    **{"candidates": 200, "share_of_all_pairs": 0.01, "scored": 200, "rejected": {"no-text": 2}, "conflicts": {}},
    **{"warnings": ["a-word-without-any-blank" * 20], "promise": "", "completeness": "", "since": None},
}
# The page asks for what it holds; its own script is allowed by its hash, this one stands in another document.
FRAME = """<body style="margin:0"><iframe src="{page}" width="{width}" height="{height}" style="border:0"></iframe>
<script>onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const found = ["width", root.scrollWidth, root.clientWidth, "height", root.scrollHeight];
  const field = page.getElementById("search"), rest = page.querySelector("details.rest");
  found.push("open", rest.open);
  field.value = "{wanted}";
  field.dispatchEvent(new Event("input"));
  const shown = [...rest.querySelectorAll("[data-ids]")].filter((one) => !one.hidden);
  document.title = [...found, rest.open, shown.length].join(" ");
}};</script></body>"""


def picture(number: int) -> bytes:
    target = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 7 * number % 255, np.uint8)).save(target, "JPEG")
    return target.getvalue()


@pytest.fixture
def page(tmp_path):
    items = [
        [
            ShownItem(f"item-{group}-{one}", None, None, "a long text of an item " * 9, {}, picture(group), 32, 32)
            for one in range(MEMBERS)
        ]
        for group in range(GROUPS)
    ]
    groups = tuple(ShownGroup(f"group-{number}", MEMBERS, 0.4, tuple(members)) for number, members in enumerate(items))
    pairs = tuple(ShownPair(members[0], members[1], 0.5, 0.5, True, ("text",)) for members in items)
    write_page(Matches(SUMMARY, groups, pairs), {}, tmp_path / "matches.html", MatchesSettings())
    return tmp_path / "matches.html"


def test_a_telephone_shows_it_in_a_few_screens_and_finds_what_is_folded(browser, page):
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(page=page.as_uri(), width=WIDTH, height=HEIGHT, wanted=f"item-{GROUPS - 1}-0"))
    title = re.search(r"<title>(.*)</title>", rendered(browser, frame.as_uri(), "--allow-file-access-from-files"))[1]
    _, wide, shown, _, high, _, before, after, found = title.split()
    assert int(wide) <= int(shown)
    assert int(high) < SCREENS * HEIGHT
    assert (before, after, found) == ("false", "true", "1")
