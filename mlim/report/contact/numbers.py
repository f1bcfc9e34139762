"""The figures at the top of the page, and the charts below."""

from collections.abc import Iterator

import numpy as np

from mlim.data.lengths import TokenCut
from mlim.report.contact.gather import Look
from mlim.report.contact.measures import sides_ratio
from mlim.report.contact.pairs import PairsLook
from mlim.report.contact.sampling import family_sizes
from mlim.report.kit import formats
from mlim.report.kit.blocks import Tile
from mlim.report.kit.charts import Bar, Chart, count_chart, histogram, share_bars

PURPOSES = {"train": "train", "validation": "validate", "test": "test"}  # of a split's pairs: "Pairs to ..."
LARGEST_BAR = 12  # families of more items share the last bar
NO_CATEGORY = "no category"


def headline(look: Look) -> str:
    """The state of the catalog in one sentence."""
    counted, validation = look.counted, look.validation
    if look.refused is not None and counted is not None:
        return f"Ingest rejected this catalog: {formats.count(counted['rows_in'])} rows came in"
    if counted is None:
        found = look.source.rows if look.source is not None else 0
        return f"{formats.count(found)} rows, not checked yet"
    rows = formats.count(counted["rows_in"])
    if validation is None:
        return f"{formats.count(counted['ingested'])} of {rows} rows became items, not checked yet"
    if not validation.get("success", True):
        return f"Validation rejected this catalog of {rows} rows"
    return f"{formats.count(validation['accepted'])} of {rows} rows are ready to train on"


def tiles(look: Look) -> tuple[Tile, ...]:
    """What a catalog team looks for first; what is not known yet is left out."""
    return (*_row_tiles(look), *_text_tiles(look), *_family_tiles(look), *_paired_tiles(look), *_pair_tiles(look.pairs))


def _row_tiles(look: Look) -> Iterator[Tile]:
    counted, validation = look.counted, look.validation
    if counted is None:
        if look.source is not None:
            yield Tile("Rows in the source", formats.count(look.source.rows), "nothing ingested yet")
        return
    bad = sum(counted["quarantined"].values())
    ingested, rows = formats.count(counted["ingested"]), counted["rows_in"]
    yield Tile("Rows in", formats.count(rows), f"= {ingested} ingested + {formats.count(bad)} quarantined")
    if validation is not None:
        rejected = sum(validation["quarantined"].values())
        note = f"{formats.count(rejected)} rejected by validation" if rejected else "validation rejected none"
        yield Tile("Accepted", formats.count(validation["accepted"]), note)
        bad += rejected
    yield Tile("Quarantined", formats.count(bad), f"{formats.percent(bad / rows if rows else 0)} of the rows")


def _text_tiles(look: Look) -> Iterator[Tile]:
    cut = TokenCut.of(look.validation or {})
    if cut is not None:
        note = f"{formats.percent(cut.texts_cut)} of the texts are cut at {cut.max_tokens}"
        yield Tile("Tokens left out", formats.percent(cut.tokens_cut), note)


def _family_tiles(look: Look) -> Iterator[Tile]:
    sizes = _sizes(look)
    if len(sizes):
        several = formats.count(int((sizes > 1).sum()))
        yield Tile("Families", formats.count(len(sizes)), f"{several} with more than one item")


def _paired_tiles(look: Look) -> Iterator[Tile]:
    """The share of the rows that make pairs; before there are pairs, of those whose families may."""
    rows = (look.counted or {}).get("rows_in", 0) or (look.source.rows if look.source is not None else 0)
    if look.pairs is not None and rows:
        note = f"{formats.count(look.pairs.items)} of {formats.count(rows)} rows"
        yield Tile("Rows in pairs", formats.percent(look.pairs.items / rows), note)
    elif look.source is not None and rows and look.source.description.pairs.decided_by:
        sizes, most = _sizes(look), look.source.description.pairs.max_family_size
        fitting = int(sizes[(sizes > 1) & (sizes <= most)].sum())
        note = f"in families of 2 to {most}; {formats.count(int(sizes[sizes > most].sum()))} are in larger ones"
        yield Tile("Rows that may be in pairs", formats.percent(fitting / rows), note)


def _pair_tiles(pairs: PairsLook | None) -> Iterator[Tile]:
    if pairs is None:
        return
    for split, (mismatches, matches) in pairs.counts.items():
        total = matches + mismatches
        share = formats.percent(matches / total) if total else formats.MISSING
        yield Tile(f"Pairs to {PURPOSES[split]}", formats.count(total), f"{share} match")


def _sizes(look: Look) -> np.ndarray:
    """Items of every family, whatever is known of them: (families,)."""
    if look.measures is not None:
        return family_sizes(look.measures)
    return np.array(list(look.source.families.values()) if look.source is not None else [], dtype=np.int64)


def family_chart(look: Look) -> Chart | None:
    """How many families have 1, 2, ... items; None where there are no families."""
    sizes = _sizes(look)
    largest = int(sizes.max(initial=0))
    note = f"largest: {formats.count(largest)} item{'' if largest == 1 else 's'}" if len(sizes) else ""
    return count_chart("Families by number of items", sizes, LARGEST_BAR, note)


def shape_charts(look: Look) -> tuple[Chart, ...]:
    """How long texts are, and how large, long, bright and rich in contrast the pictures are."""
    measures = look.measures
    if measures is None:
        return ()
    charts = (
        histogram("Length of the text", measures.characters, " characters"),
        histogram("Shorter side of the source picture", np.minimum(measures.width, measures.height), " pixels"),
        histogram("Longer side by shorter side", sides_ratio(measures), decimals=2),
        histogram("Brightness of the picture", measures.brightness, decimals=2),
        histogram("Contrast of the picture", measures.contrast, decimals=2),
    )
    return tuple(chart for chart in charts if chart is not None)


def category_bars(look: Look) -> tuple[Bar, ...]:
    """Items by category; empty where the catalog names none."""
    if look.measures is None or not look.measures.category.names:
        return ()
    counts = look.measures.category.counts()
    missing = int((look.measures.category.codes < 0).sum())
    counts |= {NO_CATEGORY: counts.get(NO_CATEGORY, 0) + missing} if missing else {}
    return share_bars(counts, look.settings.categories, "{} more categories")
