"""The `pairs` section of a first catalog.yaml: what families of the table hold, and two tasks ready to be chosen."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from mlim.catalog.pair_rules import PairRules
from mlim.catalog.values import comparable

USUAL_SIZE = PairRules.model_fields["max_family_size"].default
ROUND_SIZES = (12, 16, 24, 32, 50, 100, 200, 500, 1000)
LEFT_OUT = 0.05  # of the items in families: larger families may hold at most these
HARDLY = 0.05  # a column that differs in fewer of the families is the same in a family
BALANCED = 0.5  # as many matches as mismatches
NAMES_FAMILY = 0.8  # a column with a value of its own for more of the families tells them apart
MOST_CANDIDATES = 5


@dataclass(frozen=True)
class FamilySizes:
    """`items` in families of several; `most` is proposed as max_family_size, which leaves `beyond` of them out."""

    items: int
    families: int
    largest: int
    most: int
    beyond: int
    beyond_usual: int  # with the default of max_family_size


@dataclass(frozen=True)
class DecidingColumn:
    """A column that differs inside families, and the pairs that it would make of items with different pictures."""

    name: str
    varies: float  # share of the families with several items
    matches: int
    mismatches: int


@dataclass(frozen=True)
class PairsLook:
    """What was measured for pairs. `shared` items show a picture that another item of their family shows too."""

    family: str
    sizes: FamilySizes
    shared: int
    image: str | None  # the column, where pictures are named by text
    deciding: tuple[DecidingColumn, ...]
    same: tuple[str, ...]
    giveaways: tuple[str, ...]  # text columns that are equal inside families and in no others


def look_at_pairs(
    frame: pd.DataFrame, family: str | None, image: str, few: Sequence[str], texts: Sequence[str]
) -> PairsLook | None:
    """Measure a table of texts; None without a family column.

    `few` are the columns of `texts` with few values, which may decide pairs; `image` may be no column of the frame.
    """
    if family is None:
        return None
    pictured = [image] if image in frame else []
    columns = list(dict.fromkeys((family, *pictured, *texts)))
    compared = pd.DataFrame({name: frame[name].map(comparable) for name in columns}).dropna(subset=[family])
    compared = compared[compared.groupby(family)[family].transform("size") > 1]
    sizes = measure_sizes(compared.groupby(family).size())
    paired = compared[compared.groupby(family)[family].transform("size") <= sizes.most]
    distinct = compared.groupby(family)[list(texts)].nunique()
    varies = {name: float((distinct[name] > 1).mean()) if len(distinct) else 0.0 for name in texts}
    shared = int(compared.dropna(subset=pictured).duplicated([family, *pictured], keep=False).sum()) if pictured else 0
    deciding = [_deciding(paired, family, pictured, name, varies[name]) for name in few if varies[name] > HARDLY]
    deciding.sort(key=lambda each: abs(each.varies - BALANCED))
    same = sorted((name for name in few if varies[name] <= HARDLY), key=lambda name: varies[name])
    giveaways = [name for name in texts if varies[name] <= HARDLY and _tells_families_apart(compared, family, name)]
    return PairsLook(
        family=family,
        sizes=sizes,
        shared=shared,
        image=image if pictured else None,
        deciding=tuple(deciding[:MOST_CANDIDATES]),
        same=tuple(same[:MOST_CANDIDATES]),
        giveaways=tuple(giveaways),
    )


def measure_sizes(sizes: pd.Series) -> FamilySizes:
    """The sizes of families of several items, and the smallest round limit that leaves few of the items out."""

    def beyond(most: int) -> int:
        return int(sizes[sizes > most].sum())

    items = int(sizes.sum())
    largest = int(sizes.max()) if len(sizes) else 0
    wide = next((size for size in (USUAL_SIZE, *ROUND_SIZES) if beyond(size) <= LEFT_OUT * items), ROUND_SIZES[-1])
    return FamilySizes(items, len(sizes), largest, wide, beyond(wide), beyond(USUAL_SIZE))


def _deciding(frame: pd.DataFrame, family: str, pictured: list[str], name: str, varies: float) -> DecidingColumn:
    """Pairs inside families, of items that have a value and different pictures."""
    known = frame.dropna(subset=[name])
    matches = _pairs(known, [family, name]) - (_pairs(known, [family, name, *pictured]) if pictured else 0)
    every = _pairs(known, [family]) - (_pairs(known, [family, *pictured]) if pictured else 0)
    return DecidingColumn(name, varies, matches, every - matches)


def _pairs(frame: pd.DataFrame, columns: Sequence[str]) -> int:
    """How many pairs of rows agree in all columns."""
    sizes = frame.groupby(list(columns)).size()
    return int((sizes * (sizes - 1) // 2).sum())


def _tells_families_apart(frame: pd.DataFrame, family: str, name: str) -> bool:
    return bool(frame[name].nunique() > NAMES_FAMILY * frame[family].nunique())


def pairs_lines(look: PairsLook | None, scalar: Callable[[str], str]) -> Iterator[str]:
    """The section as commented YAML; `scalar` writes a text so that YAML reads it back as it is."""
    yield "# Pairs to learn from. Two tasks are ready: take the # away in front of the keys of one of them (or name"
    yield "# your own pairs: `labelled: pairs.csv`). docs/pairs.md has the whole language."
    yield "pairs:"
    yield from _size_lines(look)
    yield from _variant_lines(look, scalar)
    yield from _product_lines(look, scalar)


def _size_lines(look: PairsLook | None) -> Iterator[str]:
    if look is None:
        yield f"  max_family_size: {USUAL_SIZE}  # larger families are left out"
        return
    sizes = look.sizes
    yield f"  # {sizes.items} rows are in {sizes.families} families of several; the largest has {sizes.largest}."
    usual = f"; with {USUAL_SIZE}, {sizes.beyond_usual}" if sizes.most > USUAL_SIZE else ""
    yield f"  max_family_size: {sizes.most}  # larger families are left out: {sizes.beyond} of these rows{usual}"
    if sizes.most > USUAL_SIZE:
        cap = USUAL_SIZE * (USUAL_SIZE - 1) // 2
        yield f"  max_pairs_per_family: {cap}  # as {USUAL_SIZE} items make: else large families make most of the pairs"
    if look.shared:
        yield f"  # {look.shared} rows show a picture that another row of their family shows too: comparing files would"
        yield "  # solve such a pair, so both tasks below leave it out (`differ`)."


def _variant_lines(look: PairsLook | None, scalar: Callable[[str], str]) -> Iterator[str]:
    yield ""
    yield '  # "The same variant?" Items of one family match when `decided_by` is equal in both. Choose a column that'
    yield "  # shows in the pictures and take it out of columns.text: the model must not read the answer."
    deciding = look.deciding if look else ()
    for each in deciding:
        counts = f"{each.matches} matches, {each.mismatches} mismatches"
        yield f"  # decided_by: [{scalar(each.name)}]  # differs inside {each.varies:.0%} of the families: {counts}"
    if not deciding:
        yield "  # decided_by: [COLUMN]  # no column with few values differs inside a family"
    same = ", ".join(map(scalar, look.same)) if look and look.same else "COLUMN"
    yield f"  # same: [{same}]  # compare only items that are equal in these"
    yield from _differ_lines(look, scalar)


def _product_lines(look: PairsLook | None, scalar: Callable[[str], str]) -> Iterator[str]:
    yield ""
    yield '  # "The same product?" Any two items of a family match; mismatches are look-alikes of other families.'
    if look and look.giveaways:
        named = ", ".join(map(scalar, look.giveaways))
        yield f"  # Comparing these answers it, so take them out of columns.text: {named}"
    yield f"  # decided_by: [{scalar(look.family) if look else 'FAMILY'}]"
    yield "  # negatives: {family: 0, text: 0.5, image: 0.5}"
    yield from _differ_lines(look, scalar)


def _differ_lines(look: PairsLook | None, scalar: Callable[[str], str]) -> Iterator[str]:
    if look and look.shared and look.image is not None:
        yield f"  # differ: [{scalar(look.image)}]  # no pair of items with one picture"
