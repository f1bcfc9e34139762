"""When two values of a catalog are equal, and when a cell holds no value: the one normaliser of the project.

Shops write one value in many ways: `Striped`, `STRIPED `, a no-break space in place of a space. `comparable` gives all
of them the same form and None to what means "no value". It is for comparing only: texts, attributes, facts and ids are
kept as the source writes them.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BeforeValidator, Field

from mlim.config import Config

# blanks, line ends, control characters and the empty Braille cell
_BLANK = r"\s\x00-\x1f\x7f-\x9f\u2800"
# Unicode's Default_Ignorable_Code_Point (zero-width blanks, direction marks, variation selectors, ...): never visible
_IGNORABLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    r"\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
BLANKS: Final = re.compile(f"[{_BLANK}]+")
IGNORABLE: Final = re.compile(f"[{_IGNORABLE}]+")
OUTSIDE: Final = re.compile(rf"\A[{_BLANK}{_IGNORABLE}]+|[{_BLANK}{_IGNORABLE}]+\Z")
FORM: Final = "NFKC"
REMEMBERED_CHARACTERS = 40  # values that are compared are mostly short, and come many times
REMEMBERED_VALUES = 1 << 14
SHOWN_WORDS = 5  # of one column, in a warning

# what spreadsheets, databases, programs and people write where they have no value; `unknown` and `other` are not here,
# because shops use them as values of their own
MISSING_WORDS: Final = (
    "null",
    "nan",
    "none",
    "nil",
    "na",
    "n/a",
    "n.a.",
    "n.a",
    "<na>",
    "<null>",
    "(null)",
    "[null]",
    "\\n",
    "nat",
    "undefined",
    "-",
    "--",
    "---",
    "\u2013",
    "\u2014",
    "?",
    "#n/a",
    "#n/a n/a",
    "#na",
    "#null!",
    "#value!",
    "#ref!",
    "#name?",
    "#div/0!",
    "#num!",
    "-nan",
    "1.#qnan",
    "-1.#ind",
)

Found = TypeVar("Found")
WordCounts = Counter[tuple[str, str]]  # (column, word as written) -> rows
LetterCase = Literal["ignored", "kept"]


def tidy(value: str) -> str:
    """The value as written, without what is invisible around it; runs of blanks inside are one space."""
    return BLANKS.sub(" ", OUTSIDE.sub("", value))


def comparable(value: str) -> str | None:
    """The form in which values are compared unless catalog.yaml says otherwise; None when it means "no value"."""
    return DEFAULT.comparable(value)


class Remembered(dict[str, Found]):
    """What a function finds of each value; of the first short ones it is looked up from the second time on."""

    def __init__(self, find: Callable[[str], Found]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, value: str) -> Found:
        found = self._find(value)
        if len(value) <= REMEMBERED_CHARACTERS and len(self) < REMEMBERED_VALUES:
            self[value] = found
        return found


def normal_form(value: str, fold: bool = True) -> str:
    """Unicode NFKC without invisible characters, blanks as in `tidy`; `fold` also takes letter case away."""
    if value.isascii() and value.isprintable() and " " not in value:  # an id, a number, a file: nothing to take away
        return value.lower() if fold else value
    return _remembered(value, fold) if len(value) <= REMEMBERED_CHARACTERS else _normal_form(value, fold)


def _normal_form(value: str, fold: bool) -> str:
    if not value.isascii():
        value = unicodedata.normalize(FORM, IGNORABLE.sub("", unicodedata.normalize(FORM, value)))
    value = BLANKS.sub(" ", value).strip()
    if not fold:
        return value
    return value.lower() if value.isascii() else unicodedata.normalize(FORM, value.casefold()).strip()


_remembered = lru_cache(REMEMBERED_VALUES)(_normal_form)


@dataclass(frozen=True)
class Comparison:
    """How the values of one column are compared. `missing`: normal forms that mean "no value"; blank always does."""

    missing: frozenset[str]
    fold: bool

    def comparable(self, value: str) -> str | None:
        """The form of the value that is compared; None when it means "no value"."""
        folded = normal_form(value)
        if not folded or folded in self.missing:
            return None
        return folded if self.fold else normal_form(value, fold=False)

    def missing_word(self, value: str) -> str | None:
        """The word as written that stands where no value is; None for a value, and for blanks, which are no word."""
        return tidy(value) or None if self.comparable(value) is None else None


class Spellings:
    """The first spelling of each value of a column, so that later stages may compare what is written."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison, self._first = comparison, dict[str, str]()
        self._known = Remembered(self._spelled)

    def of(self, cell: str) -> str | None:
        """The value of a cell as the first cell of that value spells it; None when it means "no value"."""
        return self._known[cell]

    def _spelled(self, cell: str) -> str | None:
        key = self._comparison.comparable(cell)
        if key is None:
            return None
        first = self._first.get(key)
        return self._first.setdefault(key, tidy(cell)) if first is None else first


def _as_words(given: Any) -> Any:
    """YAML reads a bare `null` in a list as nothing; here it is the word."""
    return ["null" if word is None else word for word in given] if isinstance(given, list) else given


Words = Annotated[tuple[str, ...], BeforeValidator(_as_words)]


class ColumnValues(Config):
    """How one column differs from the others; what is not given is as for all columns."""

    missing: Words | None = Field(default=None, description="[]: every word of this column is a value")
    letter_case: LetterCase | None = None


class Values(Config):
    """The `values` section of catalog.yaml: which words mean "no value", and what makes two values equal."""

    missing: Words = Field(
        default=MISSING_WORDS, description="words that mean no value where values are compared, in any letter case"
    )
    letter_case: LetterCase = Field(default="ignored", description="kept: `Striped` is not `striped`")
    columns: dict[str, ColumnValues] = Field(default={}, description="what single columns do otherwise")

    def of(self, column: str) -> Comparison:
        """How the values of a column are compared."""
        return self._known.get(column, self._usual)

    @cached_property
    def _usual(self) -> Comparison:
        return _comparison(self.missing, self.letter_case)

    @cached_property
    def _known(self) -> Mapping[str, Comparison]:
        return {
            name: _comparison(self.missing if own.missing is None else own.missing, own.letter_case or self.letter_case)
            for name, own in self.columns.items()
        }


def _comparison(missing: Iterable[str], letter_case: LetterCase) -> Comparison:
    return Comparison(frozenset(normal_form(word) for word in missing), letter_case == "ignored")


DEFAULT: Final = Values().of("")


def count_words(words: WordCounts) -> dict[str, dict[str, int]]:
    """Column -> word -> rows, the most frequent words first."""
    counted: dict[str, dict[str, int]] = {}
    for (column, word), rows in sorted(words.items(), key=lambda entry: (entry[0][0], -entry[1], entry[0][1])):
        counted.setdefault(column, {})[word] = rows
    return counted


def warn_of_words(words: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A sentence for each column in which words that mean "no value" were met (`count_words`)."""
    return [_warning(column, counts) for column, counts in words.items()]


def _warning(column: str, counts: Mapping[str, int]) -> str:
    rows = sum(counts.values())
    shown = [f"{count} x `{word}`" for word, count in list(counts.items())[:SHOWN_WORDS]]
    quoted = json.dumps(column, ensure_ascii=False)
    return (
        f"the column `{column}` says in {rows} {'row' if rows == 1 else 'rows'} that it has no value "
        f"({', '.join(shown)}{', ...' if len(counts) > SHOWN_WORDS else ''}); where such a word is a value, write "
        f"`values: {{columns: {{{quoted}: {{missing: []}}}}}}` in catalog.yaml"
    )
