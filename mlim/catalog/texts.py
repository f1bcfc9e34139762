"""Texts as shops write them: HTML, entities and what is left of them taken out, so that the model reads words.

Only markup goes: a tag has the name of an element or an attribute in quotes; an entity ends in a semicolon, or is one
that HTML also reads without (`&nbsp`, `&copy`) and a whole word. What is none stays as it is: `size < 40`, `<3`,
`<new>`, `a<b and c>d`, `AT&T`. Time is linear in the length of any text.
"""

import html
import re
from html.entities import html5

ROUNDS = 3  # exports escape what is escaped already: &amp;amp;, &amp;lt;p&amp;gt;

_NAMES = """
    a abbr acronym address applet area article aside audio b base basefont bdi bdo big blockquote body br button
    canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em embed
    fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html i iframe
    img input ins kbd label legend li link main map mark marquee menu meta meter nav nobr noscript object ol
    optgroup option output p param picture pre progress q s samp script section select slot small source span strike
    strong style sub summary sup svg table tbody td template textarea tfoot th thead time title tr track tt u ul var
    video wbr
"""
ELEMENTS = frozenset(_NAMES.split())
HIDDEN = frozenset({"script", "style"})  # their content is no text

# The next `<` ends every attempt, so that no part of a text is tried twice; in quotes a `>` ends nothing.
_TAG = r"""<(?P<end>/?)(?P<name>[A-Za-z][\w:.-]*)(?P<attributes>\s(?:[^<>"']|"[^"<]*"|'[^'<]*')*+|\s[^<>]*)?/?>"""
_OTHER = r"<!--.*?(?:-->|\Z)|<!\[CDATA\[|\]\]>|<[!?][A-Za-z][^<>]*>"
MARKUP = re.compile(rf"{_OTHER}|{_TAG}", re.DOTALL)
CUT_TAG = re.compile(r"<(?P<name>[A-Za-z][\w:-]*)\s[^<>]*=[^<>]*\Z")  # where an export cut the text
ESCAPED_MARKUP = re.compile(r"</[A-Za-z][^<>]*>|<(?:br|hr|img)\b[^<>]*>", re.IGNORECASE)
ENTITY = re.compile(r"&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31})(?:(;)|(?![\w=]))")
CLOSED_LETTER = re.compile(r"</([A-Za-z])\s*>")
QUOTED_ATTRIBUTE = re.compile(r"=\s*[\"']")


def clean_text(text: str) -> str:
    """The words of a text that may hold HTML, on one line; a text without any stays as it is.

    Tags become blanks; comments, scripts and styles go; entities become what they stand for, however often they were
    escaped. Tags that were escaped are markup too where one of them closes: `&lt;b&gt; is a tag` keeps its words.
    """
    cleaned = text
    for number in range(ROUNDS):
        if "<" not in cleaned and "&" not in cleaned:
            break
        before = cleaned
        if number == 0 or ESCAPED_MARKUP.search(cleaned):
            cleaned = _without_tags(cleaned)
        cleaned = ENTITY.sub(_character, cleaned)
        if cleaned == before:
            break
    return text if cleaned == text else " ".join(cleaned.split())


def _without_tags(text: str) -> str:
    words, hidden, start = list[str](), "", 0
    closed = {name.lower() for name in CLOSED_LETTER.findall(text)}
    for found in MARKUP.finditer(text):
        if found["name"] and not _is_tag(found, closed):
            continue
        words.append("" if hidden else text[start : found.start()])
        hidden, start = _hidden_after(found, hidden), found.end()
    words.append("" if hidden else _without_cut_tag(text[start:]))
    return " ".join(words) if start else words[0]


def _is_tag(found: re.Match[str], closed: set[str]) -> bool:
    """Whether what looks like a tag is one; `closed`: the elements of one letter that the text closes."""
    name, attributes = found["name"].lower(), found["attributes"] or ""
    if len(name) == 1 and attributes.strip() and "=" not in attributes and name not in closed:
        return False  # `a<b and c>d`
    return name in ELEMENTS or ":" in name or QUOTED_ATTRIBUTE.search(attributes) is not None


def _hidden_after(found: re.Match[str], hidden: str) -> str:
    """The element whose content is not shown from here on; empty for none."""
    name = (found["name"] or "").lower()
    if hidden:
        return "" if name == hidden and found["end"] else hidden
    return name if name in HIDDEN and not found["end"] else ""


def _without_cut_tag(text: str) -> str:
    cut = CUT_TAG.search(text)
    return text[: cut.start()] if cut and cut["name"].lower() in ELEMENTS else text


def _character(entity: re.Match[str]) -> str:
    """What an entity stands for; itself where it has no meaning."""
    name, end = entity[1], entity[2] or ""
    return html.unescape(entity[0]) if name.startswith("#") else html5.get(f"{name}{end}", entity[0])


def holds_escapes(text: str) -> bool:
    """Whether a text holds bytes that could not be decoded, as lone surrogates (the handler `surrogateescape`)."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
