"""The results of the latest pipelines as a Markdown table for the documentation: read from MLflow, never typed.

Every report run stores `results.json` (`collect`); `write_results` takes the latest one for each recipe and catalog,
with what the latest runs of `mlim match`, `mlim complete` and the simulated review found there.
What a page shows lies beside it as JSON: results of another machine's MLflow stay on it when some are measured again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pandas as pd

from mlim import tracking
from mlim.errors import InputError, MlimError
from mlim.files import atomic_file, read_json, write_json
from mlim.recipe.tracking import TrackingConfig
from mlim.references import load_reference
from mlim.report.catalog_results import completions_part, matching_part, promises_part, reviewing_part
from mlim.report.claims import describe_claims, pooled_words, unshown
from mlim.report.comparisons import experiment_lines, figure2_lines, figure2_points
from mlim.report.figures import draw_forest, draw_label_curves
from mlim.report.gather import Gathered
from mlim.report.kit import formats
from mlim.report.kit.markdown import table
from mlim.report.labels import LABELS_AXIS, LABELS_HEADER, LABELS_NOTE, LABELS_TITLE, label_cells
from mlim.report.reported import ReportedRecipe
from mlim.report.scores import baseline_scores, scorer_scores, variant_scores
from mlim.report.task_claims import task_papers
from mlim.report.tasks import task_lines
from mlim.stacking.scorers import STACK, WITHOUT_MATCHER
from mlim.versions import UNKNOWN

RESULTS_FILE: Final = "results.json"
SUMMARY_FILE: Final = "summary.json"
BEGIN: Final = "<!-- mlim results: begin (written by `mlim results`, do not edit) -->"
END: Final = "<!-- mlim results: end -->"
HEADING: Final = "# Results\n\n"
PAPER_NOTE: Final = "“Paper” is what the paper reports on its own, private data set: other pairs, so not comparable."
SEEDS_NOTE: Final = (
    "Variants are means over seeds; baselines are compared with the model of the first seed, which is registered."
)
CLAIMS_HEADER: Final = ("claim of the paper", "where", "verdict", "difference", "corrected p", "seeds needed", "paper")
CLAIM_CELLS: Final = ("claim", "source", "verdict", "difference", "p_value", "needed", "paper")
EFFECTS_NOTE: Final = (
    "Marks with bars: mean over seeds and interval; small rings: single seeds; the band: the margin of “adds nothing”. "
    "How intervals, corrections and power are computed: [statistics.md](statistics.md)."
)
# What the evidence is meant to cover: the words of a catalog's name that say it is there, and what it is.
DATA_SETS: Final = {
    "synthetic": "the embedded synthetic catalog",
    "hm_fashion": "hm_fashion (fashion articles with pictures)",
    "abo": "ABO (Amazon Berkeley Objects)",
}
HEADER: Final = (
    "model",
    "PR-AUC",
    "interval",
    "spread (seeds)",
    "minus the main model",
    "p-value",
    "paper, Table 1",
    "paper, Table 2",
    "time for one seed",
)

# Not in earlier ones.
TASKS, PAPERS, CURVE, MATCHING, COMPLETIONS = "tasks", "papers", "label_curve", "matching", "completions"
EXPERIMENTS, FIGURE2, PROMISES, REVIEWING = "experiments", "figure2", "promises", "reviewing"
FOUND_STAGES: Final = {  # whose figures are added to a report's
    MATCHING: tracking.MATCH_STAGE,
    COMPLETIONS: tracking.COMPLETE_STAGE,
    REVIEWING: tracking.REVIEW_STAGE,
}
SHOWN: Final = {"recipe", "catalog", "rows", "baselines", "claims"}  # by these a result is known

Store = Any  # MLflow's client and run: only the tracking room may name its types
Run = Any
Key = tuple[str, str, str]  # recipe, catalog, attribute


def collect(recipe: ReportedRecipe, gathered: Gathered, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one work folder that `write_results` shows, as JSON-able values."""
    ingest, validation, metrics = gathered.ingest or {}, gathered.validation or {}, gathered.metrics or {}
    rows = [
        {
            **_plain(score),
            "also_saw": recipe.also_saw(recipe.variants[name]),
            "table1": gathered.reference.figure("table1", name),
            "table2": gathered.reference.figure("table2", name),
            "seconds": _seconds_per_seed(recipe, gathered, name),
        }
        for name, score in variant_scores(recipe, gathered).items()
    ]
    # of the scorers the combinations: the matcher is a row already, the other parts are no results
    combined = [
        {**_plain(score), "also_saw": recipe.stack_saw(matcher=name != WITHOUT_MATCHER)}
        for name, score in scorer_scores(gathered.metrics).items()
        if name.startswith(STACK)
    ]
    return {
        "recipe": recipe.name,
        "catalog": ingest.get("catalog", UNKNOWN),
        "confidence": recipe.evaluate.confidence,
        "seeds": list(recipe.seeds),
        "commit": lineage["commit"],
        "dirty": lineage["dirty"],
        "data_version": lineage["data_version"],
        "hardware": sorted({str(one.summary["hardware"]) for one in gathered.trainings if "hardware" in one.summary}),
        "rows_in": ingest.get("rows_in"),
        "ingested": ingest.get("ingested"),
        "accepted": validation.get("accepted"),
        "quarantined": {**ingest.get("quarantined", {}), **validation.get("quarantined", {})},
        "pairs": 0 if (gathered.pairs or {}).get("pairs") == 0 else metrics.get("pairs"),
        "prevalence": metrics.get("prevalence"),
        "ceilings": (gathered.pairs or {}).get("ceilings"),
        "rows": rows,
        "baselines": [_plain(score) for score in baseline_scores(gathered.metrics).values()],
        "registered": (metrics.get("registered") or {}).get("scorer"),
        "scorers": combined,
        "claims": [_plain(claim) for claim in describe_claims(recipe, gathered)],
        PROMISES: metrics.get("kept_promises", []),
        TASKS: [{"task": task, **table} for task, table in gathered.task_tables.items() if table is not None],
        PAPERS: [_plain(paper) for paper in task_papers(recipe, gathered)],
        CURVE: [point.plain() for point in gathered.label_curve],
        EXPERIMENTS: list(gathered.experiments),
        FIGURE2: figure2_points(gathered.probe),
        "pooled": pooled_words(recipe, gathered),
        "unshown": unshown(recipe, gathered),
    }


