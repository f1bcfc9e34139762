"""`mlim group`: groups of matching items from scored pairs, what was in conflict, and how good the groups are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlim.catalog.description import load_description
from mlim.catalog.values import tidy
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.evidence import families_of
from mlim.evaluation.resampling import JudgedPairs
from mlim.evaluation.scores import labels_of, part
from mlim.files import atomic_folder, plain_cell, read_json, write_csv, write_json
from mlim.matching.candidates import Places
from mlim.matching.columns import read_rules
from mlim.matching.earlier import GONE, Comparison, EarlierMatch, PairNumbers, compare_pairs
from mlim.matching.group_events import (
    EVENT_SCHEMA,
    KINDS,
    Causes,
    Event,
    continued_ids,
    event_table,
    group_events,
)
from mlim.matching.group_figures import judge_groups
from mlim.matching.groups import (
    Grouping,
    GroupRules,
    Kept,
    ScoredPairs,
    group_ids,
    group_pairs,
    representatives,
)
from mlim.matching.pairs_table import SIDES, write_table
from mlim.matching.scored_table import scored_rows
from mlim.pairs.labels import TEST
from mlim.recipe import Recipe
from mlim.workspace import Workspace

GROUPS_FILE, CONFLICTS_FILE, EVENTS_FILE, SUMMARY_FILE = "groups", "conflicts.csv", "events", "summary.json"
REPRESENTATIVE, MEMBER = "representative", "member"
PAIR_COLUMNS: Final = ["item_a", "item_b", "score"]
GROUP_COLUMNS: Final = ["item", "group", "role", "size"]
CONFLICT_COLUMNS: Final = ["item_a", "item_b", "score", "reason"]
ITEM_COLUMNS: Final = ["id", "family", "attributes", "facts"]
SHOWN_IDS: Final = 3


@dataclass(frozen=True)
class _Scored:
    """The scored pairs of a table, each once; `missing` had no score, `repeated` were there before."""

    pairs: ScoredPairs
    missing: int
    repeated: int


def group_items(
    recipe: Recipe,
    catalog: Path,
    workspace: Workspace,
    terminal: Terminal,
    scores: Path | None = None,
    threshold: float | None = None,
    *,
    trained_across_families: bool = True,
    earlier: EarlierMatch | None = None,
) -> dict[str, Any]:
    """Write groups.parquet, groups.csv, conflicts.csv and summary.json; return the summary.

    After an `earlier` match only what differs is grouped anew, ids of groups stay, and events.parquet and events.csv
    say what became of them.

    `scores` is a table item_a, item_b, score (.parquet or .csv; default: that of `mlim score`); pairs without a score
    are no evidence. `threshold`: from which score on a pair matches; default: that of `mlim evaluate`.
    `trained_across_families`: see `MatchRules.with_families`. With the pairs
    of `mlim pairs`, the groups are judged on the test pairs. `InputError` for a table of other items.
    """
    items = _read_items(workspace)
    ids = [str(item) for item in items["id"].tolist()]
    scored = _read_scores(scores or workspace.root / "scores" / "scores.parquet", ids)
    description, limits = load_description(catalog), recipe.match.groups
    lowest = _threshold(workspace) if threshold is None else threshold
    rules = GroupRules(limits.method, lowest, limits.max_items, limits.min_inner)
    _, never = read_rules(items, description.matching.with_families(trained_across_families), description.values)
    compared = None if earlier is None else compare_pairs(earlier, ids, scored.pairs, rules.threshold)
    found = group_pairs(len(ids), scored.pairs, never, rules, _kept(earlier, compared, ids))
    table = _table(found, scored.pairs, ids, earlier)
    events = _events(table, earlier, compared)
    summary = {
        **_counts(table),
        **({} if events is None else {"events": {kind: [e.kind for e in events].count(kind) for kind in KINDS}}),
        **rules._asdict(),
        "pairs": len(scored.pairs.score),
        "pairs_without_score": scored.missing,
        "repeated_pairs": scored.repeated,
        "conflicts": pd.Series([conflict.reason for conflict in found.conflicts], dtype="str").value_counts().to_dict(),
        "test": _judged(recipe, workspace, found, ids),
    }
    _write(workspace.groups, table, found, ids, events, summary)
    _report(summary, terminal)
    return summary


def _read_items(workspace: Workspace) -> pd.DataFrame:
    index = workspace.valid / "index.parquet"
    if not index.is_file():
        raise InputError(f"{index} is missing; run `mlim validate` first")
    items: pd.DataFrame = pq.read_table(index, columns=ITEM_COLUMNS).to_pandas().sort_values("id", ignore_index=True)
    return items


def _read_scores(path: Path, ids: list[str]) -> _Scored:
    if not path.is_file():
        raise InputError(
            f"{path}: no such table of scored pairs; run `mlim match`, or name the table that `mlim score` wrote with "
            "--scores"
        )
    read = _pairs_table(path)
    table = read[read["score"].notna()]  # a pair that could not be scored may be of no item at all
    numbering = PairNumbers(ids)
    sides = [_places_of(numbering, table[side]) for side in PAIR_COLUMNS[:2]]
    unknown = sorted(
        {str(item) for side, found in zip(PAIR_COLUMNS, sides, strict=False) for item in table[side][found == GONE]}
    )
    if unknown:
        more = ", ..." if len(unknown) > SHOWN_IDS else ""
        raise InputError(
            f"{path}: {len(unknown)} ids are no items of the catalog ({', '.join(unknown[:SHOWN_IDS])}{more}); score "
            "the candidates of this catalog"
        )
    one, other = sides
    if (one == other).any():
        raise InputError(f"{path}: pairs `{ids[int(one[one == other][0])]}` with itself; leave such pairs out")
    known = pd.DataFrame({"first": np.minimum(one, other), "second": np.maximum(one, other), "score": table["score"]})
    if not known["score"].between(0, 1).all():
        raise InputError(f"{path}: holds scores outside of 0 to 1; write probabilities or the scores of `mlim score`")
    mean = known.groupby(["first", "second"], as_index=False)["score"].mean()
    pairs = ScoredPairs(*(mean[name].to_numpy() for name in ("first", "second", "score")))
    return _Scored(pairs, len(read) - len(known), len(known) - len(mean))


def _places_of(numbering: PairNumbers, ids: pd.Series) -> Places:
    """The places of items; an unknown id is looked for without blanks and as CSV was given it, as in scoring."""
    found = np.array(numbering.places(ids))
    unknown = np.flatnonzero(found == GONE)
    if len(unknown):
        found[unknown] = numbering.places([plain_cell(tidy(str(ids.iloc[place]))) for place in unknown.tolist()])
    return found


def _pairs_table(path: Path) -> pd.DataFrame:
    """item_a and item_b as texts and score as a number, missing where a cell is empty."""
    none = pd.DataFrame({side: pd.Series(dtype="str") for side in SIDES} | {"score": pd.Series(dtype=np.float64)})
    return pd.concat([none, *scored_rows(path, PAIR_COLUMNS)], ignore_index=True)


def _threshold(workspace: Workspace) -> float:
    path = workspace.evaluation / "summary.json"
    if not path.is_file():
        raise InputError(f"{path} is missing, so it is not known from which score on a pair matches; give --threshold")
    return float(read_json(path)["threshold"])


def _kept(earlier: EarlierMatch | None, compared: Comparison | None, ids: list[str]) -> Kept | None:
    """What is not grouped anew; None: everything is."""
    if earlier is None or compared is None or earlier.anew:
        return None
    return compared.kept(ids, [earlier.groups.get(item) for item in ids])


def _events(table: pd.DataFrame, earlier: EarlierMatch | None, compared: Comparison | None) -> list[Event] | None:
    """What became of the groups of an earlier match; None where there is none."""
    if earlier is None or compared is None:
        return None
    groups = dict(zip(table["item"].tolist(), table["group"].tolist(), strict=True))
    return group_events(earlier.groups, groups, Causes(earlier.changes, compared, earlier.anew))


def _table(found: Grouping, pairs: ScoredPairs, ids: list[str], earlier: EarlierMatch | None) -> pd.DataFrame:
    represent = representatives(found.groups, pairs)
    named = group_ids(found.groups, ids) if earlier is None else continued_ids(found.groups, ids, earlier.groups)
    return pd.DataFrame(
        {
            "item": ids,
            "group": named,
            "role": np.where(represent, REPRESENTATIVE, MEMBER),
            "size": np.bincount(found.groups, minlength=1)[found.groups],
        }
    )


def _counts(table: pd.DataFrame) -> dict[str, int]:
    sizes = table.loc[table["role"] == REPRESENTATIVE, "size"]
    return {
        "items": len(table),
        "groups": int((sizes > 1).sum()),
        "grouped_items": int(sizes[sizes > 1].sum()),
        "largest_group": int(sizes.max()) if len(sizes) else 0,
    }


def _judged(recipe: Recipe, workspace: Workspace, found: Grouping, ids: list[str]) -> dict[str, Any]:
    """Figures on the test pairs; empty where there are none, or where they are of other items."""
    path = workspace.pairs / "pairs.parquet"
    if not path.is_file():
        return {}
    pairs = part(pd.read_parquet(path), split=TEST)
    place = pd.Series(np.arange(len(ids)), index=ids)
    sides = [pairs[side].map(place) for side in PAIR_COLUMNS[:2]]
    if any(side.isna().any() for side in sides):
        return {}
    first, second = (side.to_numpy(dtype=np.int64) for side in sides)
    judged = JudgedPairs(labels_of(pairs), families_of(pairs, workspace))
    how = recipe.evaluate
    return judge_groups(found.groups, first, second, judged, how.bootstrap_samples, how.confidence, recipe.seed)


def _write(
    folder: Path,
    table: pd.DataFrame,
    found: Grouping,
    ids: list[str],
    events: list[Event] | None,
    summary: Mapping[str, Any],
) -> None:
    conflicts = [
        {"item_a": ids[one.first], "item_b": ids[one.second], "score": one.score, "reason": one.reason}
        for one in found.conflicts
    ]
    with atomic_folder(folder) as made:
        groups = pa.Table.from_pandas(table[GROUP_COLUMNS], preserve_index=False)
        pq.write_table(groups, made / f"{GROUPS_FILE}.parquet")
        write_table(made / f"{GROUPS_FILE}.csv", groups.schema, [groups])
        write_csv(made / CONFLICTS_FILE, conflicts, CONFLICT_COLUMNS)
        for suffix in () if events is None else ("parquet", "csv"):
            write_table(made / f"{EVENTS_FILE}.{suffix}", EVENT_SCHEMA, [event_table(events or [])])
        write_json(made / SUMMARY_FILE, summary)


def _report(summary: Mapping[str, Any], terminal: Terminal) -> None:
    terminal.say(
        f"{summary['grouped_items']:,} of {summary['items']:,} items are in {summary['groups']:,} groups of at least "
        f"two items; the largest has {summary['largest_group']}"
    )
    if summary["repeated_pairs"]:
        terminal.warn(f"{summary['repeated_pairs']:,} pairs were there more than once; their scores were averaged")
    if events := summary.get("events"):
        terminal.say("groups: " + ", ".join(f"{count:,} {kind}" for kind, count in events.items()))
    for reason, count in summary["conflicts"].items():
        terminal.say(f"{count:,} matching pairs are in two groups: {reason}")
    for kind, figures in summary["test"].items():
        formatted = ", ".join(f"{name} {figure['value']:.3f}" for name, figure in figures.items())
        terminal.say(f"test pairs, {kind.replace('_', '-')}: {formatted}")
