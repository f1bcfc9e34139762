"""`mlim match --since LAST`: score and group only what differs from an earlier match of the same catalog.

The items are compared by what a model reads of them (texts, pictures, attributes) and by what rules read besides
(families, facts), which every match leaves beside its results: the first decides scores, both decide groups.
An item that arrives displaces others from lists of nearest neighbours, which are kept and brought up to date
(`mlim.matching.neighbour_lists`), so that the candidates are those of a search of everything. The encoder of texts and
the cells of large indexes stay those of the work folder, in a full run and in this one, so that both find the same
candidates. A pair that LAST scored keeps its score where a model reads the same of both items; groups keep theirs where
nothing that they depend on differs (`mlim.matching.earlier`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow.parquet as pq

from mlim.catalog.description import load_description
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import read_json, restore_folder
from mlim.matching.carried_scores import unite_scores, write_unscored
from mlim.matching.earlier import EarlierMatch, EarlierScores, PairNumbers, compare_items
from mlim.matching.item_digests import item_digests
from mlim.matching.model import MatchingModel
from mlim.recipe import Recipe
from mlim.shards.items import open_shards
from mlim.steps.group import GROUPS_FILE
from mlim.steps.score import score_pairs
from mlim.workspace import INDEX_FILE, Workspace

FORMAT: Final = 2  # of what a match leaves for the next one
EARLIER_FORMAT: Final = 1  # items were named by something else then; groups and pairs are the same
ITEMS_FILE, PAIRS_FILE, SUMMARY_FILE = "items.parquet", "pairs.parquet", "summary.json"
SETTINGS: Final = "settings"  # in the summary
MODEL: Final = "model"  # among the settings
NAMING: Final = "format of matches"  # beside the settings
INDEX_COLUMNS: Final = ["id", "shard", "position"]


@dataclass(frozen=True)
class LastMatch:
    """The folder of an earlier match, and which settings (name, then, now) are others now."""

    folder: Path
    data_version: str
    differs: tuple[tuple[str, Any, Any], ...] = ()

    @property
    def same_scores(self) -> bool:
        """Whether pairs of items that did not change score as they did."""
        return all(name not in (MODEL, NAMING) for name, _, _ in self.differs)

    @property
    def same_naming(self) -> bool:
        """Whether what names the content of items can be compared."""
        return all(name != NAMING for name, _, _ in self.differs)

    @property
    def anew(self) -> str:
        """Why everything is grouped anew; empty where it is not."""
        return "; ".join(f"another {name}" for name, _, _ in self.differs)


def deciding_settings(model: MatchingModel, recipe: Recipe, catalog: Path, threshold: float) -> dict[str, Any]:
    """What decides scores and groups besides the items, by dotted names.

    The settings of candidates are not among them: further candidates are scored.
    """
    description = load_description(catalog)
    rules = description.matching.with_families(model.settings.trained_across_families)
    deciding = {
        MODEL: model.sha256,
        "threshold": threshold,
        "match.groups": recipe.match.groups.model_dump(mode="json"),
        "matching": rules.model_dump(mode="json", include={"never", "families"}),
        "values": description.values.model_dump(mode="json"),
    }
    return dict(_flat(json.loads(json.dumps(deciding)), ""))


def _flat(settings: Mapping[str, Any], within: str) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def open_last(folder: Path, settings: Mapping[str, Any], full_if_changed: bool, terminal: Terminal) -> LastMatch | None:
    """The match in `folder`, which was made with the same settings.

    `InputError` that names what differs otherwise. With `full_if_changed` it says so and the settings are noted as
    differing, or, where there is no match that can be read, there is None.
    """
    try:
        found = _read_last(folder, settings)
    except InputError as error:
        if not full_if_changed:
            raise
        terminal.say(f"{error}; everything is matched, and groups get new ids")
        return None
    if found.differs and not full_if_changed:
        name, then, now = found.differs[0]
        raise InputError(
            f"--since {folder}: was made with another {name} ({then}, now {now}); leave --since out, or add "
            "--full-if-changed to match everything anew and keep the ids of groups"
        )
    if found.differs:
        terminal.warn(f"--since {folder}: was made with {found.anew}; everything is grouped anew, and ids stay")
    return found


def _read_last(folder: Path, settings: Mapping[str, Any]) -> LastMatch:
    where = f"--since {folder}"
    restore_folder(folder)  # a match that was killed while it replaced the folder may have left it under another name
    if not (folder / SUMMARY_FILE).is_file():
        raise InputError(f"{where}: holds no matches; name a folder that `mlim match` wrote")
    try:
        summary = read_json(folder / SUMMARY_FILE)
    except ValueError as error:
        raise InputError(f"{where}: its {SUMMARY_FILE} cannot be read ({error}); leave --since out once") from None
    files = (ITEMS_FILE, PAIRS_FILE, f"{GROUPS_FILE}.parquet")
    written = summary.get("format")
    if written not in (EARLIER_FORMAT, FORMAT) or not all((folder / name).is_file() for name in files):
        raise InputError(f"{where}: was written by another version of mlim or is not complete; leave --since out once")
    then: dict[str, Any] = summary[SETTINGS]
    differs = [
        (NAMING, written, FORMAT),
        *((name, then.get(name), settings.get(name)) for name in {**then, **settings}),
    ]
    return LastMatch(folder, summary["data_version"], tuple(one for one in differs if one[1] != one[2]))


def digests_of_items(recipe: Recipe, workspace: Workspace) -> Any:
    """What names the content of every accepted item of a work folder, as a table for `items.parquet`."""
    index = pq.read_table(workspace.valid / INDEX_FILE, columns=INDEX_COLUMNS)
    shards = open_shards(recipe.loader.items or workspace.items, workspace.cache)
    return item_digests(shards, index, workspace.cache)


def compare_with(last: LastMatch, digests: Any) -> EarlierMatch:
    """The earlier match beside the items of now (`digests_of_items`); `InputError` when they have none in common."""
    before, now = pq.read_table(last.folder / ITEMS_FILE).to_pandas(), digests.to_pandas()
    if not last.same_naming:  # which items changed is not known; all pairs are scored
        before = before[["id"]].merge(now, on="id", how="left")
    changes = compare_items(before, now)
    if not last.same_scores:
        changes = replace(changes, rescored=frozenset(now["id"].tolist()))
    if len(before) and len(changes.removed) == len(before):
        raise InputError(
            f"--since {last.folder}: none of its items is in the catalog; name the folder of a match of this catalog"
        )
    numbering = PairNumbers(sorted({*before["id"].tolist(), *now["id"].tolist()}))
    groups: pd.DataFrame = pq.read_table(last.folder / f"{GROUPS_FILE}.parquet", columns=["item", "group"]).to_pandas()
    return EarlierMatch(
        dict(zip(groups["item"].tolist(), groups["group"].tolist(), strict=True)),
        EarlierScores.read(last.folder / PAIRS_FILE, numbering),
        changes,
        last.anew,
    )


def score_what_differs(
    model: MatchingModel,
    candidates: Path,
    scores: Path,
    earlier: EarlierMatch,
    recipe: Recipe,
    workspace: Workspace,
    terminal: Terminal,
    *,
    threshold: float,
    workers: int | None,
) -> dict[str, Any]:
    """Write all candidates with their scores to `scores`, computing those that `earlier` does not have.

    Returns what `score_pairs` does of all candidates, and how many scores were `kept`.
    """
    known = earlier.scores.without(earlier.changes.rescored)
    asked, answered = scores.with_name("unscored.parquet"), scores.with_name("scored.parquet")
    found = write_unscored(candidates, known, asked)
    kept = int((found >= 0).sum())
    terminal.say(f"{kept:,} of {len(found):,} candidates keep the score of the earlier match")
    scored = score_pairs(
        model, asked, answered, recipe, workspace, terminal, threshold=threshold, workers=workers, force=True
    )
    unite_scores(candidates, found, known, answered, threshold, scores)
    matches = int((known.score[found[found >= 0]] >= threshold).sum())
    asked.unlink()
    answered.unlink()
    return {
        **scored,
        "pairs": len(found),
        "scored": scored["scored"] + kept,
        "matches": scored["matches"] + matches,
        "kept": kept,
    }


def since_summary(
    last: LastMatch, earlier: EarlierMatch, scored: Mapping[str, Any], groups: Mapping[str, Any]
) -> dict[str, Any]:
    """What the summary of a match says of the one that it follows."""
    changes = earlier.changes
    return {
        "folder": str(last.folder),
        "data_version": last.data_version,
        "items": {"new": len(changes.new), "changed": len(changes.changed), "removed": len(changes.removed)},
        "scores_kept": scored.get("kept", 0),
        "events": groups["events"],
        "grouped_anew": last.anew,
    }
