"""What a catalog team should look at first, the worst on top; every sentence has its number."""

from collections.abc import Iterator
from dataclasses import dataclass

from mlim.catalog.quarantine import describe_reasons
from mlim.data.lengths import TokenCut
from mlim.ingest.run import FEWEST_FAMILIES
from mlim.report.contact.gather import Look
from mlim.report.contact.measures import Measures, copied, sides_ratio
from mlim.report.kit import formats
from mlim.report.kit.charts import share_of

BAD, WARNING = "bad", "warning"
SHOWN_WORDS = 5
FEW_PAIRED = 0.5  # of the rows: catalogs with fewer in pairs are mostly not learned to match
FEW_MATCHES, MANY_MATCHES = 0.1, 0.9  # prevalence outside of these makes a lopsided task


@dataclass(frozen=True)
class Problem:
    """One sentence; `tone` is bad (do not train on this) or warning; `count` orders them; `anchor` shows more."""

    tone: str
    count: int
    sentence: str
    anchor: str


def find_problems(look: Look) -> tuple[Problem, ...]:
    """All problems: the bad ones first, then by the number of rows that have them."""
    finders = (_ingest, _pictures, _source, _leaked_words, _reasons, _validation, _items, _pairs)
    found = [problem for find in finders for problem in find(look)]
    return tuple(sorted(found, key=lambda problem: (problem.tone != BAD, -problem.count)))


def unchecked(look: Look) -> tuple[str, ...]:
    """What no step has looked at yet, with the step that does."""
    without_pairs = look.source is not None and look.source.description.pairs.none
    waiting = (
        ("whether every picture can be opened (`mlim ingest`)", look.ingest is None or look.refused is not None),
        ("whether the items meet the expectations (`mlim validate`)", look.validation is None),
        ("whether the pairs are balanced and leak nothing (`mlim pairs`)", look.pairs is None and not without_pairs),
    )
    return tuple(words for words, missing in waiting if missing)


def _ingest(look: Look) -> Iterator[Problem]:
    if look.other_catalog:
        rows = look.source.rows if look.source is not None else 0
        sentence = (
            f"The items of the work folder came from another catalog, {look.other_catalog}: name the right --work."
        )
        yield Problem(BAD, rows, sentence, "source")
    if look.changed and not look.other_catalog:
        rows = look.source.rows if look.source is not None else 0
        sentence = (
            f"The items are older than the catalog: since the last ingest, {', '.join(look.changed)} changed; run "
            "`mlim ingest` again."
        )
        yield Problem(BAD, rows, sentence, "source")
    if look.refused is not None:
        bad, rows = sum(look.refused["quarantined"].values()), look.refused["rows_in"]
        sentence = (
            f"The last ingest was rejected: {formats.count(bad)} of {formats.count(rows)} rows are bad. "
            "Items shown below, if any, are of an older ingest."
        )
        yield Problem(BAD, rows, sentence, "quarantine")
    if look.ingest is None:
        return
    rows, good = look.ingest["rows_in"], look.ingest["ingested"]
    bad = sum(look.ingest["quarantined"].values())
    if rows != good + bad or look.row_log_lines not in (-1, rows):
        sentence = (
            f"Rows are missing: {formats.count(rows)} came in, {formats.count(good)} were ingested, "
            f"{formats.count(bad)} quarantined, {formats.count(look.row_log_lines)} are in the row log."
        )
        yield Problem(BAD, rows, sentence, "numbers")


def _pictures(look: Look) -> Iterator[Problem]:
    unusable = (look.ingest or {}).get("pictures", {}).get("unusable")
    if unusable:
        total, reasons = sum(unusable.values()), describe_reasons(unusable)
        sentence = f"{formats.count(total)} pictures of rows that list several cannot be used: {reasons}."
        yield Problem(WARNING, total, sentence, "quarantine")


def _source(look: Look) -> Iterator[Problem]:
    """Only before ingest: afterwards the quarantine says the same and more."""
    if look.source is None or look.counted is not None:
        return
    family, families = look.source.description.columns.family, len(look.source.families)
    if family is not None and families < FEWEST_FAMILIES:
        held = "holds one family only" if families else "is empty"
        yield Problem(BAD, look.source.rows, f"The family column `{family}` {held}: no split can be made.", "source")
    for reason, count in look.source.problems.items():
        tone = _tone(look, count, look.source.rows)
        yield Problem(tone, count, f"{_rows(count, look.source.rows)}: {reason}.", "source")


