"""Every table of the report as rows of text, and the short table that the command line prints at the end."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from mlim.references import PaperTable
from mlim.report.figures import MODES
from mlim.report.gather import Gathered, Summary, Training, ablation_table, evaluation_metrics
from mlim.report.kit import formats
from mlim.report.kit.blocks import Table
from mlim.report.reported import ReportedRecipe
from mlim.report.scores import Estimate, Score, baseline_scores, judged_score, scorer_scores, variant_scores
from mlim.stacking.scorers import MATCHER
from mlim.workspace import Workspace

NOT_RUN: Final = "not run"
OTHER_DATA: Final = (
    "The column “paper” holds what the paper reports on its own, private data set. The pairs here are other pairs: "
    "compare the order of the variants and the size of the differences, never the figures themselves."
)
CHANCE: Final = "chance: the share of matches"
AUDIT_NOTE: Final = (
    "Ways that know nothing of the product and open no picture: a rule compares one value of the two items, a "
    "classifier learns from the train pairs to weigh words or similarities. A way leaks when it is nearly always right."
)
STACK_NOTE: Final = (
    "Parts are fitted on the train pairs and combined on the validation pairs, which also choose what is registered; "
    "the test pairs only judge. A stack without a part shows what that part adds. Trees: over similarities of texts "
    "and pictures and over agreements; columns: these and the text columns, compared one by one; words: those in both "
    "texts, and in one; agree: the probability that both items have the same value of an attribute, as classifiers "
    "tell it from text and picture."
)
OVERALL: Final = "overall"  # as mlim.training.baselines calls the mean over all modes
REFERENCES_NOTE: Final = (
    "All on the same held-out items with the same masks: what is hidden from the model is hidden from the simple "
    "baselines, which learn from the train split. Unigram and bigram: how often words occur, and after which word. The "
    "picture shrunk shows the mean where a patch is hidden; principal components, as many as the hidden size where "
    "there are enough pictures, give the most likely picture for the visible patches."
)
SHORT_HEADER: Final = ("variant", "PR-AUC", "interval", "difference to main")
SPLITS: Final = ("train", "validation", "test")


def paper_table(recipe: ReportedRecipe, gathered: Gathered, table: PaperTable) -> Table:
    """One of the paper's tables: the variants that it reports, with its figures beside our own."""
    scores = variant_scores(recipe, gathered)
    names = [name for name in recipe.variants if name in table.variants]
    rows = tuple((*_score_cells(recipe, name, scores), formats.score(table.variants[name])) for name in names)
    return Table(
        table.title,
        (*_score_header(recipe), "paper"),
        rows,
        note=OTHER_DATA,
        text_columns=1 + some_saw_more(recipe),
        strong=names.index(recipe.main) if recipe.main in names else None,
    )


def further_variants_table(recipe: ReportedRecipe, gathered: Gathered) -> Table:
    """The variants that the paper does not report: no pre-training, one modality only."""
    scores = variant_scores(recipe, gathered)
    names = [name for name in recipe.variants if not gathered.reference.reports(name)]
    rows = tuple(_score_cells(recipe, name, scores) for name in names)
    title = "Variants that the paper does not report"
    return Table(title, _score_header(recipe), rows, text_columns=1 + some_saw_more(recipe))


def some_saw_more(recipe: ReportedRecipe) -> bool:
    """Whether some variant has seen more than the catalog's texts and pictures, which its tables then say."""
    return any(recipe.also_saw(variant) for variant in recipe.variants.values())


def baselines_table(recipe: ReportedRecipe, gathered: Gathered) -> Table:
    """Simple systems on the same test pairs, with the main model on top."""
    main = judged_score(recipe, gathered.metrics)
    header = ("system", f"PR-AUC {_confidence(recipe)}", "minus the main model", "p-value")
    own = [] if main is None else [(main.label, _interval(main.pr_auc), formats.MISSING, formats.MISSING)]
    others = [
        (score.label, _interval(score.pr_auc), _difference(score.difference), formats.p_value(score.p_value))
        for score in baseline_scores(gathered.metrics).values()
    ]
    return Table("Baselines on the same test pairs", header, (*own, *others), strong=0 if own else None)


