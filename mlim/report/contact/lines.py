"""The contact sheet's numbers as lines for a terminal."""

from collections.abc import Iterator

from mlim.catalog.quarantine import describe_reasons
from mlim.console import printable
from mlim.data.lengths import TokenCut
from mlim.report.contact.gather import Look
from mlim.report.contact.pairs import PairsLook
from mlim.report.contact.problems import find_problems, unchecked
from mlim.report.contact.source import SourceLook
from mlim.report.kit import formats

SHOWN_CHARACTERS = 60
SHOWN_PROBLEMS = 6


def describe(look: Look) -> Iterator[str]:
    """Lines that say what a catalog holds and what became of it: source, ingest, validation, pairs, problems.

    Texts of the catalog cannot steer the terminal: what is not printable is replaced.
    """
    yield from map(printable, _lines(look))


def _lines(look: Look) -> Iterator[str]:
    if look.source is not None:
        yield from _source(look.catalog, look.source)
    yield from _results(look)
    if look.pairs is not None:
        yield from _pairs(look.pairs)
    problems = find_problems(look)
    for problem in problems[:SHOWN_PROBLEMS]:
        yield f"{'!' if problem.tone == 'bad' else '-'} {problem.sentence}"
    if len(problems) > SHOWN_PROBLEMS:
        yield f"  and {len(problems) - SHOWN_PROBLEMS} more problems on the page"
    yield from (f"not checked yet: {words}" for words in unchecked(look))


def _source(catalog: str, source: SourceLook) -> Iterator[str]:
    yield f"{catalog}: {source.rows} rows"
    family, sizes = source.description.columns.family, source.families
    if family is not None:
        several = sum(size > 1 for size in sizes.values())
        yield f"families: {len(sizes)} in column `{family}`, {several} with more than one item"
    width = max(map(len, source.columns))
    for name, column in source.columns.items():
        share = 100 * column.filled // max(source.rows, 1)
        yield f"  {name:<{width}} {share:>3} % filled, {'over ' if column.more else ''}{len(column.digests)} values"
    yield from (f"  {words}: {count}" for words, count in source.notes.items())
    decided = ", ".join(source.description.pairs.decided_by)
    yield f"a pair matches when equal: {decided or 'given by the labelled file'}"
    for row in source.first:
        yield f"  {row.id[:SHOWN_CHARACTERS]}: {row.text[:SHOWN_CHARACTERS]}"


def _results(look: Look) -> Iterator[str]:
    counted, validation = look.counted, look.validation
    if counted is not None:
        bad = counted["quarantined"]
        reasons = f" ({describe_reasons(bad)})" if bad else ""
        yield (
            f"ingest: {counted['rows_in']} rows in = {counted['ingested']} ingested + {sum(bad.values())} "
            f"quarantined{reasons}"
        )
    if validation is not None:
        bad = validation["quarantined"]
        reasons = f"; quarantined: {describe_reasons(bad)}" if bad else ""
        yield f"validate: {validation['accepted']} of {validation['checked']} items accepted{reasons}"
        if cut := TokenCut.of(validation):
            yield f"texts: {cut}"


def _pairs(pairs: PairsLook) -> Iterator[str]:
    counts = "; ".join(f"{split} {one} match, {other} mismatch" for split, (other, one) in pairs.counts.items())
    yield f"pairs: {pairs.total} of {pairs.items} items: {counts}"
    for kind in pairs.kinds:
        yield f"  {kind.total:>6} {'match' if kind.match else 'mismatch'}: {kind.name}"
    if pairs.leaks:
        best = pairs.leaks[0]
        score, test = formats.score(best.get("pr_auc")), pairs.counts["test"]
        chance = formats.score(test[1] / max(sum(test), 1))
        yield f"best simple rule: {best.get('rule')}, PR-AUC {score} (matches among the test pairs: {chance})"