def _reasons(look: Look) -> Iterator[Problem]:
    rows = (look.counted or {}).get("rows_in", 0)
    for reason in look.reasons:
        where = "" if reason.stage == "ingest" else " by validation"
        sentence = f"{_rows(reason.count, rows)} quarantined{where}: {reason.reason}."
        yield Problem(_tone(look, reason.count, rows), reason.count, sentence, "quarantine")


def _validation(look: Look) -> Iterator[Problem]:
    if look.outdated:
        sentence = (
            "Validation and pairs are of older items and are left out: run `mlim validate` and `mlim pairs` again."
        )
        yield Problem(BAD, len(look.measures or ()), sentence, "numbers")
    if look.validation is None:
        return
    overruled, checked = bool(look.validation.get("acceptance")), look.validation["checked"]
    for complaint in look.validation.get("complaints", ()):
        sentence = f"Validation, overruled by a person: {complaint}" if overruled else f"Validation: {complaint}"
        yield Problem(WARNING if overruled else BAD, checked, sentence, "validation")
    cut = TokenCut.of(look.validation)
    if cut and cut.warning:
        yield Problem(WARNING, round(cut.texts_cut * checked), f"{cut.warning}.", "shapes")


def _leaked_words(look: Look) -> Iterator[Problem]:
    """Texts that hold the item's own value of what decides pairs."""
    for column in look.source.leaked if look.source is not None else ():
        if column.leaking:
            words = column.words.most_common(SHOWN_WORDS)
            often = ", ".join(f"{word} ({formats.count(count)})" for word, count in words)
            sentence = (
                f"{_rows(column.leaking, column.told)} say their own `{column.name}`, which decides pairs, in the text "
                f"that the model reads: {often}."
            )
            yield Problem(_tone(look, column.leaking, column.told), column.leaking, sentence, "source")


def _items(look: Look) -> Iterator[Problem]:
    measures = look.measures
    if measures is None or not len(measures):
        return
    total = len(measures)
    for count, words in _findings(measures, look):
        if count:
            yield Problem(_tone(look, count, total), count, f"{_rows(count, total, 'item')} {words}.", "shapes")


def _findings(measures: Measures, look: Look) -> Iterator[tuple[int, str]]:
    settings = look.settings
    ratio = settings.long_side_ratio
    yield copied(measures), "with a picture that another item has too, byte for byte"
    yield int((measures.contrast < settings.blank_contrast).sum()), "with a picture that looks blank"
    yield int((sides_ratio(measures) > ratio).sum()), f"with a picture more than {ratio:g} times as long as wide"
    yield int((measures.characters < settings.short_text).sum()), f"with a text under {settings.short_text} characters"
    missing = int((measures.family.codes < 0).sum())
    yield (missing if measures.family.names else 0), "without a family: they are in no pair"


def _pairs(look: Look) -> Iterator[Problem]:
    if look.pairs is None:
        return
    rows = (look.counted or {}).get("rows_in", 0)
    if rows and look.pairs.items < FEW_PAIRED * rows:
        why = f" Left out: {look.pairs.left_out}." if look.pairs.left_out else ""
        sentence = f"Only {_rows(look.pairs.items, rows)} are in pairs.{why}"
        yield Problem(WARNING, rows - look.pairs.items, sentence, "pairs")
    for entry in look.pairs.leaks:
        if entry.get("leaks"):
            score = formats.score(entry.get("pr_auc"))
            sentence = f"The pairs leak: the rule \u201c{entry.get('rule')}\u201d alone reaches PR-AUC {score}."
            yield Problem(BAD, look.pairs.total, sentence, "leaks")
    if look.pairs.ties:
        largest, ties = look.pairs.summary["largest_component"], look.pairs.ties
        sentence = f"{formats.count(largest)} items are tied into one split: {ties[0].sentence}."
        yield Problem(WARNING, largest, sentence, "ties")
    for split, (mismatches, matches) in look.pairs.counts.items():
        share = matches / (matches + mismatches) if matches + mismatches else None
        if share is None or not FEW_MATCHES <= share <= MANY_MATCHES:
            words = f"{formats.percent(share)} of the {split} pairs match: a lopsided task."
            yield Problem(WARNING, matches + mismatches, words, "pairs")


def _tone(look: Look, count: int, total: int) -> str:
    return BAD if total and count > look.settings.worrying_share * total else WARNING


def _rows(count: int, total: int, noun: str = "row") -> str:
    share = f" ({share_of(count, total)})" if total else ""
    return f"{formats.count(count)} {noun}{'' if count == 1 else 's'}{share}"
