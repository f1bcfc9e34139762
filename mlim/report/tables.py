"""Every table of the report as rows of text, and the short table that the command line prints at the end."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlim.recipe import Recipe, Row
from mlim.report import formats
from mlim.report.blocks import Table
from mlim.report.gather import Gathered, Summary, Training, ablation_table, evaluation_metrics
from mlim.report.scores import Estimate, Score, baseline_scores, judged_score, row_scores
from mlim.workspace import Workspace

NOT_RUN: Final = "not run"
OTHER_DATA: Final = (
    "The column “paper” holds what the paper reports on its own, private data set. The pairs here are other pairs: "
    "compare the order of the rows and the size of the differences, never the figures themselves."
)
CHANCE: Final = "chance: the share of matches"
AUDIT_NOTE: Final = (
    "Ways that know nothing of the product and open no picture: a rule compares one value of the two items, a "
    "classifier learns from the train pairs to weigh words or similarities. A way leaks when it is nearly always right."
)
SHORT_HEADER: Final = ("row", "PR-AUC", "interval", "difference to main")
SPLITS: Final = ("train", "validation", "test")

PaperFigure = Callable[[Row], float | None]


def paper_table(recipe: Recipe, gathered: Gathered, title: str, figure: PaperFigure) -> Table:
    """One of the paper's tables: the rows for which `figure` knows the paper's value, beside our own values."""
    scores = row_scores(recipe, gathered)
    names = [name for name, row in recipe.rows.items() if figure(row) is not None]
    rows = tuple((*_score_cells(recipe, name, scores), formats.score(figure(recipe.rows[name]))) for name in names)
    return Table(
        title,
        (*_score_header(recipe), "paper"),
        rows,
        note=OTHER_DATA,
        strong=names.index(recipe.main) if recipe.main in names else None,
    )


def further_rows_table(recipe: Recipe, gathered: Gathered) -> Table:
    """The rows that the paper does not report: no pre-training, one modality only."""
    scores = row_scores(recipe, gathered)
    names = [name for name, row in recipe.rows.items() if row.paper_table1 is None and row.paper_table2 is None]
    rows = tuple(_score_cells(recipe, name, scores) for name in names)
    return Table("Rows that the paper does not report", _score_header(recipe), rows)


def baselines_table(recipe: Recipe, gathered: Gathered) -> Table:
    """Simple systems on the same test pairs, with the main model on top."""
    main = judged_score(recipe, gathered.metrics)
    header = ("system", f"PR-AUC {_confidence(recipe)}", "minus the main model", "p-value")
    own = [] if main is None else [(main.label, _interval(main.pr_auc), formats.MISSING, formats.MISSING)]
    others = [
        (score.label, _interval(score.pr_auc), _difference(score.difference), formats.p_value(score.p_value))
        for score in baseline_scores(gathered.metrics).values()
    ]
    return Table("Baselines on the same test pairs", header, (*own, *others), strong=0 if own else None)


def reasons_table(gathered: Gathered) -> Table:
    """How many rows were quarantined, by stage and reason, most frequent first."""
    named: Counter[tuple[str, str]] = Counter()
    for stage, summary in (("ingest", gathered.ingest), ("validate", gathered.validation)):
        for reason, number in (summary or {}).get("quarantined", {}).items():
            named[stage, reason] += number
    rows = tuple((stage, reason, formats.count(number)) for (stage, reason), number in named.most_common())
    return Table("Quarantined rows by reason", ("stage", "reason", "rows"), rows, text_columns=2)


def expectations_table(gathered: Gathered) -> Table:
    """The expectations on items and pairs that were checked, and whether they hold."""
    checked = [summary.get("expectations", []) for summary in (gathered.validation, gathered.pairs) if summary]
    rows = tuple(
        (
            str(found["suite"]),
            str(found["expectation"]),
            str(found.get("column") or "whole table"),
            "holds" if found["success"] else "fails",
            formats.count(found.get("unexpected")),
        )
        for expectations in checked
        for found in expectations
    )
    return Table("Expectations", ("suite", "expectation", "column", "result", "unexpected"), rows, text_columns=4)


def pairs_table(pairs: Summary) -> Table:
    """How many pairs each split has, and the share of matches in it."""
    counts = pairs["counts"]
    rows = tuple(_pair_counts(split, counts[split]) for split in SPLITS if split in counts)
    return Table("Pairs", ("split", "pairs", "matches", "mismatches", "share of matches"), rows)


def leaks_table(recipe: Recipe, gathered: Gathered) -> Table:
    """The model, chance, and the simple ways of the leak audit on the same test pairs, the best first."""
    main = judged_score(recipe, gathered.metrics)
    nothing = [formats.MISSING] * 3
    own = [] if main is None else [(main.label, formats.score(main.pr_auc.value), *nothing)]
    audit = [
        (
            str(entry["rule"]),
            formats.score(entry["pr_auc"]),
            formats.score(entry["accuracy"]),
            formats.score(entry["majority"]),
            "leaks" if entry["leaks"] else "no leak",
        )
        for entry in leak_audit(gathered.pairs)
    ]
    chance = [(CHANCE, formats.score((gathered.pairs or {}).get("prevalence")), *nothing)]
    header = ("way", "PR-AUC on the test pairs", "accuracy", "accuracy of the majority", "verdict")
    rows = (*own, *chance, *audit) if audit else ()
    return Table("Leak audit: the bar the model must beat", header, rows, note=AUDIT_NOTE, strong=0 if own else None)


def leak_audit(pairs: Summary | None) -> list[Mapping[str, Any]]:
    """The entries of the leak audit, the highest PR-AUC first."""
    return sorted((pairs or {}).get("leak_audit", ()), key=lambda entry: (-entry["pr_auc"], entry["rule"]))


def trainings_table(title: str, trainings: tuple[Training, ...]) -> Table:
    """What each training cost and where it ended."""
    header = ("name", "seed", "steps", "time", "samples", "final validation")
    rows = tuple(
        (
            training.name,
            str(training.seed),
            formats.count(training.summary.get("steps")),
            formats.duration(training.summary.get("seconds")),
            formats.rate(training.summary.get("samples_per_second")),
            _final(training.summary),
        )
        for training in trainings
    )
    return Table(title, header, rows)


def runs_table(gathered: Gathered) -> Table:
    """The MLflow run of every stage that made one."""
    stages: list[tuple[str, Summary | None]] = [
        ("ingest", gathered.ingest),
        ("validate", gathered.validation),
        ("pairs", gathered.pairs),
        *((f"{each.stage} {each.name}, seed {each.seed}", each.summary) for each in gathered.trainings),
        ("evaluate", gathered.metrics),
        ("ablate", gathered.ablation_summary),
        ("probe", gathered.probe),
    ]
    rows = tuple((stage, str(summary["run_id"])) for stage, summary in stages if summary and summary.get("run_id"))
    return Table("MLflow runs", ("stage", "run id"), rows, text_columns=2)


def lineage_table(recipe: Recipe, gathered: Gathered, lineage: Mapping[str, Any]) -> Table:
    """Which code, data and recipe the results came from."""
    facts = {
        "recipe": recipe.name,
        "catalog": (gathered.ingest or {}).get("catalog"),
        "commit": lineage.get("commit"),
        "uncommitted changes": "yes" if lineage.get("dirty") else "no",
        "data version": lineage.get("data_version"),
        "items": (gathered.ingest or {}).get("data_version"),
        "validation": lineage.get("validation"),
        "test pairs": (gathered.pairs or {}).get("test_pairs_sha256"),
        "seeds": ", ".join(map(str, recipe.seeds)),
    }
    rows = tuple((name, str(value) if value else formats.MISSING) for name, value in facts.items())
    return Table("Where these results come from", ("what", "value"), rows, text_columns=2)


def short_table(workspace: Workspace) -> list[tuple[str, ...]]:
    """PR-AUC of every model and baseline of a work folder, header first: what the command line prints at the end."""
    table, metrics = ablation_table(workspace), evaluation_metrics(workspace)
    baselines = [_short_row(score) for score in baseline_scores(metrics).values()]
    if table is not None:
        rows = [_short_row(_short_score(values)) for values in table.values()]
    elif metrics is not None:
        both = metrics["pr_auc"].get("both") or next(iter(metrics["pr_auc"].values()))
        rows = [_short_row(Score(metrics["row"], Estimate(both["value"], both["low"], both["high"])))]
    else:
        rows = []
    return [SHORT_HEADER, *rows, *baselines]


def _short_score(values: Summary) -> Score:
    difference = Estimate(values["difference"], values["difference_low"], values["difference_high"])
    return Score(values["label"], Estimate(values["pr_auc"], values["low"], values["high"]), difference=difference)


def _short_row(score: Score) -> tuple[str, ...]:
    ends = score.pr_auc
    interval = f"[{formats.score(ends.low)}, {formats.score(ends.high)}]"
    return (score.label, formats.score(ends.value), interval, _difference(score.difference))


def _score_header(recipe: Recipe) -> tuple[str, ...]:
    return (
        "model",
        f"PR-AUC {_confidence(recipe)}",
        "spread (seeds)",
        "text only",
        "picture only",
        "minus the main model",
    )


def _score_cells(recipe: Recipe, name: str, scores: Mapping[str, Score]) -> tuple[str, ...]:
    score = scores.get(name)
    if score is None:
        return (recipe.rows[name].label, NOT_RUN, *[formats.MISSING] * 4)
    difference = formats.MISSING if name == recipe.main else _difference(score.difference)
    spread = formats.spread(score.spread, score.seeds)
    alone = (formats.score(score.text), formats.score(score.image))
    return (score.label, _interval(score.pr_auc), spread, *alone, difference)


def _pair_counts(split: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    matches, mismatches = counts.get("1", 0), counts.get("0", 0)
    both = matches + mismatches
    share = formats.percent(matches / both if both else None)
    return (split, formats.count(both), formats.count(matches), formats.count(mismatches), share)


def _final(summary: Summary) -> str:
    if "validation_pr_auc" in summary:
        return f"PR-AUC {formats.score(summary['validation_pr_auc'])}"
    final = summary.get("final", {})
    return ", ".join(f"{name.upper()} {formats.score(value)}" for name, value in final.items()) or formats.MISSING


def _interval(estimate: Estimate) -> str:
    return formats.interval(estimate.value, estimate.low, estimate.high)


def _difference(estimate: Estimate | None) -> str:
    return formats.MISSING if estimate is None else formats.signed_interval(estimate.value, estimate.low, estimate.high)


def _confidence(recipe: Recipe) -> str:
    return f"[{100 * recipe.evaluate.confidence:g} %]"
