"""What clients of the served model send: base64 in its many spellings, texts of all kinds."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.received import UnreadableError, check_text, decode_base64

DATA = bytes(range(256)) * 3 + b"\xfb\xff\xfe"  # every letter of both alphabets
SPELLINGS = {
    "as it is": lambda data: base64.b64encode(data).decode(),
    "line ends": lambda data: base64.encodebytes(data).decode(),
    "line ends of Windows": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "indented": lambda data: "  " + base64.encodebytes(data).decode().replace("\n", "\n\t  "),
    "data: prefix": lambda data: "data:image/jpeg;base64," + base64.b64encode(data).decode(),
    "data: prefix with parameters": lambda data: (
        "DATA:image/png;charset=utf-8;base64,\n" + base64.encodebytes(data).decode()
    ),
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "URL-safe without padding": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "no padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "half the padding": lambda data: base64.b64encode(data).decode().replace("==", "="),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("length", [len(DATA), len(DATA) - 1, len(DATA) - 2])
def test_base64_as_clients_write_it(spelling, length):
    """Point 13: line ends, prefixes, missing padding and the URL-safe alphabet give the bytes that were meant."""
    assert decode_base64(SPELLINGS[spelling](DATA[:length])) == DATA[:length]


@given(st.binary(), st.sampled_from(sorted(SPELLINGS)))
def test_any_bytes_in_any_spelling(data, spelling):
    """Point 13: no bytes are lost or made up."""
    assert decode_base64(SPELLINGS[spelling](data)) == data


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no base64!", "'!' at character 10 is none of its letters"),
        ("  QUJD\nQU?D", r"'\?' at character 10"),
        ("data:image/png;base64,QUJDä", "'ä' at character 27"),
        ("QUJDR", "5 letters cannot be whole bytes"),
        ("QQ==QUJD", "'=' at character 3"),
        ("data:image/svg+xml;utf8,<svg/>", "is a data: address that is not base64"),
        ("https://shop.example/a.jpg", "':' at character 6"),
        ("QUJD QUJD", "form encoding"),
        ("QUJD%2BQUJD", "'%' at character 5"),
    ],
)
def test_what_is_no_base64_says_what_is_wrong(text, why):
    """Point 13: the letter and its place, what was cut off, or what became of each plus sign."""
    with pytest.raises(UnreadableError, match=why):
        decode_base64(text)


@pytest.mark.parametrize("text", ["\ud83d half", "half \udc00", "a\ud800\ud800"])
def test_half_of_a_surrogate_pair_is_refused(text):
    """Point 13: a text that was cut inside a character, by its place."""
    place = next(place for place, letter in enumerate(text, 1) if "\ud800" <= letter <= "\udfff")
    with pytest.raises(UnreadableError, match=f"at character {place}, one half of a surrogate pair"):
        check_text(text, 100)


@pytest.mark.parametrize("text", ["", "a\0b", "durable\n soft\u00a0modern", "\U0001f600", "x" * 100])
def test_whole_texts_are_taken(text):
    """Point 13: what can be written in UTF-8 is taken; point 24: up to the limit."""
    check_text(text, 100)
    with pytest.raises(UnreadableError, match="has 101 characters, more than the 100"):
        check_text("x" * 101, 100)
