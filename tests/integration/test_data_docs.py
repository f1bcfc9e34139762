"""Great Expectations' pages: they load nothing, lead nowhere else, and are readable at every width."""

import re
from pathlib import Path
from shutil import copytree
from urllib.parse import unquote, urldefrag

import pytest

from mlim.console import Terminal
from mlim.errors import DataError
from mlim.steps.validate import validate
from mlim.workspace import Workspace
from scripts.chromium import widths_in_frame
from tests.integration.test_validation_gx import CATALOG, change_items, row_of, with_limits
from tests.outline import Outline

pytestmark = pytest.mark.integration

ELSEWHERE = re.compile(r"(https?:)?//[\w-]+\.")


@pytest.fixture(scope="module")
def docs(tiny_recipe, tiny_workspace, tmp_path_factory) -> Path:
    """The pages of a validation that refuses three of forty texts."""
    folder = tmp_path_factory.mktemp("docs")
    copytree(tiny_workspace.root, folder / "work")
    (folder / "catalog.yaml").write_text(CATALOG, encoding="utf-8")
    workspace = Workspace(folder / "work")
    change_items(workspace, lambda item: item | ({"text": "long " * 400} if row_of(item) < 4 else {}))
    recipe = with_limits(tiny_recipe, min_image_side=8, max_text_characters=1000, max_quarantined_share=0.01)
    with pytest.raises(DataError):
        validate(recipe, folder / "catalog.yaml", workspace, Terminal(quiet=True))
    (index,) = folder.rglob("data_docs/index.html")
    return index.parent


def pages_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def test_no_page_refers_to_another_host_and_none_runs_a_script(docs):
    pages = pages_in(docs)
    assert len(pages) > 10
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not ELSEWHERE.findall(text), page
        assert "<script" not in text, page


def test_every_link_leads_to_a_page(docs):
    for page in pages_in(docs):
        outline = Outline(page.read_text(encoding="utf-8"))
        for address in outline.addresses:
            target, anchor = urldefrag(unquote(address))
            assert not target or target == "data:," or (page.parent / target).is_file(), (page, address)
            assert target or not anchor or anchor in outline.ids, (page, address)


def test_what_was_found_is_on_the_page_without_a_script(docs):
    words = Outline((docs / "index.html").read_text(encoding="utf-8")).words
    assert "Success" in words
    assert "Failed" in words
    (texts,) = docs.glob("validations/texts/*/*/texts.html")
    assert "3 unexpected values found" in Outline(texts.read_text(encoding="utf-8")).words


def test_only_what_pages_show_is_kept(docs):
    assert {path.suffix for path in docs.rglob("*") if path.is_file()} == {".html"}


def test_the_pages_never_scroll_sideways(browser, docs):
    for page in (docs / "index.html", *docs.glob("validations/texts/*/*/texts.html")):
        scrolled, shown = widths_in_frame(browser, page, 390)
        assert scrolled <= shown
