"""What a model does for a whole catalog, as Markdown: candidates, groups, and attributes that are completed.

The figures are those that `mlim match` and `mlim complete` track: which known matches are among the candidates, how
good the groups are on test pairs, how many held-back values are restored.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlim.completion.compared import MODEL, MOST_FREQUENT, TREES, WITHOUT_PICTURE
from mlim.pairs.labels import TEST
from mlim.report.kit import formats
from mlim.report.kit.markdown import table

BASELINES: Final = (MOST_FREQUENT, TREES, WITHOUT_PICTURE)
NEAREST: Final = ("10",)  # neighbours, beside as many as are candidates
ALL: Final = "all"

Summary = Mapping[str, Any]


def matching_part(found: Summary) -> list[str]:
    """Candidates by kind of match and groups with their intervals, from the summary of `mlim match`."""
    kept = found["pair_completeness"].get(TEST)
    return [
        "### From catalog to matches",
        "",
        f"`mlim match` with {found['model']}: {formats.count(found['candidates'])} candidates of "
        f"{formats.count(found['items'])} items ({100 * found['share_of_all_pairs']:.2g} % of all pairs), "
        f"{formats.count(found['matches'])} of them matches at {formats.score(found['threshold'])}, "
        f"{formats.count(found['groups'])} groups of {formats.count(found['grouped_items'])} items, the largest of "
        f"{formats.count(found['largest_group'])}. {found['promise']}".rstrip(),
        "",
        *(_candidates(kept, found.get("recall_at", {}).get(TEST, {})) if kept else ()),
        *_groups(found["groups_on_test_pairs"]),
    ]


def _candidates(kept: Mapping[str, Summary], recall: Mapping[str, Mapping[str, Summary]]) -> list[str]:
    """Known test matches that are among the candidates, and among the nearest neighbours by each way."""
    ways = [(way, at) for way, kinds in recall.items() for at in _shown(kinds[ALL])]
    header = ("known test matches", "number", "among the candidates", *(f"{way}, nearest {at}" for way, at in ways))
    return table(
        header,
        (
            [
                kind,
                formats.count(share["matches"]),
                formats.percent(share["share"]),
                *(formats.percent(recall[way].get(kind, {}).get(at)) for way, at in ways),
            ]
            for kind, share in kept.items()
        ),
    )


def _shown(at: Mapping[str, float]) -> list[str]:
    """The numbers of neighbours that have a column: a few, and the most that are candidates."""
    most = list(at)[-1]
    return [*(each for each in at if each in NEAREST and each != most), most]


def _groups(figures: Mapping[str, Mapping[str, Summary]]) -> list[str]:
    names = {"pairwise": "pairwise", "b_cubed": "B-cubed"}
    rows = [
        [names[kind], *(formats.interval(**each[name]) for name in ("precision", "recall", "f1"))]
        for kind, each in figures.items()
    ]
    return table(("groups on test pairs", "precision", "recall", "F1"), rows) if rows else []


def completions_part(found: Sequence[Summary]) -> list[str]:
    """Held-back values that are restored, one row for each attribute, from the summaries of `mlim complete`."""
    if not found:
        return []
    header = ("attribute", "held-back cells", "pre-training", *(f"minus {name}" for name in BASELINES))
    return [
        "### Attributes completed",
        "",
        "Share of held-back test cells restored exactly.",
        "",
        *table(header, _cells(found)),
    ]


def _cells(found: Sequence[Summary]) -> Iterator[list[str]]:
    for each in sorted(found, key=lambda one: str(one["attribute"])):
        test = each["test"]
        yield [
            str(each["attribute"]),
            formats.count(test["cells"]),
            f"{each['pretraining']}: {formats.interval(**_ends(test['exact_match'][MODEL]))}",
            *(formats.signed_interval(**_ends(test["model_minus"][name])) for name in BASELINES),
        ]


def _ends(figure: Mapping[str, float]) -> dict[str, float]:
    return {name: figure[name] for name in ("value", "low", "high")}
