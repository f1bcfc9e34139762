"""The words of texts: one for what is written in two ways, and some in scripts that put no spaces between them."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from mlim.matching import text_vectors
from mlim.matching.text_vectors import fit_text_encoder
from mlim.matching.text_words import words_of
from mlim.pairs.similarities import WORD

NOTHING = np.empty(0, dtype=np.int64)


@given(st.text(st.characters(codec="ascii")))
def test_a_text_of_ascii_has_the_words_that_baselines_count(text: str) -> None:
    assert words_of(text) == CountVectorizer(token_pattern=WORD).build_analyzer()(text)


@given(st.text())
def test_composed_decomposed_and_folded_texts_have_the_same_words(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert words_of(unicodedata.normalize(form, text)) == words_of(text)
    assert words_of(text.casefold()) == words_of(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "\u8d64\u3044\u30b7\u30e3\u30c4L",
            ["\u8d64\u3044", "\u3044\u30b7", "\u30b7\u30e3", "\u30e3\u30c4"],
        ),  # red shirt, L
        ("\u7ea2\u886c\u886b", ["\u7ea2\u886c", "\u886c\u886b", "\u7ea2\u886c\u886b"]),
        ("\uff7c\uff6c\uff82", ["\u30b7\u30e3", "\u30e3\u30c4", "\u30b7\u30e3\u30c4"]),  # half-width
        (
            "\u0e2a\u0e35\u0e49",
            ["\u0e2a\u0e35", "\u0e35\u0e49", "\u0e2a\u0e35\u0e49"],
        ),  # with marks, which are no letters
        ("\u0e81\u0e81", ["\u0e81\u0e81"]),
        ("\u1780\u17d2\u1780", ["\u1780\u17d2", "\u17d2\u1780", "\u1780\u17d2\u1780"]),
        ("\u1000\u1039", ["\u1000\u1039"]),
        ("\u8d64", ["\u8d64"]),
        ("\ud55c\uad6d\uc5b4 \uc154\uce20", ["\ud55c\uad6d\uc5b4", "\uc154\uce20"]),  # Korean puts spaces
        ("Acme\u2122 5\u00bd m\u00b2", ["acme", "5", "1", "2", "m2"]),
        ("\uff38\uff2c Stra\u00dfe", ["xl", "strasse"]),
        ("?! \U0001f642", []),
    ],
)
def test_the_words_of_a_text(text: str, words: list[str]) -> None:
    found = words_of(text)
    assert found[: len(words)] == words
    assert set(found) - set(words) <= {"\u8d64\u3044\u30b7", "\u3044\u30b7\u30e3", "\u30b7\u30e3\u30c4", "l"}


def test_texts_that_differ_in_spaces_or_in_unicode_form_are_near() -> None:
    """Their cosine was 0: such catalogs had no candidates by text."""
    shirts = [
        "\u8d64\u3044\u30b3\u30c3\u30c8\u30f3\u30b7\u30e3\u30c4 \u9577\u8896",
        "\u8d64\u3044\u30b3\u30c3\u30c8\u30f3\u30b7\u30e3\u30c4\u9577\u8896",
    ]
    cream = [unicodedata.normalize(form, "caf\u00e9 cr\u00e8me") for form in ("NFC", "NFD")]
    texts = [*shirts, *cream, *(f"other thing {number}" for number in range(20))]
    encoder = fit_text_encoder(texts, NOTHING, NOTHING, 256, seed=0)
    [vectors] = encoder.encode(texts)
    assert vectors[0] @ vectors[1] > 0.7
    assert vectors[2] @ vectors[3] == pytest.approx(1)
    assert abs(vectors[0] @ vectors[2]) < 0.01


def test_vectors_of_other_words_are_those_of_another_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that indexes of vectors that were made of other words are made again."""
    encoder = fit_text_encoder(["red shirt", "blue bag"], NOTHING, NOTHING, 8, seed=0)
    before = encoder.origin
    monkeypatch.setattr(text_vectors, "FORMAT", text_vectors.FORMAT + 1)
    assert encoder.origin != before
