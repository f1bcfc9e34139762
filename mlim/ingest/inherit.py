"""Variant rows that inherit: a blank cell takes what an earlier row of its family says.

Shops write a product's title once, on its first row, and leave it blank on the rows of its variants. The rows of a
family need not follow each other. The first values of the families met last are remembered, not of all: texts of
millions of products would fill the memory.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from mlim.catalog.description import CatalogDescription
from mlim.sources.base import RawRow

FAMILIES_REMEMBERED: Final = 1 << 16


def inherit(rows: Iterable[RawRow], description: CatalogDescription) -> Iterator[RawRow]:
    """The rows in order; cells of `columns.inherit` without a value have that of their family's first row with one.

    Only earlier rows count, and only those of the last `FAMILIES_REMEMBERED` families.
    """
    values, columns = description.values, description.columns
    compared = {column: values.of(column) for column in columns.inherit}
    families, remembered = values.of(columns.family or ""), OrderedDict[str, dict[str, str]]()
    for row in rows:
        family = families.comparable(row.cells.get(columns.family or "", "")) if compared else None
        if family is None or row.problem is not None:
            yield row
            continue
        first = remembered.setdefault(family, {})
        remembered.move_to_end(family)
        if len(remembered) > FAMILIES_REMEMBERED:
            remembered.popitem(last=False)
        blank = [name for name, of in compared.items() if of.comparable(row.cells.get(name, "")) is None]
        for name in compared:
            if name not in blank:
                first.setdefault(name, row.cells[name])
        taken = {name: first[name] for name in blank if name in first}
        yield replace(row, cells={**row.cells, **taken}) if taken else row
