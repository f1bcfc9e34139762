"""The words of a text in any script, for vectors of texts: what is written in two ways is one word.

A text is brought to one form first: NFKC (Unicode Standard Annex 15) and case folding, so that composed and decomposed
letters, full-width and narrow ones, capitals and small ones are the same. Chinese, Japanese, Thai, Lao, Khmer and
Burmese put no spaces between words; a run of their letters has its sequences of two and of three letters for words, as
is usual where texts are searched without a dictionary. A text of ASCII has the words of `mlim.pairs.similarities.WORD`.
"""

import re
import unicodedata
from typing import Final

FORMAT: Final = 1  # of the words of a text; another one learns encoders, and makes vectors, again
LENGTHS: Final = (2, 3)  # of the sequences
_UNSPACED: Final = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ece\u0edc-\u0edf"  # Lao
    "\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    "\u1000-\u103f\u1050-\u108f\u109a-\u109d\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f"  # Myanmar
)
_RUN: Final = re.compile(rf"([{_UNSPACED}]+)|[^\W{_UNSPACED}]+")
# NFKC makes letters of trade and service marks (Acme\u2122 is no acmetm) and digits of fractions (5\u00bd is no 51/2)
_BLANK: Final = re.compile("[\u2122\u2120]|(?=[\u00bc-\u00be\u2150-\u215f\u2189])")


def words_of(text: str) -> list[str]:
    """The words of a text in order, as often as they come."""
    found = list[str]()
    for run in _RUN.finditer(_one_form(text)):
        found += _sequences(run[0]) if run[1] else [run[0]]
    return found


def _one_form(text: str) -> str:
    """The text in the form in which it is compared; folding may undo NFKC, which therefore comes twice."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _BLANK.sub(" ", text)).casefold())


def _sequences(run: str) -> list[str]:
    """All sequences of two and of three letters of a run; a shorter run is a word itself."""
    if len(run) < min(LENGTHS):
        return [run]
    return [run[start : start + size] for size in LENGTHS for start in range(len(run) - size + 1)]
