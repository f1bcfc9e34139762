"""A cell of one attribute inside an item's text: what stands before it and after it, and the text without it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from mlim.catalog.item import ATTRIBUTE_SEPARATOR, join_text
from mlim.catalog.texts import clean_text
from mlim.matching.item_parts import split_text

WORD: Final = re.compile(r"\w+")


class Cell(NamedTuple):
    """One cell: the text is `before`, `label`, `value`, `after`; `value` is as the model reads it, empty for none."""

    before: str
    label: str
    value: str
    after: str

    def hidden(self) -> "Cell":
        """The cell with every word of its value taken out of the rest of the text, in which titles repeat it."""
        return self._replace(before=_without(self.before, self.value), after=_without(self.after, self.value))

    @property
    def around(self) -> tuple[str, str]:
        """The text up to the value, its label included, and the text behind the value."""
        before = f"{self.before}{ATTRIBUTE_SEPARATOR}" if self.before else ""
        return f"{before}{self.label}", f"{ATTRIBUTE_SEPARATOR}{self.after}" if self.after else ""

    @property
    def rest(self) -> str:
        """The text without the cell."""
        return join_text([(None, self.before), (None, self.after)])


def read_cells(texts: Sequence[str], attributes: Sequence[Mapping[str, str]], column: str) -> list[Cell | None]:
    """The cell of `column` in each text; None for a text that was not joined from its `attributes`.

    `attributes` are the text columns of each item in the order of its text, one of which is `column`. An item without a
    value has the label that the others have.
    """
    stretches = [split_text(text, columns) for text, columns in zip(texts, attributes, strict=True)]
    cells = [_cell(found, columns, column) for found, columns in zip(stretches, attributes, strict=True)]
    labels = Counter(cell.label for cell in cells if cell is not None and cell.value)
    label = labels.most_common(1)[0][0] if labels else ""
    return [cell if cell is None or cell.value else cell._replace(label=label) for cell in cells]


def _cell(stretches: Mapping[str, str], attributes: Mapping[str, str], column: str) -> Cell | None:
    if column not in attributes or [*stretches] != [*attributes]:
        return None
    names, stretch = [*stretches], stretches[column]
    place = names.index(column)
    before, after = (
        join_text([(None, stretches[name]) for name in part]) for part in (names[:place], names[place + 1 :])
    )
    written = attributes[column]
    value = written if stretch.endswith(written) else clean_text(written)
    value = value if stretch else ""
    return Cell(before, stretch.removesuffix(value), value, after)


def _without(text: str, value: str) -> str:
    words = {word.casefold() for word in WORD.findall(value)}
    kept = WORD.sub(lambda found: "" if found[0].casefold() in words else found[0], text)
    return " ".join(kept.split())
