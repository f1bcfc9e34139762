"""HTML is taken out of texts, and nothing else: words stay as they are written."""

import html

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.catalog.texts import clean_text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<p>Soft &amp; warm<br/>wool</p>", "Soft & warm wool"),
        ("one<br>two<BR />three<br/>four", "one two three four"),
        (
            '<div class="product-desc" style="font-size: 14px;"><ul><li>Machine&nbsp;wash</li></ul></div>',
            "Machine wash",
        ),
        ("a <b>b</b> c", "a b c"),
        ("8&frac14; in&trade; caf&eacute; &#39;x&#39; &#x2122;", "8\u00bc in\u2122 caf\u00e9 'x' \u2122"),
        ("black &amp;amp; white &amp;amp;amp; red", "black & white & red"),
        ("&lt;p&gt;Soft &amp;amp; warm&lt;br&gt;wool&lt;/p&gt;", "Soft & warm wool"),
        ("&amp;lt;li&amp;gt;wool&amp;lt;/li&amp;gt;", "wool"),
        ("<style>p {color: red}</style>blue<script>alert('<p>')</script> sky", "blue sky"),
        ("<script>never closed", ""),
        ("<!-- note <b>x</b> -->seen", "seen"),
        ("seen<!-- never closed <b>x</b>", "seen"),
        ("<![CDATA[<p>Soft</p>]]>", "Soft"),
        ('<!DOCTYPE html><html lang="en"><body>Soft</body></html>', "Soft"),
        ("<a title=\"5 > 3\" href='x'>link</a>", "link"),
        ("<p don't>odd</p>", "odd"),
        ("<p\nclass='x'\n>lines</p>", "lines"),
        ("<o:p>office</o:p>", "office"),
        ('<path d="M0 0"/>drawn', "drawn"),
        ('cut by the export <a href="http:', "cut by the export"),
        ("<svg><path d='M0 0'/></svg>drawn", "drawn"),
        ("5&nbsp;m&nbsp &nbsp<br>&copy, &eacute&amp", "5 m ©, é&"),
    ],
)
def test_markup_goes_and_words_stay(text: str, words: str) -> None:
    """Point 4: what the model reads of HTML is its words."""
    assert clean_text(text) == words


@pytest.mark.parametrize(
    "text",
    [
        *(
            "size < 40",
            "I <3 it",
            "5 < 6 and 7 > 6",
            "a<b",
            "<new> and <M>",
            "width<height>depth",
            "a -> b",
            "a<b and c>d",
            "x <q then> y",
        ),
        *(
            "AT&T",
            "R&D; M&M",
            "Q&amplifier &notebook",
            "&nosuch;",
            "salt & pepper",
            "?a=1&copy=2&regs",
            "no  markup\n at all",
            "",
        ),
        *("100% <cotton", "->", "<>", "< p >", "&;", "&#;"),
    ],
)
def test_what_is_no_markup_stays_as_it_is_written(text: str) -> None:
    """Point 4: a lone `<` or `&` is a character like others."""
    assert clean_text(text) is text


def test_a_tag_that_is_spoken_of_stays() -> None:
    assert clean_text("&lt;b&gt; is a tag") == "<b> is a tag"
    assert clean_text("sizes &lt; 40") == "sizes < 40"


WORDS = st.lists(st.text("abcxyz019.,;:!?()-/%", min_size=1), min_size=1).map(" ".join)


@settings(deadline=None)
@given(WORDS)
def test_texts_without_markup_are_untouched(words: str) -> None:
    assert clean_text(words) is words


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=4), st.sampled_from(["p", "li", "h2", "div", "td"]), st.integers(0, 2))
def test_any_words_come_out_of_any_elements(parts: list[str], name: str, escaped: int) -> None:
    marked = "".join(f'<{name} class="x">{html.escape(part)}</{name}>' for part in parts)
    for _ in range(escaped):
        marked = html.escape(marked)
    assert clean_text(marked) == " ".join(" ".join(parts).split())


@settings(deadline=None)
@given(st.text("<>&;/!-#abp \"'="))
def test_nothing_breaks_it(text: str) -> None:
    assert len(clean_text(text)) <= len(text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part",
    ["<", "<a", "<script>", "<!--", "&", "&#", "</", '<a "', "<a '' \"", "<a b='", "<p x=", "&amp;", "<![CDATA["],
)
def test_hostile_markup_takes_no_longer_than_its_length(part: str) -> None:
    clean_text(part * 200_000)
