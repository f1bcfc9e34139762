"""The tables of the contact sheet; those that would be empty are left out."""

from collections.abc import Iterator, Mapping
from typing import Any

from mlim.report.contact.gather import Look, Summary
from mlim.report.contact.pairs import SPLITS, PairsLook
from mlim.report.contact.source import SourceLook
from mlim.report.kit import formats
from mlim.report.kit.blocks import Line, Table
from mlim.report.kit.charts import share_of

SHOWN_FILES = 12
SHOWN_WORDS = 8
KNOWN_LEAK_KEYS = ("rule", "pr_auc", "leaks", "majority", "prevalence")


def pair_tables(pairs: PairsLook | None) -> dict[str, Table | None]:
    """Pairs by split, by kind of variation, and the leak audit (None where the pairs were made without one)."""
    if pairs is None:
        return {}
    return {"splits": _splits(pairs), "kinds": _kinds(pairs), "leaks": _leaks(pairs) if pairs.leaks else None}


def _leaked(source: SourceLook) -> Table:
    header = ("column that decides pairs", "its values that texts say most often", "rows with a value", "share of them")
    rows = tuple(
        (
            column.name,
            ", ".join(word for word, _ in column.words.most_common(SHOWN_WORDS)) or formats.MISSING,
            formats.count(column.told),
            share_of(column.leaking, column.told),
        )
        for column in source.leaked
    )
    note = "A text that says the row's own value gives the answer away; the shares count such texts."
    return Table("What decides pairs, in the texts that the model reads", header, rows, note, text_columns=2)


def _splits(pairs: PairsLook) -> Table:
    header = ("split", "pairs", "match", "mismatch", "share of matches", "")
    rows = list[tuple[str | Line, ...]]()
    for split, (mismatches, matches) in pairs.counts.items():
        total = matches + mismatches
        share = matches / total if total else 0.0
        numbers = map(formats.count, (total, matches, mismatches))
        rows.append((split, *numbers, formats.percent(share), Line(share)))
    return Table("Pairs by split", header, tuple(rows))


def _kinds(pairs: PairsLook) -> Table:
    rows = tuple(
        (
            kind.name,
            "match" if kind.match else "mismatch",
            *map(formats.count, (kind.total, *(kind.counts.get(split, 0) for split in SPLITS))),
        )
        for kind in pairs.kinds
    )
    note = f"Left out: {pairs.left_out}." if pairs.left_out else ""
    return Table("Pairs by kind of variation", ("kind", "label", "pairs", *SPLITS), rows, note, text_columns=2)


def _leaks(pairs: PairsLook) -> Table:
    """The best rule first; fields that this page does not know stand beside the rule."""
    chance = pairs.summary.get("prevalence")
    guessing = f" Guessing has PR-AUC {formats.score(chance)}, the share of matches among the test pairs."
    return Table(
        "Leak audit: how far simple rules come",
        ("rule", "verdict", "PR-AUC", ""),
        tuple(map(_leak, pairs.leaks)),
        f"A trained model must beat the best of them.{guessing if chance else ''}",
        text_columns=2,
        tones=tuple("bad" if entry.get("leaks") else "open" for entry in pairs.leaks),
    )


def _leak(entry: Mapping[str, Any]) -> tuple[str | Line, ...]:
    score, leaks = entry.get("pr_auc"), bool(entry.get("leaks"))
    more = [
        f"{name.replace('_', ' ')} {_formatted(value)}" for name, value in entry.items() if name not in KNOWN_LEAK_KEYS
    ]
    rule = str(entry.get("rule", formats.MISSING))
    line = Line(min(max(float(score or 0), 0.0), 1.0), "bad" if leaks else "")
    named = f"{rule} ({', '.join(more)})" if more else rule
    return (named, "leaks" if leaks else "no leak", formats.score(score), line)


def _formatted(value: Any) -> str:
    return formats.score(value) if isinstance(value, float) else str(value)


def quarantine_tables(look: Look) -> Iterator[Table]:
    """Reasons, and the source files with most of the quarantined rows where there are several files."""
    total = (look.counted or {}).get("rows_in", 0)
    reasons = tuple(
        (each.reason, each.stage, formats.count(each.count), share_of(each.count, total)) for each in look.reasons
    )
    if reasons:
        yield Table("Reasons", ("reason", "step", "rows", "share of all rows"), reasons, text_columns=2)
    ordered = sorted(look.quarantined_by_source.items(), key=lambda entry: (-entry[1], entry[0]))[:SHOWN_FILES]
    if len(ordered) > 1:
        files = tuple((name, formats.count(count)) for name, count in ordered)
        yield Table("Files with most of these rows", ("file", "rows quarantined"), files)


def validation_tables(validation: Summary | None) -> Iterator[Table]:
    """How far measures moved from the last accepted version, and the expectations that were not met."""
    divergences = ((validation or {}).get("drift") or {}).get("divergences") or ()
    if divergences:
        names = ("excess", "jensen_shannon", "stability_index")
        header = ("measure", "beyond chance", "Jensen-Shannon divergence, bits", "population stability index")
        rows = tuple((str(each["measure"]), *(formats.score(each[name]) for name in names)) for each in divergences)
        yield Table("Drift from the last accepted version", header, rows)
    failed = [entry for entry in (validation or {}).get("expectations", ()) if not entry["success"]]
    if failed:
        header = ("suite", "expectation", "column", "rows that differ")
        yield Table("Expectations that were not met", header, tuple(map(_expectation, failed)), text_columns=3)


def _expectation(entry: Mapping[str, Any]) -> tuple[str, ...]:
    column = str(entry.get("column") or "the table")
    return (str(entry["suite"]), str(entry["expectation"]), column, formats.count(entry.get("unexpected")))


def source_tables(source: SourceLook | None) -> Iterator[Table]:
    """What each column is for and how far it is filled, and what the source says of itself."""
    if source is None:
        return
    description, rows = source.description, max(source.rows, 1)
    columns = tuple(
        (
            name,
            "the model reads it" if name in description.text_columns else "decides pairs, hidden from the model",
            formats.percent(column.filled / rows),
            f"{'over ' if column.more else ''}{formats.count(len(column.digests))}",
        )
        for name, column in source.columns.items()
    )
    yield Table("Columns", ("column", "use", "filled", "different values"), columns, text_columns=2)
    if source.leaked:
        yield _leaked(source)
    if source.notes:
        notes = tuple((words, formats.count(count)) for words, count in source.notes.items())
        yield Table("What the source says of itself", ("what", "how many"), notes)
