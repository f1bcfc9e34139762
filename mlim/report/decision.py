"""A decision about the champion as a page in Markdown, and two versions beside each other as rows of a table."""

from collections.abc import Iterable, Iterator

from mlim.evaluation.gate import Objection
from mlim.evaluation.promotion import Comparison, Decision, Figures
from mlim.report.cards import markdown_table
from mlim.report.kit import formats

Rows = list[tuple[str, ...]]


def decision_page(decision: Decision) -> str:
    """Outcome, reasons, what a person said against them, and the figures of both versions."""
    verdict = "is champion" if decision.promoted else "is not promoted"
    parts = [
        f"# {decision.model} version {decision.version} {verdict}",
        f"{decision.why}.",
        f"Decided {decision.time} by {decision.by}.",
        *_reasons("Objections to the version", decision.objections),
        *_reasons("Against replacing the champion", decision.against),
        *([] if decision.forced is None else [f"**Overruled, because:** {decision.forced}"]),
        *([] if decision.comparison is None else list(_compared(decision.comparison))),
        *([] if decision.test_pairs_sha256 is None else [f"Test pairs `{decision.test_pairs_sha256}`."]),
    ]
    return "\n\n".join(parts) + "\n"


def _reasons(title: str, found: Iterable[Objection]) -> list[str]:
    lines = [f"- `{each.code}`: {each.sentence}" for each in found]
    return [f"## {title}", "\n".join(lines)] if lines else []


def _compared(found: Comparison) -> Iterator[str]:
    for title, rows in (("Figures", figure_rows(found)), ("Share decided right by category", category_rows(found))):
        yield f"## {title}"
        yield markdown_table(rows[0], rows[1:])
    yield from (f"- {note}" for note in notes(found))


def figure_rows(found: Comparison) -> Rows:
    """The figures of both versions, header first."""
    first, second = found.first, found.second
    minus = found.difference
    change = formats.signed_interval(minus.value, minus.low, minus.high)
    rows: Rows = [("test/pr_auc", _pr_auc(first), _pr_auc(second), change)]
    for name in ("precision", "recall", "calibration_error"):
        own, other = getattr(first, name), getattr(second, name)
        rows.append((f"test/{name}", formats.score(own), formats.score(other), formats.signed(own - other)))
    slower = f"{first.milliseconds - second.milliseconds:+.1f}"
    rows.append(("milliseconds of a pair", f"{first.milliseconds:.1f}", f"{second.milliseconds:.1f}", slower))
    return [("figure", f"version {first.version}", f"version {second.version}", "difference"), *rows]


def _pr_auc(figures: Figures) -> str:
    return formats.interval(figures.pr_auc, figures.low, figures.high)


def category_rows(found: Comparison) -> Rows:
    """The share decided right by category, the greatest fall first, header first."""
    rows = [
        (
            each.category or "without category",
            formats.count(each.pairs),
            formats.percent(each.first_right),
            formats.percent(each.second_right),
        )
        for each in found.categories
    ]
    return [("category", "pairs", f"version {found.first.version}", f"version {found.second.version}"), *rows]


def notes(found: Comparison) -> list[str]:
    """What has to be known about a comparison."""
    unknown = ", ".join(found.unknown)
    return [
        *([found.difference.why] if found.difference.why else []),
        *(
            [f"{formats.count(found.left_out)} test pairs are left out: one version has learned from their items"]
            if found.left_out
            else []
        ),
        *(
            [f"version {unknown} does not record what it has learned from: some of these pairs may be among it"]
            if unknown
            else []
        ),
    ]