def _seconds_per_seed(recipe: ReportedRecipe, gathered: Gathered, variant: str) -> float | None:
    """What one model of a variant took: its fine-tuning and the pre-training that it starts from, alone or not."""
    start = recipe.variants[variant].pretraining
    before = {one.seed: one.summary["seconds"] for one in gathered.pretrainings if one.name == start}
    spent = [
        one.summary["seconds"] + before.get(one.seed, 0.0)
        for one in gathered.finetunings
        if one.name == variant and "seconds" in one.summary
    ]
    return float(np.mean(spent)) if spent else None


def write_results(settings: TrackingConfig, out: Path, experiment: str | None = None) -> int:
    """Replace the marked block of `out` (made when it is missing) by the latest results of every recipe and catalog.

    Reads the store of `settings` and `experiment` (default: theirs); results of other recipes and catalogs
    that the page already shows are kept, in the JSON beside it (OUT with the ending .json). Gives the number of results
    written; `InputError` when none is tracked, or when `out` exists without the marked block.
    """
    name = experiment or settings.experiment
    before, after = _around(out)
    tracking.check_server(settings)
    store = tracking.client(settings)
    with tracking.as_mlim_error(tracking.tracking_uri(settings)):
        reports = _latest(store, name, tracking.REPORT_STAGE)
        if not reports:
            raise InputError(f"experiment `{name}` holds no finished report; run `mlim run` or `mlim report` first")
        found = {shown: _latest(store, name, stage) for shown, stage in FOUND_STAGES.items()}
        tracked = []
        for key, run in reports:
            of_key = {
                shown: [_json_of(store, one, SUMMARY_FILE) for at, one in runs if at[:2] == key[:2]]
                for shown, runs in found.items()
            }
            single = {shown: next(iter(of_key[shown]), None) for shown in (MATCHING, REVIEWING)}
            tracked.append({**_json_of(store, run, RESULTS_FILE), **of_key, **single})
    data = out.with_suffix(".json")
    results = _with_kept(tracked, data)
    parts = [*_across(results, out), *_label_curves(results, out), *map(_part, results), _unshown_part(results)]
    write_json(data, results)
    with atomic_file(out) as temporary:
        temporary.write_text("\n".join([f"{before}{BEGIN}\n", *parts, f"{END}{after}"]), encoding="utf-8")
    return len(results)


