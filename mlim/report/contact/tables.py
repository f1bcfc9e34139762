"""The tables of the contact sheet: cells as text, ready to be shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlim.report import formats
from mlim.report.contact.charts import share_of
from mlim.report.contact.gather import Look, Summary
from mlim.report.contact.pairs import SPLITS, PairsLook
from mlim.report.contact.source import SourceLook

SHOWN_FILES = 12
KNOWN_LEAK_KEYS = ("rule", "pr_auc", "leaks", "majority", "prevalence")


@dataclass(frozen=True)
class LeakRow:
    """One simple rule: `bar` of 1 is a rule that solves the task; `more` is what else the audit says of it."""

    rule: str
    score: str
    bar: float
    leaks: bool
    more: str


@dataclass(frozen=True)
class SplitRow:
    """One split's pairs; `share` of 1 are matches."""

    split: str
    total: str
    matches: str
    mismatches: str
    share: float
    percent: str


def kind_rows(pairs: PairsLook | None) -> tuple[tuple[str, ...], ...]:
    """Kind, match or mismatch, all pairs, pairs of each split."""
    return tuple(
        (kind.name, "match" if kind.match else "mismatch", *map(formats.count, (kind.total, *_splits(kind.counts))))
        for kind in (pairs.kinds if pairs is not None else ())
    )


def _splits(counts: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(counts.get(split, 0) for split in SPLITS)


def split_rows(pairs: PairsLook | None) -> tuple[SplitRow, ...]:
    """Matches and mismatches of each split."""
    rows = []
    for split, (mismatches, matches) in (pairs.counts if pairs is not None else {}).items():
        total = matches + mismatches
        share = matches / total if total else 0.0
        all_pairs, one, other = map(formats.count, (total, matches, mismatches))
        rows.append(SplitRow(split, all_pairs, one, other, share, formats.percent(share)))
    return tuple(rows)


def leak_rows(pairs: PairsLook | None) -> tuple[LeakRow, ...]:
    """The leak audit, the best rule first; fields that this page does not know are told as they are."""
    return tuple(_leak_row(entry) for entry in (pairs.leaks if pairs is not None else ()))


def _leak_row(entry: Mapping[str, Any]) -> LeakRow:
    score = entry.get("pr_auc")
    more = (f"{name.replace('_', ' ')} {_told(value)}" for name, value in entry.items() if name not in KNOWN_LEAK_KEYS)
    return LeakRow(
        rule=str(entry.get("rule", formats.MISSING)),
        score=formats.score(score),
        bar=min(max(float(score or 0), 0.0), 1.0),
        leaks=bool(entry.get("leaks")),
        more=", ".join(more),
    )


def _told(value: Any) -> str:
    return formats.score(value) if isinstance(value, float) else str(value)


def quarantine_rows(look: Look) -> tuple[tuple[str, ...], ...]:
    """Reason, step, rows, share of all rows."""
    total = (look.counted or {}).get("rows_in", 0)
    return tuple(
        (each.reason, each.stage, formats.count(each.count), share_of(each.count, total)) for each in look.reasons
    )


def file_rows(look: Look) -> tuple[tuple[str, ...], ...]:
    """Source file and how many of its rows were set aside, the worst first; empty for a single file."""
    ordered = sorted(look.aside_by_source.items(), key=lambda entry: (-entry[1], entry[0]))[:SHOWN_FILES]
    return tuple((name, formats.count(count)) for name, count in ordered) if len(ordered) > 1 else ()


def expectation_rows(validation: Summary | None) -> tuple[tuple[str, ...], ...]:
    """Suite, expectation, column, rows that differ: of the expectations that were not met."""
    entries = (validation or {}).get("expectations", ())
    return tuple(
        (str(entry["suite"]), str(entry["expectation"]), str(entry.get("column") or "the table"), _differ(entry))
        for entry in entries
        if not entry["success"]
    )


def drift_rows(validation: Summary | None) -> tuple[tuple[str, ...], ...]:
    """Measure, how far it moved from the last accepted version beyond chance, and by other indices."""
    entries = ((validation or {}).get("drift") or {}).get("divergences") or ()
    return tuple(
        (
            str(entry["measure"]),
            *(formats.score(entry[name]) for name in ("excess", "jensen_shannon", "stability_index")),
        )
        for entry in entries
    )


def _differ(entry: Mapping[str, Any]) -> str:
    return formats.count(entry.get("unexpected"))


def note_rows(source: SourceLook | None) -> tuple[tuple[str, ...], ...]:
    """What a source tells of itself, in words, and how many."""
    return tuple((words, formats.count(count)) for words, count in (source.notes if source is not None else {}).items())


def column_rows(source: SourceLook | None) -> tuple[tuple[str, ...], ...]:
    """Column, what it is for, share of rows that have a value, how many different values."""
    if source is None:
        return ()
    description, rows = source.description, max(source.rows, 1)
    return tuple(
        (
            name,
            "the model reads it" if name in description.text_columns else "decides pairs, hidden from the model",
            formats.percent(column.filled / rows),
            f"{'over ' if column.more else ''}{formats.count(len(column.digests))}",
        )
        for name, column in source.columns.items()
    )
