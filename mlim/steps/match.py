"""`mlim match`: from a catalog to groups of matching items: candidates, scores, groups, files and a page."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlim.catalog.description import load_description
from mlim.catalog.quarantine import QUARANTINE_FILE
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.evaluation.evidence import families_of
from mlim.evaluation.gate import GateDecision
from mlim.evaluation.promise import Promise, promised_threshold
from mlim.evaluation.resampling import JudgedPairs
from mlim.evaluation.scores import labels_of, part, scores_of
from mlim.files import atomic_folder, check_claim, mark, read_json, write_json
from mlim.matching.catalog_drift import drift_of, read_profile
from mlim.matching.earlier import EarlierMatch
from mlim.matching.explain import Explanation
from mlim.matching.model import MatchingModel
from mlim.matching.pairs_table import write_table
from mlim.offline import NullRun
from mlim.pairs.labels import TEST
from mlim.recipe import Recipe
from mlim.recipe.record import RecipeRecord
from mlim.report.matches.gather import MatchesSettings, gather
from mlim.report.matches.page import write_page
from mlim.steps.candidates import CANDIDATES_FILE, find_candidates
from mlim.steps.evaluate import read_scored
from mlim.steps.explain import explain_pairs
from mlim.steps.group import CONFLICTS_FILE, EVENTS_FILE, GROUPS_FILE, group_items
from mlim.steps.kept_explanations import EXPLANATIONS_FILE, read_explanations, write_explanations
from mlim.steps.score import prepare_items, score_pairs
from mlim.steps.since import (
    FORMAT,
    ITEMS_FILE,
    SETTINGS,
    LastMatch,
    compare_with,
    deciding_settings,
    digests_of_items,
    open_last,
    score_what_differs,
    since_summary,
)
from mlim.tracking import CATALOG_TAG, MATCH_STAGE, StageRun, stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace

SCORES_FILE, PAGE_FILE, SUMMARY_FILE = "scores.parquet", "matches.html", "summary.json"
CANDIDATE_FIGURES: Final = ("items", "candidates", "share_of_all_pairs", "pair_completeness", "recall_at")
TRACKED: Final = ("items", "candidates", "share_of_all_pairs", "scored", "matches", "groups", "grouped_items")
REJECTED: Final[Any] = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


def match(
    model: MatchingModel,
    name: str,
    catalog: Path,
    out: Path,
    recipe: Recipe,
    workspace: Workspace,
    terminal: Terminal,
    *,
    promise: Promise | None = None,
    since: Path | None = None,
    full_if_changed: bool = False,
    workers: int | None = None,
    gate: GateDecision | None = None,
    tracked: RecipeRecord | None = None,
) -> dict[str, Any]:
    """Write pairs, groups and rejected rows (Parquet and CSV), matches.html and summary.json into the folder `out`.

    Returns the summary. The catalog is ingested and validated first where `workspace` has no items yet. A pair matches
    from the model's threshold on, or from the one that keeps `promise`. `name` is what the model is called.
    `since` is an earlier match of this catalog, perhaps `out` itself: the catalog is ingested again, what did not
    change keeps scores and groups, and events.csv says what became of the groups. `full_if_changed`: match everything
    where that match is missing or was made with another model or settings. `gate` is what the quality gate found when
    the model was registered; where it is not known, the evaluation in `workspace` says what it found. A match is a run
    of the pipeline of the recipe `tracked`, opened before the work: a server that goes away later costs nothing.

    `InputError` when catalog, model or target are wrong, labels too few for the promise, or `since` cannot be followed.
    """
    check_claim(out, f"--out {out}")
    threshold, promised = _threshold(model, recipe, workspace, promise)
    settings = deciding_settings(model, recipe, catalog, threshold)
    last = None if since is None else open_last(since, settings, full_if_changed, terminal)
    prepare_items(recipe, catalog, workspace, terminal, again=since is not None)
    digests = digests_of_items(recipe, workspace)
    earlier = None if last is None else compare_with(last, digests)
    across = model.settings.trained_across_families
    with _run_of_match(tracked, workspace) as run:
        candidates = find_candidates(recipe, catalog, workspace, terminal, trained_across_families=across)
        scores, scored = _score(model, earlier, recipe, workspace, terminal, threshold, workers)
        groups = group_items(
            recipe, catalog, workspace, terminal, scores, threshold, trained_across_families=across, earlier=earlier
        )
        summary = {
            "format": FORMAT,
            SETTINGS: settings,
            **_origin(model, name, catalog, recipe, workspace),
            "threshold": threshold,
            "promise": promised,
            "warnings": _warnings(model, gate or _evaluated(model, workspace), recipe, catalog, workspace, terminal),
            "since": None if last is None or earlier is None else since_summary(last, earlier, scored, groups),
            **_figures(candidates, scored, groups),
        }
        with atomic_folder(out) as folder:
            mark(folder)
            pq.write_table(digests, folder / ITEMS_FILE)
            _write_tables(folder, workspace, scores, summary)
            left_out = _write_page(folder, model, recipe, workspace, summary, _explained(last, earlier), terminal)
            write_json(folder / SUMMARY_FILE, {**summary, "images_left_out": left_out})
        _record(run, summary, out)
    return summary


def _origin(model: MatchingModel, name: str, catalog: Path, recipe: Recipe, workspace: Workspace) -> dict[str, str]:
    """What was matched, and with what."""
    return {
        "catalog": str(catalog),
        "model": name,
        "work": str(workspace.root),
        "model_sha256": model.sha256,
        "data_version": read_json(workspace.valid / SUMMARY_FILE)["data_version"],
        "recipe": recipe.name,
    }


def _score(
    model: MatchingModel,
    earlier: EarlierMatch | None,
    recipe: Recipe,
    workspace: Workspace,
    terminal: Terminal,
    threshold: float,
    workers: int | None,
) -> tuple[Path, dict[str, Any]]:
    """The table of all candidates with their scores, and counts; scores that `earlier` has are kept."""
    scores, pairs = workspace.scores / SCORES_FILE, workspace.candidates / CANDIDATES_FILE
    if earlier is None:
        scored = score_pairs(
            model, pairs, scores, recipe, workspace, terminal, threshold=threshold, workers=workers, force=True
        )
    else:
        scored = score_what_differs(
            model, pairs, scores, earlier, recipe, workspace, terminal, threshold=threshold, workers=workers
        )
    write_json(scores.with_name(SUMMARY_FILE), scored)
    return scores, scored


def _figures(candidates: Mapping[str, Any], scored: Mapping[str, Any], groups: Mapping[str, Any]) -> dict[str, Any]:
    """What the steps counted and measured."""
    return {
        **{key: candidates[key] for key in CANDIDATE_FIGURES},
        "completeness": _completeness(candidates),
        **{key: scored[key] for key in ("scored", "not_scored", "matches")},
        **{key: groups[key] for key in ("groups", "grouped_items", "largest_group", "conflicts")},
        "groups_on_test_pairs": groups["test"],
    }


@contextmanager
def _run_of_match(recipe: RecipeRecord | None, workspace: Workspace) -> Iterator[StageRun]:
    """A run in MLflow; nothing where the match is not tracked."""
    if recipe is None:
        yield NullRun()
        return
    origin = lineage(workspace)
    with stage_run(recipe, workspace, MATCH_STAGE, MATCH_STAGE, origin) as run:
        run.tag(CATALOG_TAG, origin.catalog)
        yield run


def _record(run: StageRun, summary: Mapping[str, Any], out: Path) -> None:
    """Keep figures, page, and the groups for a spreadsheet with the run."""
    run.tag("mlim.model_sha256", summary["model_sha256"])
    for name in TRACKED:
        run.metric(name, summary[name])
    for kind, figures in summary["groups_on_test_pairs"].items():
        run.metric(f"{kind}.f1", figures["f1"]["value"])
    for name in (SUMMARY_FILE, PAGE_FILE, f"{GROUPS_FILE}.csv"):
        run.artifact(out / name)


def _threshold(
    model: MatchingModel, recipe: Recipe, workspace: Workspace, promise: Promise | None
) -> tuple[float, str]:
    """The model's threshold, or the one that keeps a promise, with what was promised in words.

    It comes from the test pairs, which the model was not fitted on; `InputError` where these are not here or too few.
    """
    if promise is None:
        return model.threshold, ""
    option = f"--{promise.figure} {promise.target:g}"
    if not (workspace.evaluation / SUMMARY_FILE).is_file():
        raise InputError(
            f"{option}: {workspace.root} has no test pairs of this model; match the catalog that it was evaluated on, "
            "with that --work, or set `evaluate.promise` before `mlim evaluate`, so that its own threshold keeps it"
        )
    if read_json(workspace.evaluation / SUMMARY_FILE)["threshold"] != model.threshold:
        raise InputError(
            f"{option}: the test pairs in {workspace.root} were scored by another model; match the catalog that this "
            "one was evaluated on, with that --work"
        )
    test = part(read_scored(recipe, workspace).of_registered, split=TEST)
    pairs = JudgedPairs(labels_of(test), families_of(test, workspace))
    promised = promised_threshold(pairs, scores_of(test), promise)
    if promised.threshold is None:
        raise InputError(f"{option}: {promised.sentence}")
    return promised.threshold, promised.sentence


def _warnings(
    model: MatchingModel,
    gate: GateDecision,
    recipe: Recipe,
    catalog: Path,
    workspace: Workspace,
    terminal: Terminal,
) -> list[str]:
    """Why the matches may be worth little, a sentence each; said to the terminal too."""
    families = "" if model.settings.trained_across_families else _warning_of_families(catalog)
    found = [*([families] if families else []), *gate.warnings]
    known, present = model.settings.catalog, read_profile(workspace.valid)
    if known is not None and present is not None:
        description = load_description(catalog)
        category = description.values.of(description.columns.category or "")
        found += [each.sentence for each in drift_of(known, present, recipe.validation.drift, category)]
    for sentence in found:
        terminal.warn(sentence)
    return found


def _evaluated(model: MatchingModel, workspace: Workspace) -> GateDecision:
    """What `mlim evaluate` found against a model of this work folder; tests at registration are not in it."""
    path = workspace.evaluation / SUMMARY_FILE
    metrics = read_json(path) if path.is_file() else {}
    same = metrics.get("threshold") == model.threshold
    return GateDecision(objections=metrics.get("objections", ()) if same else ())


def _warning_of_families(catalog: Path) -> str:
    """What a model that has seen no mismatch across families means for a catalog; empty where that was decided."""
    description = load_description(catalog)
    trained = "the model was trained on mismatches inside families alone"
    remedy = "train with mismatches across families (`pairs.negatives`, docs/pairs.md)"
    if description.columns.family is None or description.matching.families == "any":
        return f"{trained}: its scores of items of two families mean nothing; {remedy}"
    if description.matching.families is None:
        return (
            f"{trained}, so items of two families were not compared; to find matches across families, {remedy}; "
            f"`matching.families: within` in {catalog} says that families alone match"
        )
    return ""


def _completeness(candidates: Mapping[str, Any]) -> str:
    """How many known matches are among the candidates, in a sentence; empty where none is known."""
    known = candidates["pair_completeness"]
    split = next((name for name in (TEST, *known) if name in known), None)
    if split is None:
        return ""
    share = known[split]["all"]
    return f"{share['share']:.1%} of {share['matches']:,} known matches ({split}) are among the candidates."


def _write_tables(folder: Path, workspace: Workspace, scores: Path, summary: dict[str, Any]) -> None:
    file = pq.ParquetFile(scores)
    for suffix in ("parquet", "csv"):
        tables = (pa.Table.from_batches([batch]) for batch in file.iter_batches())
        write_table(folder / f"pairs.{suffix}", file.schema_arrow, tables)
    made = [f"{name}.{suffix}" for name in (GROUPS_FILE, EVENTS_FILE) for suffix in ("parquet", "csv")]
    for found in (name for name in (*made, CONFLICTS_FILE) if (workspace.groups / name).is_file()):
        (folder / found).write_bytes((workspace.groups / found).read_bytes())
    rejected = _rejected(workspace)
    for suffix in ("parquet", "csv"):
        write_table(folder / f"rejected.{suffix}", REJECTED, [rejected])
    summary["rejected"] = dict(sorted(Counter(rejected["reason"].to_pylist()).items()))


def _explained(last: LastMatch | None, earlier: EarlierMatch | None) -> dict[tuple[str, str], Explanation]:
    """The reasons that an earlier match of the same settings gave, for pairs that keep their scores."""
    if last is None or earlier is None or last.differs:
        return {}
    return read_explanations(last.folder / EXPLANATIONS_FILE, earlier.changes.rescored)


def _write_page(
    folder: Path,
    model: MatchingModel,
    recipe: Recipe,
    workspace: Workspace,
    summary: dict[str, Any],
    known: Mapping[tuple[str, str], Explanation],
    terminal: Terminal,
) -> int:
    """The page, with reasons for its most doubtful pairs, `known` or found now; returns how many images did not fit."""
    settings = MatchesSettings()
    gathered = gather(summary, workspace, workspace.scores / SCORES_FILE, settings)
    doubtful = [(pair.first.id, pair.second.id) for pair in gathered.pairs[: recipe.match.explained]]
    asked = [pair for pair in doubtful if pair not in known]
    found = explain_pairs(model, asked, recipe, workspace, summary["threshold"], terminal) if asked else {}
    reasons = {pair: found[pair] if pair in found else known[pair] for pair in doubtful}
    write_explanations(folder / EXPLANATIONS_FILE, reasons)
    return write_page(gathered, reasons, folder / PAGE_FILE, settings)


def _rejected(workspace: Workspace) -> Any:
    """The rows of the catalog that became no items, with reasons."""
    paths = [folder / QUARANTINE_FILE for folder in (workspace.items, workspace.valid)]
    tables = [pq.read_table(path, columns=REJECTED.names).cast(REJECTED) for path in paths if path.is_file()]
    return pa.concat_tables([REJECTED.empty_table(), *tables])