def _with_kept(tracked: Sequence[Mapping[str, Any]], data: Path) -> list[Mapping[str, Any]]:
    """The tracked results and, of other recipes and catalogs, those in the file `data`, in alphabetical order."""
    latest = {(each["recipe"], each["catalog"]): each for each in (*_kept(data), *tracked)}
    return [latest[key] for key in sorted(latest)]


def _kept(data: Path) -> Sequence[Mapping[str, Any]]:
    """What an earlier page showed; `InputError` when the file in its place is something else."""
    if not data.exists():
        return ()
    try:
        kept = read_json(data)
    except (OSError, ValueError, RecursionError):
        kept = None
    if not isinstance(kept, list) or not all(isinstance(each, dict) and each.keys() >= SHOWN for each in kept):
        raise InputError(
            f"{data}: is not what `mlim results` keeps beside its page; give another --out, or move that file away"
        )
    return kept


def _across(results: Sequence[Mapping[str, Any]], out: Path) -> list[str]:
    """The effects of all results in one plot beside `out`; nothing where none was measured."""
    effects = [
        {**effect, "group": f"{_catalog_name(each)}, {each['recipe']}"}
        for each in results
        for claim in each["claims"]
        for effect in claim["effects"]
    ]
    if not effects:
        return []
    rows = pd.DataFrame(effects)
    rows = rows.iloc[np.argsort(pd.factorize(rows["label"])[0], kind="stable")].reset_index(drop=True)
    path = out.with_name(f"{out.stem}-effects.svg")
    draw_forest(rows, path, load_reference().margin, ground=True)
    return [f"## Effects\n\n![How large the effects are, with their intervals]({path.name})\n\n{EFFECTS_NOTE}\n"]


def _label_curves(results: Sequence[Mapping[str, Any]], out: Path) -> list[str]:
    """The label-efficiency curves of all results in one plot beside `out`, with their figures; nothing without any."""
    curves = [(_sized_name(each), points) for each in results if (points := each.get(CURVE))]
    if not curves:
        return []
    path = out.with_name(f"{out.stem}-labels.svg")
    draw_label_curves(curves, path, LABELS_AXIS, ground=True)
    tables = [
        line for title, points in curves for line in (f"{title}:", "", *table(LABELS_HEADER, label_cells(points)))
    ]
    return [f"## {LABELS_TITLE}\n\n![PR-AUC by the number of pairs]({path.name})\n\n{LABELS_NOTE}\n", *tables]


def _sized_name(results: Mapping[str, Any]) -> str:
    return f"{_catalog_name(results)}, {results['recipe']}, {formats.count(results['accepted'])} items"


def _catalog_name(results: Mapping[str, Any]) -> str:
    """What a person calls a catalog: the embedded one, which alone knows its ceilings, by its kind; else its file."""
    return "synthetic" if results["ceilings"] else Path(results["catalog"]).stem