def scorers_table(recipe: ReportedRecipe, gathered: Gathered) -> Table:
    """The stack, stacks that leave one part out, and the parts alone, on the same test pairs."""
    registered = (gathered.metrics or {}).get("registered", {}).get("scorer")
    scores = scorer_scores(gathered.metrics)
    header = ("scorer", f"PR-AUC {_confidence(recipe)}", "minus the matcher", "p-value", "registered")
    rows = tuple(
        (
            score.label,
            _interval(score.pr_auc),
            _difference(score.difference),
            formats.p_value(score.p_value),
            "yes" if name == registered else "",
        )
        for name, score in scores.items()
    )
    strong = list(scores).index(registered) if registered in scores else None
    saw = recipe.stack_saw(matcher=False)
    note = STACK_NOTE + (f" The classifiers have also seen {formats.listed(saw)}." if saw else "")
    return Table("The matcher stacked with simple systems", header, rows, note=note, strong=strong)


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


def leaks_table(recipe: ReportedRecipe, gathered: Gathered) -> Table:
    """The model, chance, and the simple baselines of the leak audit on the same test pairs, the best first."""
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


def references_table(training: Training) -> Table:
    """A pre-training's validation losses beside those of simple baselines on the same masks, by masking mode."""
    summary = training.summary
    references, by_mode = summary.get("references", {}), summary.get("final_by_mode", {})
    modes = [mode for mode in MODES if any(f"{loss}/{mode}" in by_mode for loss in references)]
    rows: list[tuple[str, ...]] = []
    for loss, ways in references.items():
        own = {OVERALL: summary["final"].get(loss), **{mode: by_mode.get(f"{loss}/{mode}") for mode in modes}}
        by_loss = sorted(ways.items(), key=lambda way: -way[1][OVERALL])
        for way, values in (("the model", own), *by_loss):
            shown = [formats.score(values.get(mode)) for mode in (OVERALL, *modes)]
            rows.append((loss.upper(), way, *shown))
    header = ("loss", "way", "all modes", *(MODES[mode] for mode in modes))
    title = f"{training.name}, seed {training.seed}: validation losses beside simple baselines"
    return Table(title, header, tuple(rows), note=REFERENCES_NOTE, text_columns=2)


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


def lineage_table(recipe: ReportedRecipe, gathered: Gathered, lineage: Mapping[str, Any]) -> Table:
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
    """PR-AUC of what is registered and of every variant and baseline, header first: the command line's last words."""
    table, metrics = ablation_table(workspace), evaluation_metrics(workspace)
    baselines = [_short_row(score) for score in baseline_scores(metrics).values()]
    if table is not None:
        rows = [_short_row(_short_score(values)) for values in table.values()]
    elif metrics is not None:
        both = metrics["pr_auc"].get("both") or next(iter(metrics["pr_auc"].values()))
        rows = [_short_row(Score(metrics["row"], Estimate(both["value"], both["low"], both["high"])))]
    else:
        rows = []
    return [SHORT_HEADER, *_registered_row(metrics), *rows, *baselines]


def _registered_row(metrics: Summary | None) -> list[tuple[str, ...]]:
    """The stack, where one is registered: the matcher is among the variants."""
    name = (metrics or {}).get("registered", {}).get("scorer")
    found = None if name == MATCHER else scorer_scores(metrics).get(name)
    return [] if found is None else [_short_row(replace(found, label=f"registered: {name}"))]


def _short_score(values: Summary) -> Score:
    difference = Estimate(values["difference"], values["difference_low"], values["difference_high"])
    return Score(values["label"], Estimate(values["pr_auc"], values["low"], values["high"]), difference=difference)


def _short_row(score: Score) -> tuple[str, ...]:
    ends = score.pr_auc
    known = not formats.is_missing(ends.low)
    interval = f"[{formats.score(ends.low)}, {formats.score(ends.high)}]" if known else formats.MISSING
    return (score.label, formats.score(ends.value), interval, _difference(score.difference))


def _score_header(recipe: ReportedRecipe) -> tuple[str, ...]:
    return (
        "model",
        *(["also saw"] if some_saw_more(recipe) else []),
        f"PR-AUC {_confidence(recipe)}",
        "spread (seeds)",
        "text only",
        "picture only",
        "minus the main model",
    )


def _score_cells(recipe: ReportedRecipe, name: str, scores: Mapping[str, Score]) -> tuple[str, ...]:
    variant, score = recipe.variants[name], scores.get(name)
    saw = [formats.listed(recipe.also_saw(variant))] if some_saw_more(recipe) else []
    if score is None:
        return (variant.label, *saw, NOT_RUN, *[formats.MISSING] * 4)
    difference = formats.MISSING if name == recipe.main else _difference(score.difference)
    spread = formats.spread(score.spread, score.seeds)
    alone = (formats.score(score.text), formats.score(score.image))
    return (score.label, *saw, _interval(score.pr_auc), spread, *alone, difference)


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


def _confidence(recipe: ReportedRecipe) -> str:
    return f"[{100 * recipe.evaluate.confidence:g} %]"
