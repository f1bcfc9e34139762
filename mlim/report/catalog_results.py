"""What a model does for a whole catalog, as Markdown: candidates, groups, promises, labels, completed attributes.

The figures are those that `mlim match`, `mlim evaluate`, the simulated review and `mlim complete` track: which known
matches are among the candidates, how good the groups are on test pairs, how often a promised precision is kept, how
many labels the queue of `mlim review` saves, how many held-back values are restored.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlim.completion.compared import HEAD, MODEL, MOST_FREQUENT, TREES, WITHOUT_PICTURE
from mlim.pairs.labels import TEST
from mlim.report.kit import formats
from mlim.report.kit.markdown import table

BASELINES: Final = (MOST_FREQUENT, TREES, WITHOUT_PICTURE, HEAD)
NEAREST: Final = ("10",)  # neighbours, beside as many as are candidates
ALL: Final = "all"
FOREST: Final = "a random forest"  # what learns in summaries that do not say it
RANDOM: Final = "random"  # the way to choose pairs that others are compared with
INTERVAL: Final = ("value", "low", "high")

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


def promises_part(found: Sequence[Summary]) -> list[str]:
    """How often a promised precision was kept, one row for each, from the metrics of `mlim evaluate`."""
    if not found:
        return []
    one = found[0]
    return [
        "### Promised precision",
        "",
        f"{formats.count(one['resamples'])} times {formats.count(one['families'])} families of the test pairs are "
        "drawn with replacement, a threshold is promised on their pairs, and its precision on all test pairs is looked "
        "up.",
        "",
        *table(("promised precision", "could be promised", "kept", "share kept"), map(_promise_cells, found)),
    ]


def _promise_cells(one: Summary) -> list[str]:
    share = one["share"]
    shown = formats.MISSING if share is None else formats.interval(**_ends(share))
    return [f"{one['target']:g}", formats.count(one["promised"]), formats.count(one["kept"]), shown]


def reviewing_part(found: Summary) -> list[str]:
    """What labels of each way of choosing pairs are worth, from the summary of the simulated review."""
    most, of_random = found["labels"][-1], found["ways"][RANDOM]["pr_auc"][-1]
    header = ("pairs chosen by", f"PR-AUC of {most:,} labels", "labels for the PR-AUC of random ones", "share of them")
    return [
        "### Labels from review",
        "",
        f"A simulated reviewer answers, {found.get('learner', FOREST)} learns: {formats.count(found['candidates'])} "
        f"candidates, {formats.percent(found['matches'])} of them matches, means of {found['seeds']} seeds. {most:,} "
        f"random labels reach a PR-AUC of {formats.score(of_random)}.",
        "",
        *table(header, (_way_cells(way, each, most) for way, each in found["ways"].items())),
    ]


def _way_cells(way: str, found: Summary, most: int) -> list[str]:
    last = formats.score(found["pr_auc"][-1])
    if "cost" not in found:
        return [way, last, formats.count(most), formats.MISSING]
    share = found["cost"]["value"]
    labels = f"more than {most:,}" if share is None else formats.count(round(share * most))
    return [way, last, labels, _share_of_labels(found["cost"])]


def _share_of_labels(cost: Mapping[str, float | None]) -> str:
    """A share with its interval, whose ends are unknown where more labels than were given would be needed."""
    value, low, high = ("more than 1" if cost[name] is None else formats.score(cost[name]) for name in INTERVAL)
    return f"{value} [{low}, {high}]"


def completions_part(found: Sequence[Summary]) -> list[str]:
    """Held-back values that are restored, one row for each attribute, from the summaries of `mlim complete`."""
    if not found:
        return []
    header = ("attribute", "held-back cells", "pre-training", *(f"minus {name}" for name in BASELINES))
    return [
        "### Attributes completed",
        "",
        "Share of held-back test cells restored exactly. A row without a difference to the MLM head alone was measured "
        "when that was the whole model.",
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
            *(_difference(test["model_minus"], name) for name in BASELINES),
        ]


def _difference(found: Mapping[str, Any], name: str) -> str:
    return formats.signed_interval(**_ends(found[name])) if name in found else formats.MISSING


def _ends(figure: Mapping[str, float]) -> dict[str, float]:
    return {name: figure[name] for name in INTERVAL}