def _unshown_part(results: Sequence[Mapping[str, Any]]) -> str:
    """The data sets that no result is of."""
    names = " ".join(_catalog_name(each) for each in results)
    absent = [what for word, what in DATA_SETS.items() if word not in names]
    return f"## Data that are not shown\n\nNo result here is of {'; of '.join(absent)}.\n" if absent else ""


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass as JSON: NaN, which JSON lacks, becomes null."""
    return {key: _without_nan(inner) for key, inner in asdict(value).items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and formats.is_missing(value) else value


def _around(out: Path) -> tuple[str, str]:
    """What stands before and after the marked block of a file."""
    if not out.exists():
        return HEADING, "\n"
    text = out.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{out}: has no block from `{BEGIN}` to `{END}`; add the two lines or give another file")
    return before, after


def _latest(store: Store, experiment: str, stage: str) -> list[tuple[Key, Run]]:
    """The latest finished run of a stage for each recipe, catalog and attribute, in alphabetical order."""
    found = store.get_experiment_by_name(experiment)
    if found is None:
        return []
    finished = f"tags.`{tracking.TAG}stage` = '{stage}' and attributes.status = '{tracking.FINISHED}'"
    latest: dict[Key, Run] = {}
    for run in tracking.all_runs(store, [found.experiment_id], finished):
        tags = run.data.tags
        key = (
            tags[f"{tracking.TAG}recipe"],
            tags.get(tracking.CATALOG_TAG, UNKNOWN),
            tags.get(tracking.ATTRIBUTE_TAG, ""),
        )
        latest.setdefault(key, run)
    return sorted(latest.items(), key=itemgetter(0))


def _json_of(store: Store, run: Run, name: str) -> Mapping[str, Any]:
    """An artifact of a run; `MlimError` when it cannot be fetched."""
    with TemporaryDirectory() as folder:
        try:
            found: Mapping[str, Any] = read_json(Path(store.download_artifacts(run.info.run_id, name, folder)))
        except OSError as error:
            raise MlimError(f"run {run.info.run_id}: {name} cannot be fetched ({error})") from error
    return found


def _part(results: Mapping[str, Any]) -> str:
    matches = results["pairs"] != 0  # 0: the catalog has none, so nothing that the paper reports can be measured
    lines = [
        f"## Recipe `{results['recipe']}` on `{results['catalog']}`",
        "",
        *_facts(results),
        "",
        *(_variants(results) if matches else ()),
        *task_lines(results.get(TASKS, ()), results.get(PAPERS, ())),
        *_claims(results),
        *figure2_lines(results.get(FIGURE2, {})),
        *experiment_lines(results.get(EXPERIMENTS, ())),
        *(matching_part(results[MATCHING]) if results.get(MATCHING) else ()),
        *promises_part(results.get(PROMISES, ())),
        *(reviewing_part(results[REVIEWING]) if results.get(REVIEWING) else ()),
        *completions_part(results.get(COMPLETIONS, ())),
    ]
    return "\n".join(lines)


def _variants(results: Mapping[str, Any]) -> list[str]:
    note = f"{PAPER_NOTE} {SEEDS_NOTE}" if len(results["seeds"]) > 1 else PAPER_NOTE
    return [*_markdown_table(results), note, ""]


def _claims(results: Mapping[str, Any]) -> list[str]:
    """The claims that were measured as a table and in words, and what is not shown."""
    measured = [claim for claim in results["claims"] if claim["verdict"] != "not measured"]
    return [
        *_claims_table(measured),
        *_listed("In words:", [*(claim["sentence"] for claim in measured), *results.get("pooled", ())]),
        *_listed("What is not shown:", results["unshown"] if results["pairs"] != 0 else ()),
    ]


def _claims_table(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    if not measured:
        return []
    rows = [[claim.get(name, formats.MISSING) for name in CLAIM_CELLS] for claim in measured]
    return table(CLAIMS_HEADER, rows)


def _listed(title: str, sentences: Sequence[str]) -> list[str]:
    return [title, "", *(f"- {sentence}" for sentence in sentences), ""] if sentences else []


def _facts(results: Mapping[str, Any]) -> list[str]:
    reasons = ", ".join(f"{reason} {formats.count(number)}" for reason, number in results["quarantined"].items())
    changes = " with uncommitted changes" if results["dirty"] else ""
    chance = formats.score(results["prevalence"])
    pairs = f"test pairs: {formats.count(results['pairs'])}, chance (prevalence) {chance}; "
    return [
        f"- data: {formats.count(results['rows_in'])} rows in, {formats.count(results['ingested'])} ingested, "
        f"{formats.count(results['accepted'])} accepted; quarantined: {reasons or 'none'}",
        f"- {'' if results['pairs'] == 0 else pairs}seeds {', '.join(map(str, results['seeds']))}",
        *formats.ceilings(results["ceilings"], "- the best possible readers reach {}"),
        f"- commit `{results['commit']}`{changes}, data version `{results['data_version']}`",
        f"- trained on {'; '.join(results['hardware']) or formats.MISSING}",
    ]


def _markdown_table(results: Mapping[str, Any]) -> list[str]:
    header = [name if name != "interval" else f"{100 * results['confidence']:g} % interval" for name in HEADER]
    scores = [*results["rows"], *results.get("scorers", ()), *results["baselines"]]
    more = any(score.get("also_saw") for score in scores)
    return table([header[0], *(["also saw"] if more else []), *header[1:]], [_cells(score, more) for score in scores])


def _cells(score: Mapping[str, Any], more: bool) -> list[str]:
    ends, apart = score["pr_auc"], score["difference"] or {"value": None, "low": None, "high": None}
    return [
        score["label"],
        *([formats.listed(score.get("also_saw", ()))] if more else []),
        formats.score(ends["value"]),
        formats.ends(ends["low"], ends["high"]),
        formats.spread(score.get("spread"), score.get("seeds", 1)),
        formats.signed_interval(**apart),
        formats.p_value(score["p_value"]),
        formats.score(score.get("table1")),
        formats.score(score.get("table2")),
        formats.MISSING if score.get("seconds") is None else formats.duration(score["seconds"]),
    ]
